"""Run the benchmarks that a configuration asks for on one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sppo.bench import alpaca_eval, leaderboard, mt_bench
from sppo.bench.base import Result, Subject
from sppo.config.run import RunConfig
from sppo.config.sections.bench import BENCHMARKS, Benchmark
from sppo.models.fetch import policy_digest
from sppo.sampling.load import LazyEngine
from sppo.store.base import Store

MEASURES: dict[Benchmark, Callable[[Subject], Result]] = {
    "alpaca_eval": alpaca_eval.measure,
    "mt_bench": mt_bench.measure,
    "leaderboard": leaderboard.measure,
}


def run_benchmarks(config: RunConfig, store: Store, model_uri: str) -> Iterator[Result]:
    """The results one by one, each committed before it is given; what is committed already is not measured again.

    Args:
        config: `bench` says what to run and who judges, `generate` with which engine the model answers.
        store: where the results belong.
        model_uri: the model under test.
    """
    engine = LazyEngine(model_uri, config.generate, config.bench.context)
    subject = Subject(config, store, model_uri, policy_digest(model_uri), engine)
    try:
        for name in BENCHMARKS:  # lm-eval loads the model itself, so it comes last
            if name in config.bench.benchmarks:
                yield MEASURES[name](subject)
    finally:
        engine.close()
