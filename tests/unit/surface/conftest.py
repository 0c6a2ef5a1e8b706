"""The figures that MLflow gets, from a whole run of a model so small that it takes seconds."""

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.load import load_judge
from sppo.reporting.report.figures import FIGURES
from sppo.reporting.tracking.system import sampled
from tests.judge_server import judge_server, write_mt_bench

RULES = """
def shorter(prompt, response):
    return -len(response)

def rounder(prompt, response):
    return response.count("o")
"""
SMALL = (
    "iterations=1", "prepare.held_out=6", "prepare.prompts_per_iteration=8", "prepare.max_prompt_tokens=220",
    "generate.engine=transformers", "generate.dtype=float32", "generate.responses=3", "generate.max_tokens=12",
    "preference_model=rules:rules_of_the_surface:shorter",
    "evaluate.second_judge=[rules:rules_of_the_surface:rounder, unbroken]",
    "train.dtype=float32", "train.global_batch=4", "publish.dtype=float32",
    "evaluate.max_tokens=12", "evaluate.samples=2", "evaluate.temperature=1", "evaluate.bootstrap=100",
    "evaluate.length_match=0.9",
    "evaluate.instructions.count=2", "evaluate.instructions.final=12", "evaluate.instructions.max_tokens=12",
    "evaluate.gate.keep_previous_below=0", "evaluate.gate.second_judge_below=0", "evaluate.gate.max_length_growth=0",
    "evaluate.gate.max_instruction_drop=1", "judge.llm.requests_per_second=1e6",
    "bench.context=250", "bench.alpaca_eval.max_tokens=4", "bench.mt_bench.max_tokens=4",
)  # fmt: skip
"""A run in which everything is measured."""


@pytest.fixture
def metrics(
    run_sppo: Callable[..., Any],
    tracked_folder: Path,
    tiny_llama: Path,
    tmp_path: Path,
    no_charts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> set[str]:
    """The names that MLflow got of a whole run of a tiny model, and those that other kinds of judges count."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "rules_of_the_surface.py").write_text(RULES)
    monkeypatch.setenv("SPPO_RULES", "rules_of_the_surface")
    monkeypatch.syspath_prepend(str(tmp_path))
    sample_a_machine_with_a_gpu(monkeypatch)
    write_mt_bench(tmp_path / "mt")
    reference = [{"instruction": f"What is {i}?", "output": f"It is {i}."} for i in range(4)]
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    run, prompts = str(tracked_folder), tmp_path / "prompts.jsonl"
    trained = [{"prompt": str(number), "instruction_id_list": ["punctuation:no_comma"]} for number in range(20)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in trained))
    with judge_server() as server:
        places = [
            f"output_uri={run}", f"base_model={tiny_llama}", f"prompts={prompts}", f"bench.judge={server.uri}",
            f"bench.mt_bench.source={tmp_path / 'mt'}", f"bench.alpaca_eval.reference={tmp_path / 'reference.json'}",
        ]  # fmt: skip
        for command in (
            ["prepare", *places, *SMALL],
            *([stage, run] for stage in ("generate", "rank", "train", "evaluate", "publish")),
            ["bench", run, "--benchmarks", "alpaca_eval", "mt_bench"],
        ):
            ended = run_sppo(*command)
            assert ended.code == 0, ended.err
    client = MlflowClient(f"sqlite:///{tracked_folder.parent}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    names = {name for found in client.search_runs(ids) for name in found.data.metrics}
    assert set(FIGURES) <= names, "the run measures everything that there is"
    # A grade is given for each category of the questions.
    return {re.sub(r"grade_(?!turn_).*", "grade_CATEGORY", name) for name in names} | of_judges(tiny_llama, tmp_path)


def of_judges(chat_model: Path, folder: Path) -> set[str]:
    """What the kinds of judges count beside their comparisons."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from tests.unit.pairrm_checkpoints import write_checkpoint

    reward = shutil.copytree(chat_model, folder / "reward")
    LlamaForSequenceClassification(LlamaConfig.from_pretrained(chat_model, num_labels=1)).save_pretrained(reward)
    rules = "rules:rules_of_the_surface:shorter"
    uris = [
        "mixture",
        "package:sppo",
        "openai:judge@http://127.0.0.1:9/v1",
        f"transformers:{chat_model}",
        str(reward),
        str(write_checkpoint(folder / "pairrm", "hf")),
        rules,
        "instructions:package:sppo",
    ]
    settings = JudgeConfig.model_validate({"cache": False, "mixture": [{"model": rules}]})
    return {name for uri in uris for name in load_judge(uri, settings).tracked()}


def sample_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every stage be sampled, however short it is, and find one GPU."""
    driver = ModuleType("pynvml")
    driver.__spec__ = ModuleSpec("pynvml", None)
    load = SimpleNamespace(gpu=50, used=1e9)
    answers = {
        "Init": None, "DeviceGetCount": 1, "DeviceGetHandleByIndex": 0,
        "DeviceGetUtilizationRates": load, "DeviceGetMemoryInfo": load, "DeviceGetPowerUsage": 300_000,
    }  # fmt: skip
    vars(driver).update({f"nvml{name}": lambda *_, answer=answer: answer for name, answer in answers.items()})
    vars(driver)["NVMLError"] = RuntimeError
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(inspect.unwrap(sampled), "__defaults__", (0.01, 8))
