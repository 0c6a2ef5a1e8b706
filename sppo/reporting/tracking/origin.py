"""Where a run comes from: who played it with what, the commit, in a cluster the images and Kubeflow's run."""

from __future__ import annotations

import getpass
import json
import os

from sppo.errors import without_password
from sppo.reporting.revision import source_revision


def origin_tags() -> dict[str, str]:
    """Tags of the run in MLflow, from the environment that the pipeline and the images give.

    Only a pod has `KFP_RUN_ID`: under the local runner, which starts no container, the images of `SPPO_IMAGES` are not
    what runs.
    """
    tags = {
        "mlflow.source.git.commit": source_revision(),
        "mlflow.source.name": "sppo run",
        "mlflow.source.type": "LOCAL",
    }
    run = os.environ.get("KFP_RUN_ID")
    if not run:
        return tags
    tags |= {"sppo.kfp_run_id": run, "mlflow.source.name": f"Kubeflow run {run}", "mlflow.source.type": "JOB"}
    images = json.loads(os.environ.get("SPPO_IMAGES", "{}"))
    tags |= {f"sppo.image.{stage}": image for stage, image in images.items()}
    page = os.environ.get("SPPO_KFP_URL")
    if page:
        url = f"{without_password(page).rstrip('/')}/#/runs/details/{run}"
        tags |= {"sppo.kfp_run_url": url, "mlflow.source.name": url}
    return tags


def user() -> str:
    """Who plays the run: as MLflow's server knows them, else as this machine does."""
    known = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if known:
        return known
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user of a container, who has a number only
        return str(os.getuid())
