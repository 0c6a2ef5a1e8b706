"""What the pipeline does between the stages: the real pipeline and local runner, with stages that only tell."""

import builtins
import json
from pathlib import Path

import pytest
from kfp import local

from pipelines.sppo import make_pipeline

STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.mark.parametrize(
    ("decisions", "shards", "best"),
    [
        (["stop"], 1, "pi_2"),
        (["continue", "stop"], 2, "pi_3"),
        (["continue", "continue", "stop"], 1, "pi_4"),
        (["keep-previous"], 2, "pi_1"),
        (["continue", "keep-previous"], 3, "pi_2"),
    ],
)
def test_gates_decide_at_run_time(tmp_path, monkeypatch, decisions, shards, best):
    trace = tmp_path / "trace"
    monkeypatch.setattr(builtins, "print", print)  # the local runner's threads do not always give it back
    monkeypatch.chdir(tmp_path)  # a step's process looks for modules in its working directory first, then in PYTHONPATH
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    monkeypatch.setenv("STAND_IN_TRACE", str(trace))
    monkeypatch.setenv("STAND_IN_PLAN", json.dumps({"decisions": decisions, "shards": shards}))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"), raise_on_error=True)
    make_pipeline(max_iterations=3)(config={"preset": "cpu"}, iterations=len(decisions))

    called = [json.loads(line) for line in trace.read_text().splitlines()]
    assert called[0] == ["prepare", 3]
    assert called[-1] == ["publish", best]
    for iteration in range(1, len(decisions) + 1):
        policy, each = f"pi_{iteration}", range(shards)
        generated = [call for call in called if call[:2] == ["generate", iteration]]
        assert sorted(generated) == [["generate", iteration, shard, shards, policy] for shard in each]
        ranked = [call for call in called if call[:2] == ["rank", iteration]]
        assert sorted(ranked) == [["rank", iteration, s, shards, f"responses {iteration}/{s}"] for s in each]
        pairs = [f"pairs {iteration}/{shard}" for shard in each]
        assert ["train", iteration, policy, pairs] in called
        assert ["evaluate", iteration, f"pi_{iteration + 1}", policy] in called
    assert len(called) == 2 + len(decisions) * (2 * shards + 2)


@pytest.mark.parametrize("passed", [True, False])
def test_a_run_comes_to_its_end_whatever_its_gate_says(tmp_path, monkeypatch, passed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    monkeypatch.setenv("STAND_IN_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("STAND_IN_PLAN", json.dumps({"decisions": ["stop"], "shards": 1, "passed": passed}))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"), raise_on_error=True)
    run = make_pipeline(max_iterations=1)(config={"preset": "cpu"}, iterations=1)
    assert run.outputs == {"Output": "published"}
