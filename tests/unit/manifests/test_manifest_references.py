"""What objects and the compiled pipeline mention, against what is created or documented."""

import re
from urllib.parse import urlsplit

import pytest
import yaml
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.placement import CREDENTIALS, RUN_LABEL, SETTINGS
from sppo_pipelines.profile import SHIPPED

from tests.conftest import documents

# Kubeflow Pipelines makes it in every namespace that runs live in.
FROM_KUBEFLOW = {"mlpipeline-minio-artifact"}


@pytest.fixture(scope="module")
def documented(manifests):
    """The keys of each Secret that the README has somebody create."""
    text = (manifests / "README.md").read_text().replace("\\\n", " ")
    found = re.findall(r"kubectl create secret generic (\S+) --namespace (\S+) (.*)", text)
    keys = r"--from-(?:literal|file)=([\w.-]+)"
    return {(namespace.strip('"'), name): set(re.findall(keys, rest)) for name, namespace, rest in found}


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """What the compiled pipeline asks of Kubernetes for each of its tasks, by profile."""
    folder = tmp_path_factory.mktemp("packages")
    executors = {}
    for profile in SHIPPED.glob("*.yaml"):
        compile_pipeline(folder / profile.name, 2, profile.stem)
        _, platform = documents((folder / profile.name).read_text())
        executors[profile.stem] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    return executors


def in_namespace(rendered, documented):
    """The documented Secrets, with the namespace of the runs put in."""
    return {(rendered.runs if space == "$NS" else space, name): keys for (space, name), keys in documented.items()}


@pytest.mark.parametrize("profile", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_the_pipeline_finds_what_it_mentions(packages, profile, rendered, documented):
    secrets = in_namespace(rendered, documented)
    for executor in packages[profile]:
        assert executor["podMetadata"]["labels"].items() >= dict([RUN_LABEL]).items()
        for source in executor["secretAsEnv"]:
            keys = {pair["secretKey"] for pair in source["keyToEnv"]}
            assert keys == secrets[rendered.runs, source["secretName"]] == set(CREDENTIALS)
        for source in executor["configMapAsEnv"]:
            settings = rendered.one("ConfigMap", source["configMapName"])
            assert settings["metadata"]["name"] == source["configMapName"]
            assert settings["metadata"]["namespace"] == rendered.runs
            assert "MLFLOW_TRACKING_URI" in settings["data"].keys() <= set(SETTINGS)
        for mount in executor.get("pvcMount", []):
            assert (rendered.runs, mount["constant"]) in rendered.names("PersistentVolumeClaim")


def test_every_pod_finds_what_it_mentions(rendered, documented):
    secrets = in_namespace(rendered, documented)
    used = {(rendered.runs, "sppo-credentials")}
    for pod in rendered.pods():
        here = pod.namespace
        for container in pod.containers:
            references = [
                variable["valueFrom"]["secretKeyRef"]
                for variable in container.get("env", [])
                if "secretKeyRef" in variable.get("valueFrom", {})
            ]
            for reference in references:
                assert reference["key"] in secrets[here, reference["name"]]
                used.add((here, reference["name"]))
            for source in container.get("envFrom", []):
                assert (here, source["configMapRef"]["name"]) in rendered.names("ConfigMap")
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            claims = {
                claim["metadata"]["name"]
                for item in rendered.of("StatefulSet")
                if item["metadata"]["name"] == pod.owner
                for claim in item["spec"]["volumeClaimTemplates"]
            }
            assert mounted == {volume["name"] for volume in pod.spec["volumes"]} | claims
        for volume in pod.spec["volumes"]:
            if "secret" in volume:
                used.add((here, volume["secret"]["secretName"]))
            if "configMap" in volume:
                assert (here, volume["configMap"]["name"]) in rendered.names("ConfigMap")
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert (here, claim) in rendered.names("PersistentVolumeClaim")
        account = pod.spec.get("serviceAccountName")
        assert account is None or (here, account) in rendered.names("ServiceAccount")
        priority = pod.spec.get("priorityClassName")
        assert priority is None or ("", priority) in rendered.names("PriorityClass")
    assert used <= secrets.keys()
    unused = secrets.keys() - used
    assert unused <= {("sppo", "seaweedfs")}  # where there is no object store


def test_no_secret_is_in_a_manifest(rendered):
    assert rendered.of("Secret") == []
    for pod in rendered.pods():
        variables = [variable for container in pod.containers for variable in container.get("env", [])]
        assert not [v for v in variables if "value" in v and re.search("PASSWORD|SECRET|KEY|TOKEN", v["name"])]
    settings = [name for item in rendered.of("ConfigMap") for name in item["data"]]
    assert not [name for name in settings if re.search("PASSWORD|SECRET|KEY|TOKEN", name)]
    assert not re.search(
        r"password|secret|://\w+:", rendered.one("ConfigMap", "mlflow-auth")["data"]["auth.ini"].split("[mlflow]")[1]
    )


def test_accounts_have_few_rights(rendered):
    bindings = rendered.of("RoleBinding")
    assert not rendered.of("ClusterRole", "ClusterRoleBinding")
    for binding in bindings:
        here = binding["metadata"]["namespace"]
        assert (here, binding["roleRef"]["name"]) in rendered.names("Role")
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in rendered.names("ServiceAccount")
    granted = {
        (resource, *sorted(rule["verbs"])): set(rule.get("resourceNames", []))
        for role in rendered.of("Role")
        for rule in role["rules"]
        for resource in rule["resources"]
        if resource != "secrets"
    }
    runs = {
        ("workflowtaskresults", "create", "patch"): set(),
        ("pods", "get"): set(),
        ("configmaps", "get"): {"kfp-launcher"},
    }
    training = {
        ("trainjobs", "create", "delete", "get", "patch", "watch"): set(),
        ("pods", "list", "watch"): set(),
        ("pods/log", "get"): set(),
    }
    resuming = {("runs", "create", "get", "list", "retry"): set()}  # in Kubeflow Pipelines, not in Kubernetes
    assert granted in (runs, runs | training | resuming)
    for rule in [rule for role in rendered.of("Role") for rule in role["rules"] if "secrets" in rule["resources"]]:
        assert rule["verbs"] == ["get"]
        assert rule["resourceNames"]
        assert set(rule["resourceNames"]) <= FROM_KUBEFLOW | {"sppo-credentials"}


def test_the_launcher_may_read_the_keys_that_its_configuration_names(rendered, documented):
    launchers = [item for item in rendered.of("ConfigMap") if item["metadata"]["name"] == "kfp-launcher"]
    for launcher in launchers:
        default = yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]
        reference = default["credentials"]["secretRef"]
        keys = in_namespace(rendered, documented)[rendered.runs, reference["secretName"]]
        assert {reference["accessKeyKey"], reference["secretKeyKey"]} <= keys
        readable = [
            name for rule in rendered.one("Role", "sppo-runner")["rules"] for name in rule.get("resourceNames", [])
        ]
        assert reference["secretName"] in readable
        assert launcher["data"]["defaultPipelineRoot"].startswith("s3://")


