"""Who may call whom: the network policies, read as the cluster reads them."""

import copy
from typing import NamedTuple

import pytest

from pipelines.placement import RUN_LABEL

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
    for port in (80, 22, 8080):
        assert not may_call(rendered, peers["run"], peers["outside"], port)


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
