"""What a task asks of the cluster: nodes, resources, identity, environment, and what happens when it fails."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from kfp import kubernetes
from kfp.dsl import PipelineTask
from sppo_components.images import GUESTS, image

from sppo.process.supervisor import RETRIES
from sppo.process.surroundings import MLFLOW
from sppo.training.workers.trainjob.spec import QUEUE_LABEL, RUN_LABEL, USER
from sppo_pipelines.profile import STAGES, Profile, Resources

CACHE = "/cache"
"""Where the images keep downloaded models; a volume is mounted there if the profile names one."""
SETTINGS = (
    "MLFLOW_TRACKING_URI",
    "SPPO_KFP_URL",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "SPPO_RULES",
    "SPPO_JUDGE_HOSTS",
)
"""Keys of the ConfigMap."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "SPPO_JUDGE_KEY",
)
"""Keys of the Secret."""


LONGEST_WAIT = 24 * 90
"""Hours that the pods of a task may wait in a queue, all attempts together."""


class Placement(NamedTuple):
    """A pool's runtime parameters, as channels of the pipeline."""

    node_selector: Any
    tolerations: Any
    gpus: Any


def place(task: PipelineTask, placement: Placement) -> None:
    """Put a task on a pool's nodes, chosen when the run is submitted."""
    kubernetes.add_node_selector_json(task, placement.node_selector)
    kubernetes.add_toleration_json(task, placement.tolerations)
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(placement.gpus)
    task.register_pipeline_channels([placement.gpus])  # else a loop around the task does not get it


def enqueue(task: PipelineTask, profile: Profile) -> None:
    """Let Kueue admit the task's pod, if the profile names a queue."""
    if profile.queue:
        kubernetes.add_pod_label(task, QUEUE_LABEL, profile.queue)


def image_of(stage: str, profile: Profile) -> str:
    """The image of a stage: the profile's, or else the released one."""
    host = GUESTS.get(stage, stage)
    return profile.images.get(stage) or profile.images.get(host) or image(host)


def tell_run(task: PipelineTask) -> None:
    """Let a task know the run's id in Kubeflow Pipelines."""
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")


def tell_origin(task: PipelineTask, profile: Profile) -> None:
    """Let a task know what MLflow is to be told of the run: its id in Kubeflow Pipelines, and every stage's image."""
    tell_run(task)
    images = {stage: image_of(stage, profile) for stage in STAGES if stage not in GUESTS}
    task.set_env_variable("SPPO_IMAGES", json.dumps(images))


def variables(keys: Iterable[str]) -> dict[str, str]:
    """The variable of a pod that each key becomes: its own name, but for MLflow's.

    Kubeflow's plugin for MLflow sets those to other values, and a pod with a variable that has two is refused. A stage
    gives them their names back where it starts (`sppo/process/surroundings.py`).
    """
    return {key: f"SPPO_{key}" if key in MLFLOW else key for key in keys}


def harden(task: PipelineTask, stage: str, profile: Profile) -> None:
    """Resources, identity, environment, time limit, retries and caching of a task.

    Caching is off: a stage finds its own committed outputs in the store, checks them, and returns in seconds, while
    KFP's cache would return a URI without asking whether the weights behind it still exist.
    """
    resources: Resources = getattr(profile.stages, stage)
    task.set_container_image(image_of(stage, profile))
    task.set_caching_options(False)
    kubernetes.add_pod_label(task, *RUN_LABEL)
    task.set_cpu_request(resources.cpu).set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.shared_memory:
        kubernetes.empty_dir_mount(
            task, "shared-memory", "/dev/shm", medium="Memory", size_limit=resources.shared_memory
        )
    # KFP adds the rest of the restricted profile: no privilege escalation, no capabilities, the default seccomp.
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.use_config_map_as_env(task, profile.settings, variables(SETTINGS), optional=True)
    kubernetes.use_secret_as_env(task, profile.credentials, variables(CREDENTIALS), optional=True)
    if profile.model_cache:
        kubernetes.mount_pvc(task, profile.model_cache, CACHE)
    kubernetes.set_timeout(task, resources.hours * 3600)
    if profile.retries:
        task.set_env_variable(RETRIES, str(profile.retries))
        # Argo counts the limit from the first attempt's start, so it must cover every attempt, and the wait in a queue.
        budget = resources.hours * (profile.retries + 1) + (LONGEST_WAIT if profile.queue else 0)
        task.set_retry(profile.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration=f"{budget}h")
