"""Pods: what of a package and of a run's parameters arrives in them, and what Kubernetes refuses."""

import pytest
from kfp import dsl, kubernetes

from tests.backend.player import play
from tests.backend.plugin import SECRET, MLflowPlugin
from tests.backend.pod_config import extend
from tests.backend.pod_patch import Patch, make_patch
from tests.backend.resolve import Inputs
from tests.backend.small import ECHO, say
from tests.backend.values import BackendError, NotPlayedError

GPU = "nvidia.com/gpu"


@dsl.component(
    base_image="stage",
    task_config_passthroughs=[
        dsl.TaskConfigField.RESOURCES,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_VOLUMES,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
    ],
)
def launch(config: dsl.TaskConfig) -> None: ...


@dsl.pipeline
def everything(selector: dict = {"pool": "fast"}, tolerations: list = [], gpus: str = "2"):  # noqa: B006
    for task in (say(), launch()):
        task.set_cpu_request("2").set_memory_request("8G").set_memory_limit("16G")
        task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
        task.set_env_variable("MODE", "test")
        task.set_retry(3, backoff_duration="30s", backoff_factor=2, backoff_max_duration="2h")
        kubernetes.add_node_selector_json(task, selector)
        kubernetes.add_toleration_json(task, tolerations)
        kubernetes.use_secret_as_env(task, "keys", {"token": "TOKEN"}, optional=True)
        kubernetes.use_config_map_as_env(task, "settings", {"url": "URL"})
        kubernetes.use_field_path_as_env(task, "RUN", "metadata.labels['pipeline/runid']")
        kubernetes.add_pod_label(task, "queue", "gpus")
        kubernetes.mount_pvc(task, "models", "/cache")
        kubernetes.empty_dir_mount(task, "memory", "/dev/shm", medium="Memory", size_limit="2Gi")
        kubernetes.set_timeout(task, 3600)
        kubernetes.set_security_context(task, run_as_user=10001, run_as_group=10001, run_as_non_root=True)


@pytest.fixture
def run(compiled):
    """Plays the pipeline that asks for everything."""
    package = compiled(everything)
    return lambda plugin=None, **parameters: play(package, parameters, ECHO, plugin)


ENV = {
    "MODE": "test",
    "TOKEN": "secretKeyRef keys token",
    "URL": "configMapKeyRef settings url",
    "RUN": "fieldRef metadata.labels['pipeline/runid']",
}


def test_everything_that_is_asked_for_is_in_the_pod(run):
    keyed = {"key": GPU, "operator": "Exists", "ignored": 1}
    (pod,) = run(tolerations=[keyed]).of("say")
    assert pod.main["image"] == "stage" and "--executor_input" in pod.main["args"]
    assert pod.limits == {"memory": "16G", GPU: "2"} and pod.requests == {"cpu": "2", "memory": "8G"}
    assert pod.spec["nodeSelector"] == {"pool": "fast"}
    assert pod.spec["tolerations"] == [{"key": GPU, "operator": "Exists"}]
    assert list(pod.env) == [*ENV, "KFP_POD_NAME", "KFP_POD_UID", "KFP_RETRY_INDEX"]
    assert {name: pod.env[name] for name in ENV} == ENV
    assert pod.labels["queue"] == "gpus" and pod.labels["pipeline/runid"]
    assert pod.annotations["sidecar.istio.io/inject"] == "false"
    assert pod.spec["activeDeadlineSeconds"] == 3600
    assert pod.main["securityContext"] == {
        **dict.fromkeys(("runAsUser", "runAsGroup"), 10001),
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in pod.main["volumeMounts"]}
    assert mounts["/cache"] == "models" and mounts["/dev/shm"] == "memory" and mounts["/.cache"] == "dot-cache-scratch"
    volumes = {volume.pop("name"): volume for volume in map(dict, pod.spec["volumes"])}
    assert volumes["models"] == {"persistentVolumeClaim": {"claimName": "models"}}
    assert volumes["memory"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    assert pod.retry == {
        "limit": "3",
        "retryPolicy": "OnError",
        "backoff": {"duration": "30", "factor": "2", "maxDuration": "7200"},
    }


def test_what_is_passed_through_is_told_to_the_container_and_not_asked_of_its_pod(run):
    (pod,) = run(MLflowPlugin()).of("launch")
    assert pod.limits == pod.requests == {}
    assert "nodeSelector" not in pod.spec and "tolerations" not in pod.spec
    assert "/cache" not in {mount["mountPath"] for mount in pod.main["volumeMounts"]}
    assert "/dev/shm" in {mount["mountPath"] for mount in pod.main["volumeMounts"]}, "no empty folder is passed on"
    told = pod.inputs["config"]
    assert told["resources"] == {"limits": {"memory": "16G", GPU: "2"}, "requests": {"cpu": "2", "memory": "8G"}}
    assert told["nodeSelector"] == {"pool": "fast"} and told["tolerations"] == [] and told["affinity"] is None
    assert [mount["mountPath"] for mount in told["volumeMounts"]] == ["/cache"]
    names = [each["name"] for each in told["env"]]
    assert names == ["MODE", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "TOKEN", "URL", "RUN"]
    assert set(names) <= set(pod.env)


def test_variables_of_the_plugin_come_by_name(run):
    (pod,) = run(MLflowPlugin(basic=True)).of("say")
    assert pod.env["MLFLOW_TRACKING_URI"] == "https://mlflow.example" and len(pod.env["MLFLOW_RUN_ID"]) == 32
    assert pod.env["MLFLOW_TRACKING_USERNAME"] == f"secretKeyRef {SECRET} username"
    (pod,) = run(MLflowPlugin(basic=True, inject=False)).of("say")
    assert "MLFLOW_TRACKING_URI" not in pod.env and "KFP_MLFLOW_CONFIG" in pod.env
    assert pod.env["MLFLOW_TRACKING_PASSWORD"] == f"secretKeyRef {SECRET} password", "injected or not"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"selector": {"spot": True}}, "failed to resolve node selector: .*cannot unmarshal bool into Go value"),
        ({"tolerations": ["a"]}, "failed to marshal list toleration to json"),
        ({"tolerations": [{"value": True}]}, "cannot unmarshal bool into Go struct field Toleration.value"),
        ({"gpus": "two"}, "failed to init podSpecPatch: quantities must match the regular expression"),
        ({"gpus": "1.5"}, r"limits\[nvidia.com/gpu\]: Invalid value: .1.5.: must be an integer"),
        ({"gpus": "-1"}, "must be greater than or equal to 0"),
    ],
)
def test_parameters_that_do_not_fit_a_pod_are_refused(run, parameters, message):
    with pytest.raises(BackendError, match=message):
        run(**parameters)


