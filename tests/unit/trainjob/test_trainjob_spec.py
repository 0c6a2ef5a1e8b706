"""The TrainJob as an object: names, and fields that the API takes."""

import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client

from sppo.errors import ConfigError
from sppo.training.workers.trainjob.spec import Pods, Training, command, job_name, owners, train_job

URI = "s3://bucket/runs/helpful"
KEY = "iteration-2/model-1a2b3c4d"
TRAINING = Training(URI, f"{URI}#5e6f7a8b", 2, 64, KEY, "aa" * 32)
uris = st.builds("s3://{}/{}".format, st.text("abc0.-", min_size=1), st.text(min_size=0, max_size=80))


@given(uris, st.integers(1, 99), st.integers(0, 9999))
def test_a_name_is_valid_for_the_job_and_for_all_that_is_made_of_it(uri, iteration, index):
    name = job_name(uri, iteration, KEY)
    assert name == job_name(uri, iteration, KEY)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-node-0-{index}-abcde") <= 63


@given(uris, uris, st.integers(1, 20), st.integers(1, 20))
def test_another_training_has_another_name(one, other, first, second):
    same = (one.rstrip("/"), first) == (other.rstrip("/"), second)
    names = (job_name(uri, 3, f"iteration-3/model-{key:08x}") for uri, key in ((one, first), (other, second)))
    assert (next(names) == next(names)) == same


def test_a_name_tells_people_which_run_it_is_of():
    assert re.fullmatch(r"sppo-helpful-3-[0-9a-f]{12}", job_name(URI, 3, KEY))
    assert re.fullmatch(r"sppo-12-[0-9a-f]{12}", job_name("s3://bucket/--", 12, KEY))


def core(name: str) -> dict:
    """The JSON Schema of a type that TrainJob takes over from Kubernetes, from the official client's models."""
    model = getattr(client, name)
    properties = {}
    for attribute, kind in model.openapi_types.items():
        properties[model.attribute_map[attribute]] = of(kind)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def of(kind: str) -> dict:
    if kind.startswith("list["):
        return {"type": "array", "items": of(kind[5:-1])}
    if kind.startswith("dict("):
        return {"type": "object", "additionalProperties": of(kind[5:-1].split(", ")[1])}
    simple = {"str": "string", "datetime": "string", "int": "integer", "bool": "boolean", "object": "object"}
    return {"type": simple[kind]} if kind in simple else core(kind)


def fields(required=(), **properties) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": list(required),
    }


def listed(schema, most: int) -> dict:
    return {"type": "array", "items": schema, "maxItems": most}


def nested(*path: str, within: dict) -> dict:
    for name in reversed(path):
        within = fields([name], **{name: within})
    return within


TEXT = {"type": "string"}
POD = fields(
    serviceAccountName=TEXT,
    volumes=listed(core("V1Volume"), 128),
    nodeSelector={"type": "object", "additionalProperties": TEXT},
    affinity=core("V1Affinity"),
    tolerations=listed(core("V1Toleration"), 128),
    securityContext=core("V1PodSecurityContext"),
    containers=listed(
        # Kubeflow Trainer takes no env here for the container `node`.
        fields(["name"], name=TEXT, volumeMounts=listed(core("V1VolumeMount"), 128),
               securityContext=core("V1SecurityContext")), 64),
)  # fmt: skip
SCHEMA = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=core("V1ObjectMeta"),
    spec=fields(
        ["runtimeRef"],
        runtimeRef=fields(["name"], name=TEXT, apiGroup={"const": "trainer.kubeflow.org"}, kind=TEXT),
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        trainer=fields(
            image={"type": "string", "maxLength": 500},
            command=listed(TEXT, 128),
            numNodes={"type": "integer"},
            numProcPerNode={"type": "integer"},
            env=listed(core("V1EnvVar"), 128),
            resourcesPerNode=core("V1ResourceRequirements"),
        ),
        runtimePatches=listed(
            fields(
                ["manager"],
                manager={"type": "string", "maxLength": 253},
                trainingRuntimeSpec=nested(
                    "template", "spec",
                    within=fields(replicatedJobs=listed(fields(["name"], name={"const": "node"}, template=nested(
                        "spec", "template",
                        within=fields(metadata=fields(labels={"type": "object"}), spec=POD))), 100)),
                ),
            ),
            16,
        ),
    ),
)  # fmt: skip
"""The fields of TrainJob that are used here, as Kubeflow Trainer 2.3 declares them; no others are allowed."""

TASK_CONFIG = {
    "resources": {"requests": {"cpu": "64", "memory": "1T"}, "limits": {"memory": "1T", "nvidia.com/gpu": "8"}},
    "env": [
        {"name": "HF_HUB_OFFLINE", "value": ""},
        {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {
            "name": "sppo-credentials", "key": "AWS_SECRET_ACCESS_KEY", "optional": True}}},
    ],
    "volumes": [
        {"name": "sppo-model-cache", "persistentVolumeClaim": {"claimName": "sppo-model-cache"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 420.0}},
    ],
    "volume_mounts": [{"name": "sppo-model-cache", "mountPath": "/cache"}],
    "node_selector": {"nvidia.com/gpu.product": "H100", "node-role.kubernetes.io/gpu": ""},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300.0}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1.0, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}]}},
}  # fmt: skip
"""As KFP hands it over: numbers that passed through protobuf are floats."""


