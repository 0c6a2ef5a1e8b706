"""Kubernetes: the merge of a patch into a pod, quantities, and what the API server refuses."""

from fractions import Fraction

import pytest

from tests.backend.kubernetes import merge, quantity, validate
from tests.backend.values import BackendError


def test_a_patch_is_merged_by_names_and_mount_paths():
    original = {
        "containers": [{"name": "wait"}, {"name": "main", "args": ["a", "b"], "env": [{"name": "A", "value": "1"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "old"}],
        "nodeSelector": {"a": "1"},
    }
    patch = {
        "containers": [
            {"name": "main", "args": ["c"], "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]}
        ],
        "volumes": [{"name": "w", "emptyDir": {}}],
        "tolerations": [{"key": "new"}],
        "nodeSelector": {"b": "2"},
    }
    assert merge(original, patch) == {
        "containers": [
            {"name": "wait"},
            {"name": "main", "args": ["c"], "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
        ],
        "volumes": [{"name": "w", "emptyDir": {}}, {"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "new"}],
        "nodeSelector": {"a": "1", "b": "2"},
    }


def test_two_variables_of_one_name_become_one():
    secret, config = {"secretKeyRef": {"name": "s"}}, {"configMapKeyRef": {"name": "c"}}
    env = [{"name": "A", "value": "1"}, {"name": "A", "valueFrom": secret}]
    assert merge({"env": []}, {"env": env}) == {"env": [{"name": "A", "value": "1", "valueFrom": secret}]}
    for patch, message in (
        (env, "may not be specified when `value` is not empty"),
        ([{"name": "A", "valueFrom": secret}, {"name": "A", "valueFrom": config}], "may not have more than one field"),
    ):
        with pytest.raises(BackendError, match=message):
            validate("pod", {"containers": [merge({"env": []}, {"env": patch})]})
    empty = [{"name": "A", "value": ""}, {"name": "A", "valueFrom": secret}]
    validate("pod", {"containers": [merge({"env": []}, {"env": empty})]})


def test_a_pod_may_not_request_more_than_its_limit():
    resources = {"requests": {"memory": "8Gi"}, "limits": {"memory": "8G"}}
    with pytest.raises(BackendError, match="must be less than or equal to memory limit of 8G"):
        validate("pod", {"containers": [{"name": "main", "resources": resources}]})


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("100m", Fraction(1, 10)), ("2Ki", 2048), ("1.5G", 1_500_000_000), ("1e3", 1000)]
)
def test_quantities_are_numbers_with_their_suffix(text, value):
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "8 GB", "8GB", "two", "1ki"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(BackendError, match="quantities must match"):
        quantity(text)
