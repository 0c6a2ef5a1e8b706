"""Files and folders that a configuration names by a path: the pods of a cluster have them in their images, or not."""

from __future__ import annotations

from collections.abc import Iterator

from sppo.config.run import RunConfig
from sppo.judging.registry import kinds
from sppo.store.uri import Local, parse


def warnings(config: RunConfig) -> list[str]:
    """A line for each value that is a path."""
    return [
        f"{key}: {uri} is a path, which the pods find only in their own images; copy it to S3, and name s3://…"
        for key, uri in _named(config)
        if isinstance(parse(uri), Local)
    ]


def _named(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The settings that name a place, and the place."""
    yield "base_model", config.base_model
    yield from (("prompts", uri) for uri in config.prompt_sets())
    judges = [("preference_model", config.preference_model)]
    judges += [(f"judge.mixture.{number}.model", member.model) for number, member in enumerate(config.judge.mixture)]
    judges += [("evaluate.second_judge", uri) for uri in config.evaluate.second_judge]
    yield from ((key, place) for key, uri in judges if (place := _place(uri)))
    yield "evaluate.instructions.prompts", config.evaluate.instructions.prompts
    bench = config.bench
    benchmarks = {
        "leaderboard": ("bench.leaderboard.include_path", bench.leaderboard.include_path),
        "alpaca_eval": ("bench.alpaca_eval.reference", bench.alpaca_eval.reference),
        "mt_bench": ("bench.mt_bench.source", bench.mt_bench.source),
    }
    yield from (place for name, place in benchmarks.items() if name in bench.benchmarks and place[1])


def _place(judge: str) -> str:
    scheme = judge.partition(":")[0]
    return next((kind.place(judge) for kind in kinds() if scheme in kind.schemes), judge)
