"""What a run's stages put out, and what its pods and its course are held against: the profile and the parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sppo_components.images import GUESTS, image
from sppo_pipelines.names import GATE_FAILED, GATE_PASSED
from sppo_pipelines.placement import CACHE, CREDENTIALS, SETTINGS
from sppo_pipelines.profile import Pool, Profile

from sppo.process.supervisor import RETRIES
from sppo.training.workers.trainjob.spec import QUEUE_LABEL, RUN_LABEL, USER
from tests.backend.metadata import groups
from tests.backend.player import Run
from tests.backend.plugin import SECRET, MLflowPlugin
from tests.backend.pods import Pod

POOLS = {
    "generate": "generation",
    "evaluate": "generation",
    "bench": "generation",
    "rank": "ranking",
    "train": "training",
    "launch": "training",
}
"""Which pool's pods a stage has; the others go anywhere."""
RENAMED = {
    name: f"SPPO_{name}" for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
}
"""Keys of the ConfigMap and the Secret whose variables have another name."""


class Course(NamedTuple):
    """What the stages of a run decide.

    Attributes:
        iterations: that its gates let it play.
        shards: of each.
        gate: passed or failed.
        benchmarks: yes or no.
    """

    iterations: int = 1
    shards: int = 1
    gate: str = "passed"
    benchmarks: str = "no"

    def outputs(self) -> dict[str, Any]:
        """What the stages put out."""
        return {
            "prepare": {
                "base_uri": "base",
                "shards": list(range(self.shards)),
                "shard_count": self.shards,
                "benchmarks": self.benchmarks,
            },
            **dict.fromkeys(("train", "launch"), lambda pod: {"Output": f"{pod.inputs['model_uri']}+"}),
            "evaluate": lambda pod: {
                "policy_uri": pod.inputs["model_uri"],
                "decision": "continue" if pod.inputs["iteration"] < self.iterations else "stop",
            },
            "keep": lambda pod: {"Output": pod.inputs["model_uri"]},
            "publish": {"model_uri": "published", "gate": self.gate},
        }

    def check(self, run: Run) -> None:
        """Hold what was played against it."""
        trained = [*run.of("train"), *run.of("launch")]
        assert len(run.of("rank")) == self.iterations * self.shards
        assert len(run.of("evaluate")) == self.iterations
        assert len(run.of("bench")) == (self.benchmarks == "yes")
        policies = ["base" + "+" * played for played in range(self.iterations)]
        assert [pod.inputs["model_uri"] for pod in trained] == policies
        assert all(len(pod.artifacts["pairs"]) == self.shards for pod in trained)
        shares = [(pod.inputs["iteration"], pod.inputs["shard"], pod.inputs["shards"]) for pod in run.of("generate")]
        every = [(t + 1, shard, self.shards) for t in range(self.iterations) for shard in range(self.shards)]
        assert sorted(shares) == every
        states = groups(run.executions)
        taken, untaken = (GATE_PASSED, GATE_FAILED) if self.gate == "passed" else (GATE_FAILED, GATE_PASSED)
        assert (states[f"run/{taken}"], states[f"run/{untaken}"]) == ("COMPLETE", "CANCELED")
        assert len(run.of("finish")) == 1
        assert "RUNNING" not in states.values(), "the UI would show a group of a run that has ended as running"


def check_pods(run: Run, profile: Profile, parameters: Mapping[str, Any], plugin: MLflowPlugin | None = None) -> None:
    """Hold every pod of a run against what it should be given.

    Args:
        run: that was played.
        profile: that its package was compiled with.
        parameters: of the run.
        plugin: that the cluster has.
    """
    for pod in run.pods:
        resources, selector, tolerations = _placement(pod, profile, parameters)
        if pod.stage == "launch":
            told = pod.inputs["task_config"]
            assert (told["resources"], told["nodeSelector"], told["tolerations"]) == (resources, selector, tolerations)
            assert [each["mountPath"] for each in told["volumeMounts"] or []] == [CACHE] * bool(profile.model_cache)
            assert {each["name"] for each in told["env"]} <= set(pod.env)
            resources, selector, tolerations = {}, None, None
        assert pod.main.get("resources", {}) == resources, pod.path
        assert (pod.spec.get("nodeSelector"), pod.spec.get("tolerations")) == (selector, tolerations), pod.path
        assert pod.env == _environment(pod, profile, plugin), pod.path
        _check_rest(pod, profile)


