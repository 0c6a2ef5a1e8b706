"""Whether the API server lets the step do what it asks for, and what is said where it does not."""

import datetime
import ipaddress
import re
import ssl
import textwrap
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.config import incluster_config

from sppo.errors import ConfigError, InfrastructureError
from sppo.training.workers.trainjob import client, follow
from sppo.training.workers.trainjob.client import Cluster
from tests.unit.trainjob.jobs import NAME, complete, once, wanted
from tests.unit.trainjob.server import TOKEN
from tests.unit.trainjob.state import JOBS, NAMESPACE, PODS

ROOT = Path(__file__).parents[3]
VERBS = {"POST": "create", "GET": "get", "WATCH": "watch", "PATCH": "patch", "DELETE": "delete"}


def used(request):
    """The right that a request takes: resource and verb."""
    if request.path.startswith(JOBS):
        return "trainjobs", VERBS[request.method]
    if request.path.endswith("/log"):
        return "pods/log", "get"
    return "pods", {"GET": "list", "WATCH": "watch"}[request.method]


def granted(rules):
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def test_the_documented_rights_are_those_that_are_used(api):
    def play(job):
        api.pod(NAME, 0)
        api.write(api.pod(NAME, 0), "a line", end=True)
        seen = lambda: api.sent(f"WATCH {PODS}") and api.sent(f"WATCH {JOBS}")  # noqa: E731
        once(seen, api.end, NAME, "Complete")

    api.on_create = play
    api.put(JOBS, {**wanted(), "status": {"conditions": [{"type": "Failed", "status": "True"}]}})
    follow.run(Cluster(), wanted(number=1))
    follow.run(Cluster(), wanted(number=2))
    page = (ROOT / "docs/multi-node.md").read_text().partition("## Rights")[2]
    rules = yaml.safe_load(textwrap.dedent("".join(re.findall(r"^    .*\n", page, re.MULTILINE))))
    role = next(yaml.safe_load_all((ROOT / "manifests/components/multi-node/role.yaml").read_text()))
    assert {used(request) for request in api.requests} == granted(rules)
    assert granted(rules) <= granted(role["rules"])
    assert {rule["apiGroups"][0] for rule in rules if "trainjobs" in rule["resources"]} == {"trainer.kubeflow.org"}


@pytest.mark.parametrize("method", ["POST", "GET", "WATCH", "PATCH"])
def test_a_right_that_is_missing_is_named(api, method):
    if method != "POST":
        api.put(JOBS, wanted(number=1))
    api.fail(f"{method} {JOBS}", 403, times=10**6)
    verb = VERBS[method]
    expected = (
        rf"{verb} trainjobs in namespace team: ServiceAccount sppo-runner may not \(403 injected 403\); give it a Role "
        rf"with verb {verb} on trainjobs: add manifests/components/multi-node to your overlay"
    )
    with pytest.raises(InfrastructureError, match=expected) as raised:
        follow.run(Cluster(), wanted(number=2))
    assert TOKEN not in str(raised.value)


def test_a_token_that_is_not_accepted_is_told(api):
    api.fail(f"POST {JOBS}", 401)
    with pytest.raises(InfrastructureError, match=r"the token is not accepted \(401 injected 401\)"):
        follow.run(Cluster(), wanted())


def test_a_cluster_without_kubeflow_trainer_is_told(api):
    api.installed = False
    with pytest.raises(ConfigError, match=r"create trainjobs.*install Kubeflow Trainer"):
        follow.run(Cluster(), wanted())


def test_an_object_that_is_refused_is_told(api):
    api.fail(f"POST {JOBS}", 422)
    with pytest.raises(ConfigError, match="create trainjobs in namespace team: refused: 422 injected 422"):
        follow.run(Cluster(), wanted())
    assert len(api.sent("POST")) == 1


def test_without_a_cluster_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"training_nodes: more than one needs a cluster.*set training_nodes=1"):
        Cluster()


def test_in_a_pod_the_cluster_is_the_one_around_it(api, monkeypatch, tmp_path):
    """Over TLS, with the files that Kubernetes mounts."""
    authority = trust(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "namespace").write_text(NAMESPACE + "\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(client, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    monkeypatch.delenv("KUBECONFIG")
    api.on_create = complete(api)
    cluster = Cluster()
    assert (cluster.namespace, cluster.service_account) == (NAMESPACE, "sppo-runner")
    follow.run(cluster, wanted())


def trust(folder):
    """A file with a certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "authority.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + secret)
    return path