def make(account="sppo-runner", **given) -> dict:
    pods = Pods(**{"nodes": 8, "image": "registry.example/train@sha256:abc", **given})
    return train_job(TRAINING, pods, "team", account)


def pod(job: dict) -> dict:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = node["template"]["spec"]["template"]
    labels = {"app.kubernetes.io/name": "sppo-run", "sidecar.istio.io/inject": "false"}
    assert template["metadata"]["labels"] == labels, "as the network policies ask, and without Istio's sidecar"
    return template["spec"]


def integers(value) -> bool:
    """Whether no number is written as a float: 8.0 satisfies JSON Schema, but not the API server."""
    if isinstance(value, dict | list):
        return all(map(integers, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float)


@pytest.mark.parametrize("config", [{}, TASK_CONFIG], ids=["empty", "full"])
@pytest.mark.parametrize("more", [{}, {"queue": "gpus", "shared_memory": "128Gi", "hours": 3}], ids=["plain", "more"])
def test_the_object_has_only_fields_of_the_api(config, more):
    job = make(**config, **more)
    jsonschema.Draft202012Validator(SCHEMA).validate(job)
    assert integers(job)


def test_the_schema_of_this_test_refuses_what_is_wrong():
    job = make(**TASK_CONFIG)
    pod(job)["containers"][0]["env"] = []
    with pytest.raises(jsonschema.ValidationError, match="'env' was unexpected"):
        jsonschema.validate(job, SCHEMA)


def test_what_the_task_asks_for_is_asked_for_each_node():
    job = make(**TASK_CONFIG, shared_memory="128Gi")
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (8, 8)
    assert trainer["resourcesPerNode"] == TASK_CONFIG["resources"]
    assert trainer["env"] == TASK_CONFIG["env"], "an empty value too"
    assert trainer["image"] == "registry.example/train@sha256:abc"
    placed = pod(job)
    assert placed["nodeSelector"] == TASK_CONFIG["node_selector"]
    assert placed["tolerations"][0]["tolerationSeconds"] == 300
    assert placed["affinity"] == TASK_CONFIG["affinity"]
    assert placed["serviceAccountName"] == "sppo-runner"
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "128Gi"}}
    assert placed["volumes"] == [*TASK_CONFIG["volumes"], memory]
    mounts = [*TASK_CONFIG["volume_mounts"], {"name": "shared-memory", "mountPath": "/dev/shm"}]
    assert placed["containers"][0]["volumeMounts"] == mounts


def test_the_pods_are_restricted_whatever_is_asked_for():
    placed = pod(make(account=""))
    identity = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001}
    assert placed["securityContext"] == {**identity, "seccompProfile": {"type": "RuntimeDefault"}}
    allowed = placed["containers"][0]["securityContext"]
    assert allowed == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "serviceAccountName" not in placed


def test_without_gpus_a_node_runs_one_process():
    job = make(resources={"requests": {"cpu": "4"}, "limits": {"nvidia.com/gpu": "0"}})
    assert job["spec"]["trainer"]["numProcPerNode"] == 1
    assert job["spec"]["trainer"]["resourcesPerNode"] == {"requests": {"cpu": "4"}}


def test_the_queue_is_a_label_and_the_digest_an_annotation():
    metadata = make(queue="gpus")["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert metadata["annotations"]["sppo/input-digest"] == "aa" * 32
    assert "kueue.x-k8s.io/queue-name" not in make()["metadata"]["labels"]


def test_a_job_is_owned_by_the_pod_that_asks_for_it():
    pod_of_the_step = {"KFP_POD_NAME": "sppo-x7-system-container-impl-1", "KFP_POD_UID": "5d1f", "HOME": "/"}
    (owner,) = owners(pod_of_the_step)
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": "sppo-x7-system-container-impl-1", "uid": "5d1f"}
    job = train_job(TRAINING, Pods(8, "train:1"), "team", "sppo-runner", [owner])
    assert job["metadata"]["ownerReferences"] == [owner]
    jsonschema.Draft202012Validator(SCHEMA).validate(job)


@pytest.mark.parametrize("missing", ["KFP_POD_NAME", "KFP_POD_UID"])
def test_outside_of_kubeflow_pipelines_a_job_has_no_owner(missing):
    assert owners({"KFP_POD_NAME": "launch", "KFP_POD_UID": "5d1f"} | {missing: ""}) == []
    assert "ownerReferences" not in make()["metadata"]


def test_a_job_that_is_garbage_outlasts_its_pods():
    assert make()["metadata"]["finalizers"] == ["foregroundDeletion"]


def test_nodes_run_the_train_command_under_torchrun():
    expected = ["torchrun", "--no-python", "sppo", "train", f"{URI}#5e6f7a8b", "--iteration", "2", "--shards", "64"]
    assert command(TRAINING.run, 2, 64) == make()["spec"]["trainer"]["command"] == expected


def test_a_store_that_nodes_do_not_share_is_refused():
    with pytest.raises(ConfigError, match="output_uri: /runs/mine is a folder, which nodes do not share"):
        train_job(TRAINING._replace(output_uri="/runs/mine"), Pods(2, "train"), "team", "")
