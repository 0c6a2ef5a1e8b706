"""Who may call whom: the network policies, read as the cluster reads them."""

import copy
from typing import NamedTuple

import pytest
from sppo_pipelines.placement import RUN_LABEL

RUN = dict([RUN_LABEL])
RANK = {**RUN, "jobset.sigs.k8s.io/jobset-name": "train"}


class Peer(NamedTuple):
    namespace: str
    labels: dict


def matches(selector, labels):
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for rule in selector.get("matchExpressions", []):
        if rule["operator"] == "Exists":
            if rule["key"] not in labels:
                return False
        elif rule["operator"] != "In" or labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def selects(peer, rule, namespace):
    """Whether one entry of a policy's from or to selects a pod."""
    labels = {"kubernetes.io/metadata.name": peer.namespace}
    if peer.namespace == "gateway":
        labels["sppo/gateway"] = "true"
    there = matches(rule["namespaceSelector"], labels) if "namespaceSelector" in rule else peer.namespace == namespace
    return there and matches(rule.get("podSelector", {}), peer.labels)


def passes(rendered, here, other, port, direction):
    """Whether the policies of a pod let a connection through, on one of its two ends."""
    policies = [
        policy
        for policy in rendered.of("NetworkPolicy")
        if policy["metadata"]["namespace"] == here.namespace
        and matches(policy["spec"]["podSelector"], here.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    side = {"Ingress": "from", "Egress": "to"}[direction]
    for policy in policies:
        for rule in policy["spec"].get(direction.lower(), []):
            ports = [entry["port"] for entry in rule.get("ports", [])]
            peers = rule.get(side)
            if (not ports or port in ports) and (
                peers is None or any(selects(other, entry, here.namespace) for entry in peers)
            ):
                return True
    return not policies


def may_call(rendered, source, target, port):
    return passes(rendered, source, target, port, "Egress") and passes(rendered, target, source, port, "Ingress")


@pytest.fixture
def peers(rendered):
    named = {name: Peer("sppo", {"app.kubernetes.io/name": name}) for name in ("mlflow", "postgresql", "seaweedfs")}
    return {
        **named,
        "run": Peer(rendered.runs, RUN),
        "rank": Peer(rendered.runs, RANK),
        "stranger": Peer(rendered.runs, {"app": "notebook"}),
        "disguised": Peer("elsewhere", RUN),
        "gateway": Peer("gateway", {}),
        "kubeflow": Peer("kubeflow", {"app": "ml-pipeline"}),
        "outside": Peer("internet", {}),
    }


ALLOWED = {
    ("run", "mlflow", 5000),
    ("rank", "mlflow", 5000),
    ("gateway", "mlflow", 5000),
    ("mlflow", "postgresql", 5432),
    ("run", "kubeflow", 8887),
    ("run", "kubeflow", 8080),
    ("run", "outside", 443),
    ("mlflow", "outside", 443),
    # Names; a policy sees the port behind a Service, and OpenShift's DNS listens on 5353.
    *((caller, "outside", port) for caller in ("run", "rank", "mlflow") for port in (53, 5353)),
    # The Kubernetes API: kubeadm's and kind's port, minikube's, MicroK8s'.
    *(("run", "outside", port) for port in (6443, 8443, 16443)),
}
WITH_OBJECT_STORE = {("run", "seaweedfs", 8333), ("rank", "seaweedfs", 8333), ("mlflow", "seaweedfs", 8333)}
WITH_MULTI_NODE = {("rank", "rank", 29500)}


def test_only_these_calls_go_through(rendered, peers):
    expected = set(ALLOWED)
    names = {policy["metadata"]["name"] for policy in rendered.of("NetworkPolicy")}
    expected |= WITH_OBJECT_STORE if "seaweedfs" in names else set()
    expected |= WITH_MULTI_NODE if "sppo-multi-node" in names else set()
    for source in ("run", "rank", "stranger", "disguised", "gateway", "mlflow", "postgresql", "seaweedfs", "outside"):
        for target, port in (
            ("mlflow", 5000),
            ("postgresql", 5432),
            ("seaweedfs", 8333),
            ("run", 8080),
            ("rank", 29500),
        ):
            call = (source, target, port)
            assert may_call(rendered, peers[source], peers[target], port) == (call in expected), call
    for source, target, port in sorted(expected):
        assert may_call(rendered, peers[source], peers[target], port), (source, target, port)
    for port in (80, 22, 8000, 8080):
        assert not may_call(rendered, peers["run"], peers["outside"], port)
    for port in (80, 6443, 8000):
        assert not may_call(rendered, peers["mlflow"], peers["outside"], port)


def test_who_resumes_runs_may_call_kubeflow_and_the_store(rendered, peers):
    for pod in [pod for pod in rendered.pods() if pod.owner == "sppo-keep-going"]:
        caller = Peer(pod.namespace, pod.labels)
        assert may_call(rendered, caller, peers["kubeflow"], 8888)
        assert may_call(rendered, caller, peers["outside"], 443)
        assert not may_call(rendered, peers["outside"], caller, 8080)
        stores = {service["metadata"]["name"] for service in rendered.of("Service")} & {"seaweedfs"}
        assert all(may_call(rendered, caller, peers[store], 8333) for store in stores)


def test_names_are_asked_for_over_udp_and_tcp(rendered):
    rules = [rule for policy in rendered.of("NetworkPolicy") for rule in policy["spec"].get("egress", [])]
    asked = [rule for rule in rules if any(entry["port"] == 53 for entry in rule.get("ports", []))]
    assert len(asked) == 2
    for rule in asked:
        ports = sorted((entry["protocol"], entry["port"]) for entry in rule["ports"])
        assert ports == [("TCP", 53), ("TCP", 5353), ("UDP", 53), ("UDP", 5353)]


@pytest.mark.parametrize(
    ("caller", "file"),
    [("run", "base/runs/network-policy.yaml"), ("mlflow", "base/services/network-policy.yaml")],
)
def test_another_port_outside_is_one_line(overlay, manifests, caller, file):
    """A judge behind an endpoint, for runs; an S3 server for both."""
    callers = {"run": Peer("kubeflow", RUN), "mlflow": Peer("sppo", {"app.kubernetes.io/name": "mlflow"})}
    assert may_call(overlay("standalone", file), callers[caller], Peer("internet", {}), 8000)
    assert f"`{file}`" in (manifests / "README.md").read_text()


def test_other_pods_beside_runs_are_left_alone(rendered, peers):
    assert may_call(rendered, peers["stranger"], peers["outside"], 80)
    assert may_call(rendered, peers["outside"], peers["stranger"], 80)


def test_every_selector_means_pods_that_exist(rendered):
    labels = [pod.labels for pod in rendered.pods()] + [RUN, RANK]
    for policy in rendered.of("NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        entries = [entry for rule in rules for entry in [*rule.get("from", []), *rule.get("to", [])]]
        selectors = [policy["spec"]["podSelector"], *(e["podSelector"] for e in entries if "podSelector" in e)]
        for selector in selectors:
            assert any(matches(selector, known) for known in labels), (policy["metadata"]["name"], selector)
        for entry in entries:
            spaces = [{"kubernetes.io/metadata.name": name} for name in ("sppo", "kubeflow", rendered.runs)]
            known = [*spaces, {"sppo/gateway": "true"}]
            assert "namespaceSelector" not in entry or any(matches(entry["namespaceSelector"], s) for s in known)


def test_a_policy_that_is_missing_or_loose_shows(rendered, peers):
    """The reading of policies itself: without default-deny a pod that no other policy selects is open."""
    unknown = Peer("sppo", {"app.kubernetes.io/name": "debug"})
    assert not may_call(rendered, peers["stranger"], unknown, 80)
    without = copy.copy(rendered)
    without.objects = [item for item in rendered.objects if item["metadata"]["name"] != "default-deny"]
    assert may_call(without, peers["stranger"], unknown, 80)
    loose = copy.deepcopy(rendered)
    loose.one("NetworkPolicy", "postgresql")["spec"]["ingress"][0].pop("from")
    assert not may_call(rendered, peers["stranger"], peers["postgresql"], 5432)
    assert may_call(loose, peers["stranger"], peers["postgresql"], 5432)
