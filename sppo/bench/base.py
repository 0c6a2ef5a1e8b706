"""What every benchmark has: a model under test, answers and a result that are committed once, and a judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sppo.config.identity import sha256_of
from sppo.config.run import RunConfig
from sppo.config.sections.bench import JUDGED, Benchmark
from sppo.errors import ConfigError
from sppo.judging.llm.endpoint import Endpoint
from sppo.preparing import chat
from sppo.preparing.jsonl import read_jsonl
from sppo.progress import heartbeat
from sppo.sampling.engine import Sampling
from sppo.sampling.load import LazyEngine
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.local_cache import cached
from sppo.store.once import run_once

Message = dict[str, str]
"""A message of a chat: its role and its content."""


class Result(BaseModel):
    """What a benchmark found, and what it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    benchmark: Benchmark
    model: str
    model_digest: str
    judge: str
    """Who gave the verdicts: an endpoint's model and address, or the package whose code scores."""
    prompts: str
    prompts_digest: str
    """SHA-256 of everything that was asked, with the references that the answers are held against."""
    requests: int
    """Asked of the judge, or, where code scores, of the model."""
    figures: dict[str, float]

    def tracked(self) -> dict[str, float]:
        """The figures under the names by which they are tracked."""
        return {f"bench/{self.benchmark}/{name}": value for name, value in self.figures.items()} | {
            f"bench/{self.benchmark}/requests": float(self.requests)
        }


@dataclass(frozen=True)
class Subject:
    """The model under test, and where its results belong."""

    config: RunConfig
    store: Store
    uri: str
    digest: str
    engine: LazyEngine

    def inputs(self, benchmark: Benchmark, prompts_digest: str) -> dict[str, str]:
        """What a benchmark's answers depend on, as `run_once` compares it."""
        wanted, generate = self.config.bench, self.config.generate
        settings = {
            "benchmark": getattr(wanted, benchmark).model_dump(),
            "context": wanted.context,
            "engine": [generate.engine, generate.dtype],
            "seed": self.config.seed,
        }
        return {"model": self.digest, "prompts": prompts_digest, "settings": sha256_of(settings)}

    def answer(self, chats: Sequence[Sequence[Message]], sampling: Sampling, seeds: Sequence[int]) -> list[str]:
        """One answer to each chat.

        Raises:
            ConfigError: if a chat leaves no room for an answer in `bench.context`.
        """
        tokenizer = chat.load_tokenizer(self.engine.policy.base)
        prompts = [chat.encode_chat(tokenizer, messages) for messages in chats]
        longest = max(map(len, prompts))
        if longest >= self.config.bench.context:
            raise ConfigError(f"bench.context: a prompt has {longest} tokens, and needs room for an answer; raise it")
        engine = self.engine.load()
        with heartbeat(f"answering {len(prompts)} prompts"):
            return [responses[0].text for responses in engine.sample(prompts, sampling, seeds)]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def answers_once(
    subject: Subject, benchmark: Benchmark, inputs: Mapping[str, str], work: Callable[[], list[dict[str, Any]]]
) -> list[Any]:
    """The model's answers, committed by themselves: a judge that fails later does not cost them.

    Args:
        subject: the model.
        benchmark: which one.
        inputs: what the answers depend on.
        work: gives the answers.
    """
    key = keys.benchmark_answers(benchmark, sha256_of(dict(inputs)))

    def write(output: Path) -> dict[str, float]:
        write_jsonl(output / keys.BENCHMARK_ANSWERS_FILE, work())
        return {}

    run_once(subject.store, key, inputs, write)
    answers = subject.store.read_committed(key, keys.BENCHMARK_ANSWERS_FILE)
    return [row for _, row in read_jsonl(answers, keys.BENCHMARK_ANSWERS_FILE)]


def result_once(
    subject: Subject, benchmark: Benchmark, inputs: Mapping[str, str], work: Callable[[Path], Result]
) -> Result:
    """A benchmark's result, measured unless that was done before.

    Args:
        subject: the model.
        benchmark: which one.
        inputs: what the result depends on.
        work: measures, and leaves what a reader may want to check in the folder that it is given.
    """
    key = keys.benchmark(benchmark, sha256_of(dict(inputs)))

    def write(output: Path) -> dict[str, float]:
        result = work(output)
        (output / keys.BENCHMARK_FILE).write_text(result.model_dump_json(indent=1), encoding="utf-8")
        return result.tracked()

    run_once(subject.store, key, inputs, write)
    return Result.model_validate_json(subject.store.read_committed(key, keys.BENCHMARK_FILE))


def check(config: RunConfig) -> None:
    """Refuse, before anything is computed, a judge that the benchmarks asked for cannot have.

    Raises:
        ConfigError: if it is no endpoint.
    """
    if JUDGED & set(config.bench.benchmarks):
        load_judge(config)


def load_judge(config: RunConfig) -> Endpoint:
    """The judge of the configuration; nothing is sent.

    Raises:
        ConfigError: if there is none, or it is no endpoint.
    """
    if not config.bench.judge:
        raise ConfigError("bench.judge: none is set; write bench.judge=openai:MODEL@https://HOST/v1")
    return Endpoint(config.bench.judge, config.judge.llm, "bench.judge")


def reply_cache(config: RunConfig, inputs: Mapping[str, str]) -> Path | None:
    """A folder of this machine for what a judge said of these inputs, so that a retry pays for it once; None: none."""
    if not config.judge.cache:
        return None
    folder = cached("bench", sha256_of(dict(inputs))[:32])
    folder.mkdir(parents=True, exist_ok=True)
    return folder
