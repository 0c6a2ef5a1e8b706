"""Every profile's package, played to its end: what its pods are given is what the profile and the run say."""

import functools
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from sppo_pipelines import size
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.profile import SHIPPED, load_profile

from tests.backend.expected import RENAMED, Course, check_pods
from tests.backend.nodes import drivers_between
from tests.backend.package import Package, load
from tests.backend.player import play
from tests.backend.plugin import MLflowPlugin
from tests.backend.values import BackendError

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
PROFILES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
MOST = 3
"""Iterations that the packages can play."""
RUN = {"output_uri": "s3://runs/a"}
"""The parameters that every run gives."""
CHANGED = {
    "generation_node_selector": {"pool": "fast"},
    "generation_tolerations": [{"key": "gpu", "operator": "Exists"}],
    "generation_gpus": "2",
    "ranking_node_selector": {},
    "ranking_gpus": "0",
    "training_tolerations": [{"key": "spot", "value": "true", "effect": "NoSchedule"}],
    "training_gpus": "4",
}
"""What a run may say of its hardware."""


@pytest.fixture(scope="session")
def package_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Package]:
    """Compiles a profile's package, each once."""

    @functools.cache
    def compile_profile(profile: str) -> Package:
        path = tmp_path_factory.mktemp("packages") / "sppo.yaml"
        compile_pipeline(path, MOST, profile)
        return load(path)

    return compile_profile


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("profile", PROFILES)  # the slowest to vary, so that two workers compile different ones
def test_a_package_plays_to_its_end_with_the_pods_that_its_profile_says(package_of, profile, iterations, shards):
    gate, benchmarks = ("passed", "yes") if (iterations + shards) % 2 else ("failed", "no")
    course = Course(iterations, shards, gate, benchmarks)
    run = play(package_of(profile), RUN, course.outputs())
    check_pods(run, load_profile(profile), RUN)
    course.check(run)


@pytest.mark.parametrize("golden", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
@pytest.mark.parametrize("gate", ["passed", "failed"])
def test_a_golden_package_plays_to_its_end_beside_the_plugin(golden, gate):
    profile, plugin = load_profile("one-gpu" if golden == "default" else golden), MLflowPlugin(basic=True)
    course = Course(iterations=1, shards=2, gate=gate)
    run = play(load(GOLDEN / f"{golden}.yaml"), RUN, course.outputs(), plugin)
    check_pods(run, profile, RUN, plugin)
    course.check(run)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_may_say_where_its_pods_go(package_of, profile):
    run = play(package_of(profile), {**RUN, **CHANGED}, Course(2, 2, benchmarks="yes").outputs())
    check_pods(run, load_profile(profile), CHANGED)


def test_a_shard_and_iteration_costs_18_nodes(package_of):
    def cost(iterations: int, shards: int) -> int:
        return len(play(package_of("cpu"), RUN, Course(iterations, shards).outputs()).nodes)

    assert cost(1, 2) - cost(1, 1) == 18
    assert cost(3, 4) - cost(3, 2) == 18 * 3 * 2


def test_the_nodes_that_compile_counts_are_those_of_a_run_that_takes_every_branch(package_of):
    counted = size.nodes(package_of("cpu").spec)
    assert (counted.shard, counted.loops) == (18 * MOST, MOST)
    run = play(package_of("cpu"), RUN, Course(MOST, 2, benchmarks="yes").outputs())
    untaken = [node for node in run.nodes if node.phase == "Skipped"]
    # A branch that is not taken has one node in the place of its DAG (2) and its keep (6).
    assert len(run.nodes) + 7 * len(untaken) == counted.fixed + 2 * counted.shard


def test_five_drivers_in_a_row_lie_between_two_iterations(package_of):
    run = play(package_of("cpu"), RUN, Course(3, 2).outputs())
    assert drivers_between(run, "evaluate", "generate") == 5
    assert drivers_between(run, "prepare", "generate") == 5
    for earlier, later in (("generate", "rank"), ("rank", "train"), ("train", "evaluate"), ("evaluate", "publish")):
        assert drivers_between(run, earlier, later) == 1


def changed(package: Package, change: Callable[[Package], None]) -> Package:
    """A package with something changed."""
    copy = Package(*map(deepcopy, package))
    change(copy)
    return copy


def read_the_list_in_the_loop(package: Package) -> None:
    """Let a task of the loop's body take the list of shards."""
    inputs: dict[str, Any] = package.spec["components"]["comp-shards"]["dag"]["tasks"]["rank"]["inputs"]
    inputs["parameters"]["all_shards"] = {"componentInputParameter": "pipelinechannel--shards"}


def count_in_numbers(package: Package) -> None:
    """Let the counts of GPUs be of type int."""
    for component in (package.root, *package.spec["components"].values()):
        for name, declared in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if name.endswith("_gpus"):
                declared["parameterType"] = "NUMBER_INTEGER"
                if "defaultValue" in declared:
                    declared["defaultValue"] = float(declared["defaultValue"])


def name_as_mlflow_does(package: Package) -> None:
    """Let the variables for MLflow have the names that MLflow reads."""
    names = {variable: key for key, variable in RENAMED.items()}
    for asked in package.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        for source in (*asked["configMapAsEnv"], *asked["secretAsEnv"]):
            for key in source["keyToEnv"]:
                key["envVar"] = names.get(key["envVar"], key["envVar"])


def test_with_the_loop_of_23b4432_no_package_plays(package_of):
    package = changed(package_of("one-gpu"), read_the_list_in_the_loop)
    with pytest.raises(BackendError, match="parent DAG does not have input parameter pipelinechannel--shards"):
        play(package, RUN, Course().outputs())


def test_with_the_counts_of_23b4432_the_pods_are_not_what_the_profile_says(package_of):
    run = play(changed(package_of("one-gpu"), count_in_numbers), RUN, Course().outputs())
    assert not any("nvidia.com/gpu" in pod.limits for pod in run.pods)
    with pytest.raises(AssertionError, match=r"nvidia\.com/gpu"):
        check_pods(run, load_profile("one-gpu"), RUN)


def test_with_the_names_of_23b4432_the_plugin_breaks_every_pod(package_of):
    package = changed(package_of("one-gpu"), name_as_mlflow_does)
    words = r"spec\.containers\[1\]\.env\[3\]\.valueFrom: .*may not be specified when `value` is not empty"
    with pytest.raises(BackendError, match=words):
        play(package, RUN, Course().outputs(), MLflowPlugin())
