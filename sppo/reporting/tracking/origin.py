"""Where a run comes from: the commit, and in a cluster the images and the run of Kubeflow Pipelines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from sppo.reporting.tracking.track import without_password

_ROOT = Path(__file__).parents[3]


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
        url = f"{without_password(page).rstrip('/')}/#/runs/details/{run}"
        tags |= {"sppo.kfp_run_url": url, "mlflow.source.name": url, "mlflow.source.type": "JOB"}
    return tags


def source_revision() -> str:
    """The commit that an image was built from, or that is checked out here; "-dirty" where the files differ from it.

    Returns:
        "unknown" where neither is known.
    """
    built = os.environ.get("SPPO_REVISION")
    if built:
        return built
    if shutil.which("git") is None or not (_ROOT / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
