"""What the pipeline does between the stages: the real pipeline and local runner, with stages that only tell."""

import builtins
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kfp import components, local
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.kfp_local import conditions_on_outputs
from sppo_pipelines.local import run_locally
from sppo_pipelines.profile import load_profile
from sppo_pipelines.sppo import make_pipeline

from sppo.errors import ConfigError, InfrastructureError, RunFailedError

STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], list[Any]]]:
    """Puts stand-ins in the place of the stages, gives them a plan, and gives back what tells their calls."""
    monkeypatch.setattr(builtins, "print", print)  # the local runner's threads do not always give it back
    monkeypatch.chdir(tmp_path)  # a step's process looks for modules in its working directory first, then in PYTHONPATH
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    monkeypatch.setenv("STAND_IN_TRACE", str(tmp_path / "trace"))
    monkeypatch.setattr("sppo_pipelines.local.imports_for", lambda *_: ())  # they import nothing

    def work(**plan: Any) -> Callable[[], list[Any]]:
        monkeypatch.setenv("STAND_IN_PLAN", json.dumps(plan))
        return lambda: [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]

    return work


@pytest.fixture
def play(planned: Callable[..., Any], tmp_path: Path) -> Callable[..., list[Any]]:
    """Plays a pipeline here with stand-ins for the stages: the calls that they received."""

    def work(pipeline: Any, decisions: Sequence[str], shards: int = 1, **others: bool) -> list[Any]:
        calls = planned(decisions=decisions, shards=shards, **others)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"), raise_on_error=True)
        with conditions_on_outputs():
            pipeline(output_uri="s3://bucket/run", iterations=len(decisions))
        return calls()

    return work


@pytest.mark.parametrize(
    ("decisions", "shards"),
    [
        (["continue", "continue", "stop"], 1),
        (["keep-previous"], 2),
        (["continue", "keep-previous"], 3),
    ],
)
def test_gates_decide_at_run_time(play, decisions, shards):
    called = play(make_pipeline(max_iterations=3), decisions, shards)
    assert_played(called, decisions, shards)


@pytest.mark.parametrize("profile", ["one-gpu", "64-gpus"])  # the two kinds; tests/backend plays each profile's
def test_a_compiled_package_plays_what_the_pipeline_plays(play, profile, tmp_path):
    compile_pipeline(tmp_path / "sppo.yaml", 3, profile)
    package = components.load_component_from_file(str(tmp_path / "sppo.yaml"))
    called = play(package, ["continue", "keep-previous"], shards=2)
    launched = [call for call in called if call[0] == "launch"]
    called = [call for call in called if call[0] != "launch"]
    nodes = load_profile(profile).training.nodes
    assert [pods["nodes"] for _, _, pods in launched] == ([nodes, nodes] if nodes > 1 else [])
    assert_played(called, ["continue", "keep-previous"], 2)


def assert_played(called, decisions, shards):
    assert called[0] == ["prepare", 3]
    assert called[-2:] == [["publish"], ["finish", "SUCCEEDED"]]
    for iteration in range(1, len(decisions) + 1):
        policy, each = f"pi_{iteration}", range(shards)
        generated = [call for call in called if call[:2] == ["generate", iteration]]
        assert sorted(generated) == [["generate", iteration, shard, shards, policy] for shard in each]
        ranked = [call for call in called if call[:2] == ["rank", iteration]]
        assert sorted(ranked) == [["rank", iteration, s, shards, f"responses {iteration}/{s}"] for s in each]
        pairs = [f"pairs {iteration}/{shard}" for shard in each]
        assert ["train", iteration, policy, pairs] in called
        assert ["evaluate", iteration, f"pi_{iteration + 1}", policy] in called
    assert len(called) == 3 + len(decisions) * (2 * shards + 2)


@pytest.mark.parametrize("passed", [True, False])
def test_a_run_comes_to_its_end_whatever_its_gate_says(play, passed):
    called = play(make_pipeline(max_iterations=3), ["stop"], passed=passed)
    assert_played(called, ["stop"], 1)


def test_benchmarks_measure_what_is_published_if_they_are_asked_for(play):
    called = play(make_pipeline(max_iterations=1), ["stop"], benchmarks=True)
    assert called[-3:-1] == [["publish"], ["bench", "published"]]


def test_on_one_machine_a_failed_stage_is_not_tried_again(planned, tmp_path, monkeypatch):
    """The local runner follows a task's retries, and waits between them."""
    monkeypatch.setattr("sppo_pipelines.local._QUIET", {})  # it would stay in this process's environment
    calls = planned(decisions=["stop"], shards=1, fails="generate")
    with pytest.raises(RunFailedError) as raised:
        run_locally({"output_uri": str(tmp_path / "run"), "iterations": 1})
    goes_on = f"`sppo resume {tmp_path / 'run'}` goes on from there"
    head, *traceback = str(raised.value).splitlines()
    assert head == f"the run failed in iteration 1, generate: exit code 1; {goes_on}"
    assert traceback[-1] == "  RuntimeError: generate was to fail"
    assert [call[:2] for call in calls()] == [["prepare", 1], ["generate", 1], ["finish", "FAILED"]]


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (2, ConfigError, "correct the input and run again"),
        (3, InfrastructureError, "when that is mended, `sppo resume {}` goes on"),
        (4, RunFailedError, "`sppo resume {}` goes on from there"),
    ],
)
def test_on_one_machine_a_run_ends_as_the_stage_that_failed_first(
    planned, tmp_path, monkeypatch, code, kind, advice, capsys
):
    monkeypatch.setattr("sppo_pipelines.local._QUIET", {})
    # The other shard goes on for a while, and fails otherwise.
    planned(decisions=["stop"], shards=2, fails="rank", exits=[code, "s3://bucket: no such object"])
    with pytest.raises(kind) as raised:
        run_locally({"output_uri": str(tmp_path / "run"), "iterations": 1})
    failed = "the run failed in iteration 1, rank, shard 1: s3://bucket: no such object"
    told = f"{failed}; {advice.format(tmp_path / 'run')}"
    assert (str(raised.value), raised.value.exit_code) == (told, code)
    assert "error: s3://bucket: no such object" in capsys.readouterr().out