def _stage(pod: Pod) -> str:
    return "train" if pod.stage == "launch" else pod.stage


def _placement(pod: Pod, profile: Profile, parameters: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Resources, node selector and tolerations that are asked for a pod."""
    needs = getattr(profile.stages, _stage(pod))
    limits, requests = {"memory": needs.memory}, {"memory": needs.memory, "cpu": needs.cpu}
    if pod.stage not in POOLS:
        return {"limits": limits, "requests": requests}, None, None
    name = POOLS[pod.stage]
    of_profile = getattr(profile, name)
    pool = {field: parameters.get(f"{name}_{field}", getattr(of_profile, field)) for field in Pool.model_fields}
    limits["nvidia.com/gpu"] = str(pool["gpus"])
    return {"limits": limits, "requests": requests}, pool["node_selector"], pool["tolerations"]


def _environment(pod: Pod, profile: Profile, plugin: MLflowPlugin | None) -> dict[str, str]:
    """The variables of a pod, and where they come from."""
    found = {RENAMED.get(key, key): f"configMapKeyRef {profile.settings} {key}" for key in SETTINGS}
    found |= {RENAMED.get(key, key): f"secretKeyRef {profile.credentials} {key}" for key in CREDENTIALS}
    found |= {"KFP_POD_NAME": "fieldRef metadata.name", "KFP_POD_UID": "fieldRef metadata.uid"}
    found |= {"KFP_RETRY_INDEX": "0", RETRIES: str(profile.retries)} if profile.retries else {}
    if pod.stage in {"prepare", "finish"}:
        found["KFP_RUN_ID"] = "fieldRef metadata.labels['pipeline/runid']"
    if pod.stage == "prepare":
        found["SPPO_IMAGES"] = pod.env["SPPO_IMAGES"]
    if plugin is not None:
        found |= {name: pod.env[name] for name in ("KFP_MLFLOW_CONFIG", "MLFLOW_RUN_ID")}
        found |= {"MLFLOW_TRACKING_URI": plugin.endpoint, "MLFLOW_EXPERIMENT_ID": plugin.experiment}
        for key in ("username", "password") if plugin.basic else ():
            found[f"MLFLOW_TRACKING_{key.upper()}"] = f"secretKeyRef {SECRET} {key}"
    return found


def _check_rest(pod: Pod, profile: Profile) -> None:
    """Hold what does not depend on a run's parameters against the profile."""
    stage = _stage(pod)
    needs = getattr(profile.stages, stage)
    host = GUESTS.get(stage, stage)
    assert pod.main["image"] == profile.images.get(stage, profile.images.get(host, image(host)))
    assert pod.spec["activeDeadlineSeconds"] == needs.hours * 3600
    assert (pod.retry["limit"], pod.retry["retryPolicy"]) == (str(profile.retries or 2), "OnError")
    assert ("backoff" in pod.retry) == bool(profile.retries)
    waits = profile.queue and pod.stage in POOLS and pod.stage != "launch"
    assert pod.labels.get(QUEUE_LABEL) == (profile.queue if waits else None)
    assert pod.labels[RUN_LABEL[0]] == RUN_LABEL[1] and pod.annotations["sidecar.istio.io/inject"] == "false"
    mounts = {each["mountPath"]: each["name"] for each in pod.main["volumeMounts"]}
    claims = {} if pod.stage == "launch" or not profile.model_cache else {CACHE: profile.model_cache}
    memory = {"/dev/shm": "shared-memory"} if needs.shared_memory else {}
    assert {path: mounts[path] for path in mounts.keys() & {CACHE, "/dev/shm"}} == {**claims, **memory}
    sizes = [each["emptyDir"]["sizeLimit"] for each in pod.spec["volumes"] if each["name"] == "shared-memory"]
    assert sizes == [size for size in [needs.shared_memory] if size]
    context = pod.main["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (USER, USER, True)
    assert context["capabilities"] == {"drop": ["ALL"]} and context["allowPrivilegeEscalation"] is False
    assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