def test_the_launcher_has_every_key_that_another_s3_server_needs(overlay, manifests):
    """Those of S3ProviderDefault in backend/src/v2/config/s3.go of Kubeflow Pipelines 2.17, which ignores others."""
    launcher = overlay("standalone").one("ConfigMap", "kfp-launcher")
    default = yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]
    put_in = {"endpoint", "region", "disableSSL", "forcePathStyle"}
    assert default.keys() == put_in | {"credentials"}
    # What the launcher takes where they are left out: they change nothing for Amazon's.
    assert (default["disableSSL"], default["forcePathStyle"]) == (False, True)
    readme = (manifests / "README.md").read_text()
    assert [key for key in put_in if f"`{key}`" not in readme] == []


def service_of(rendered, address, here):
    """The Service behind an address, as a pod in a namespace sees it; None for one outside the cluster."""
    parts = urlsplit(address)
    name, _, space = parts.hostname.partition(".")
    found = [
        s
        for s in rendered.of("Service")
        if (s["metadata"]["name"], s["metadata"]["namespace"]) == (name, space or here)
    ]
    if "." in space or not found:
        return None
    (service,) = found
    assert parts.port in [port["port"] for port in service["spec"]["ports"]]
    return service


def test_every_address_leads_to_a_service(rendered):
    settings = rendered.one("ConfigMap", "sppo-settings")["data"]
    server = rendered.one("ConfigMap", "mlflow-settings")["data"]
    tracking = settings["MLFLOW_TRACKING_URI"]
    assert service_of(rendered, tracking, rendered.runs)["metadata"]["name"] == "mlflow"
    assert urlsplit(tracking).netloc in server["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "*" not in server["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert service_of(rendered, server["MLFLOW_BACKEND_STORE_URI"], "sppo")["metadata"]["name"] == "postgresql"
    auth = rendered.one("ConfigMap", "mlflow-auth")["data"]["auth.ini"]
    assert f"database_uri = {server['MLFLOW_BACKEND_STORE_URI']}\n" in auth
    stores = {service["metadata"]["name"] for service in rendered.of("Service")} & {"seaweedfs"}
    for addresses, here in ((settings, rendered.runs), (server, "sppo")):
        found = {
            service_of(rendered, address, here)["metadata"]["name"]
            for key, address in addresses.items()
            if key == "AWS_ENDPOINT_URL"
        }
        assert found == stores


def test_services_and_budgets_select_pods(rendered):
    pods = list(rendered.pods())
    for service in rendered.of("Service"):
        selected = [
            pod
            for pod in pods
            if service["spec"]["selector"].items() <= pod.labels.items()
            and pod.namespace == service["metadata"]["namespace"]
        ]
        (pod,) = selected
        ports = {port["name"] for container in pod.containers for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in rendered.of("PodDisruptionBudget"):
        labels = budget["spec"]["selector"]["matchLabels"]
        assert [pod.owner for pod in pods if labels.items() <= pod.labels.items()] == [budget["metadata"]["name"]]
    for server in rendered.of("StatefulSet"):
        assert (server["metadata"]["namespace"], server["spec"]["serviceName"]) in rendered.names("Service")