def test_a_count_of_none_leaves_no_limit_and_of_zero_a_limit_of_zero(run):
    assert GPU not in run(gpus="").of("say")[0].limits
    assert run(gpus="0").of("say")[0].limits[GPU] == "0"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({}, []),
        ([], []),
        ({"key": "a"}, [{"key": "a"}]),
        (
            [{"key": "a"}, {"effect": "NoExecute", "tolerationSeconds": 30}],
            [{"key": "a"}, {"effect": "NoExecute", "tolerationSeconds": 30}],
        ),
    ],
)
def test_tolerations_are_one_or_a_list(value, found):
    patch = Patch({})
    extend(patch, {"tolerations": [{"tolerationJson": {}}]}, lambda spec: value)
    assert patch.spec["tolerations"] == found


def test_a_selector_that_is_no_struct_selects_nothing_and_a_toleration_that_is_neither_is_refused():
    patch = Patch({})
    extend(patch, {"nodeSelector": {"nodeSelectorJson": {}}}, lambda spec: "pool=fast")
    assert patch.spec["nodeSelector"] == {}
    with pytest.raises(BackendError, match="must be either struct or list type"):
        extend(patch, {"tolerations": [{"tolerationJson": {}}]}, lambda spec: "a")


@pytest.mark.parametrize("field", ["nodeAffinity", "initContainers", "imagePullSecret"])
def test_what_has_no_rule_is_told(field):
    with pytest.raises(NotPlayedError, match=field):
        extend(Patch({}), {field: []}, lambda spec: None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"secretAsEnv": [{"keyToEnv": []}]}, "missing either secretName or secretNameParameter"),
        ({"configMapAsEnv": [{"configMapNameParameter": {}, "keyToEnv": []}]}, "Expected a string but got: number"),
        ({"pvcMount": [{"pvcNameParameter": {}, "mountPath": "/a"}]}, "Expected a string but got: number"),
        ({"securityContext": {"runAsUser": "0", "runAsNonRoot": True}}, r"runAsUser=0 \(root\) is not allowed"),
        ({"emptyDirMounts": [{"volumeName": "a", "mountPath": "/a", "sizeLimit": "big"}]}, "quantities must match"),
    ],
)
def test_what_is_asked_of_kubernetes_must_have_its_form(asked, message):
    with pytest.raises(BackendError, match=message):
        extend(Patch({}), asked, lambda spec: 3)


def test_an_image_or_an_argument_may_be_a_parameter():
    place = "{{$.inputs.parameters['p']}}"
    container = {"image": place, "args": [f"--p={place}", "{{$.outputs.parameters['o'].output_file}}"]}
    patch = make_patch({}, container, Inputs({"p": "a"}, {}), [])
    assert patch.main["image"] == "a" and patch.main["args"][0] == "--p=a" and "$.outputs" in patch.main["args"][1]
    assert make_patch({}, container, Inputs({"p": 3.0}, {}), []).main["image"] == "", "a number is read as nothing"
    with pytest.raises(BackendError, match="executorInput did not contain container Image input parameter"):
        make_patch({}, container, Inputs({}, {}), [])
    with pytest.raises(BackendError, match='parameter "p" not found in executor input'):
        make_patch({}, {"image": "a", "args": [place]}, Inputs({}, {}), [])


def test_numbers_stand_where_no_text_does():
    resources = {"cpuRequest": 0.5, "memoryLimit": 4.0, "memoryRequest": 2.0, "resourceMemoryRequest": "1G"}
    for count, limits in (("2", {"memory": "4G", GPU: "2"}), ("0", {"memory": "4G"})):
        resources["accelerator"] = {"type": GPU, "count": count}
        patch = make_patch({}, {"image": "a", "resources": resources}, Inputs({}, {}), [])
        assert patch.main["resources"] == {"limits": limits, "requests": {"memory": "1G", "cpu": "0.5"}}
