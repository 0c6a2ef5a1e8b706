"""Revision 23b4432 as a real Kubeflow played it on 2026-11-28: what broke there breaks here, with its words."""

import pytest

from tests.backend.former import GPU, former, outputs
from tests.backend.metadata import groups
from tests.backend.nodes import drivers_between
from tests.backend.player import Run, play
from tests.backend.plugin import MLflowPlugin
from tests.backend.values import BackendError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Three iterations of two shards, the package without its faults."""
    return play(former(tmp_path_factory.mktemp("former")), {"gpus": "1"}, outputs(3, 2))


def test_a_task_in_a_loop_cannot_read_the_list_that_is_looped_over(tmp_path):
    package = former(tmp_path, list_in_loop=True)
    with pytest.raises(BackendError, match="parent DAG does not have input parameter pipelinechannel--shards"):
        play(package, {"gpus": "1"}, outputs(3, 2))


def test_a_count_of_gpus_that_is_a_number_vanishes(tmp_path, run):
    counted = play(former(tmp_path, count=int), {"gpus": 1}, outputs(1, 1))
    assert [pod.limits for pod in counted.of("generate") + counted.of("evaluate")] == [{}, {}]
    assert {tuple(pod.limits.items()) for pod in run.of("generate") + run.of("evaluate")} == {((GPU, "1"),)}


def test_the_server_refuses_a_number_for_a_count_that_is_text(tmp_path):
    with pytest.raises(BackendError, match="gpus requires type string, but the input parameter is not of string value"):
        play(former(tmp_path), {"gpus": 1}, outputs(1, 1))


def test_a_setting_with_the_name_of_a_plugins_variable_is_refused(tmp_path):
    clashing = former(tmp_path, setting="MLFLOW_TRACKING_URI")
    words = r"spec\.containers\[1\]\.env\[2\]\.valueFrom: .*may not be specified when `value` is not empty"
    with pytest.raises(BackendError, match=words):
        play(clashing, {"gpus": "1"}, outputs(1, 1), MLflowPlugin())
    play(clashing, {"gpus": "1"}, outputs(1, 1), MLflowPlugin(inject=False))
    play(former(tmp_path), {"gpus": "1"}, outputs(1, 1), MLflowPlugin())


def test_it_costs_the_nodes_that_were_counted_there(run):
    """276 nodes and 78 pods, 54 of them drivers, were counted; one of those pods was a second attempt."""
    assert len(run.nodes) + 1 == 276
    drivers = [node for node in run.nodes if node.role == "driver"]
    assert len(drivers) == 54 and len(drivers) + len(run.pods) + 1 == 78


def test_a_shard_and_iteration_cost_22_nodes(tmp_path):
    package = former(tmp_path)
    counts = [len(play(package, {"gpus": "1"}, outputs(3, shards)).nodes) for shards in (1, 2, 4)]
    assert [counts[1] - counts[0], counts[2] - counts[1]] == [3 * 22, 6 * 22]


def test_seven_drivers_in_a_row_lie_between_two_iterations(run):
    assert drivers_between(run, "evaluate", "generate") == 7
    assert drivers_between(run, "prepare", "generate") == 5
    for earlier, later in (("generate", "rank"), ("rank", "train"), ("train", "evaluate")):
        assert drivers_between(run, earlier, later) == 1
    with pytest.raises(ValueError, match="no prepare waits for a train"):
        drivers_between(run, "train", "prepare")


def test_benchmarks_that_nobody_wants_show_as_running_for_ever(run):
    states = groups(run.executions)
    assert states["benchmarks"] == "RUNNING" and states["benchmarks/condition-1"] == "CANCELED"
    assert [path for path, state in states.items() if state == "RUNNING"] == ["benchmarks"]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_the_better_policy_is_handed_on_through_all_branches(tmp_path, iterations):
    run = play(former(tmp_path), {"gpus": "1"}, outputs(iterations, 1, "failed"))
    (published,) = run.of("publish")
    assert published.inputs["best_uri"] == "base" + "+" * iterations
    assert len(run.of("train")) == iterations
    assert [pod.path.split("/")[-2] for pod in run.of("keep")][-1] == "gate-failed"


def test_pairs_of_all_shards_come_in_their_order(run):
    for trained in run.of("train"):
        iteration = trained.path.removesuffix("train")
        places = [artifact.uri.split(iteration)[1].rpartition("/rank/")[0] for artifact in trained.artifacts["pairs"]]
        assert places == [f"for-loop-1/[{index}]/play-shard" for index in range(2)]
