"""Where a run comes from: the commit, and in a cluster the images and the run of Kubeflow Pipelines."""

from __future__ import annotations

import json
import os

from sppo.revision import source_revision


def origin_tags() -> dict[str, str]:
    """Tags of the run in MLflow, from the environment that the pipeline and the images give.

    Only a pod has `KFP_RUN_ID`: under the local runner, which starts no container, the images of `SPPO_IMAGES` are not
    what runs.
    """
    tags = {"mlflow.source.git.commit": source_revision()}
    run = os.environ.get("KFP_RUN_ID")
    if not run:
        return tags
    tags["sppo.kfp_run_id"] = run
    images = json.loads(os.environ.get("SPPO_IMAGES", "{}"))
    tags |= {f"sppo.image.{stage}": image for stage, image in images.items()}
    page = os.environ.get("SPPO_KFP_URL")
    if page:
        url = f"{page.rstrip('/')}/#/runs/details/{run}"
        tags |= {"sppo.kfp_run_url": url, "mlflow.source.name": url, "mlflow.source.type": "JOB"}
    return tags
