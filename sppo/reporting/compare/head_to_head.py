"""The two best models head to head: their committed answers before the runs' judge, nothing is generated."""

from __future__ import annotations

from dataclasses import replace

from sppo.config.run import RunConfig
from sppo.errors import ConfigError
from sppo.evaluation.winrate import contest
from sppo.judging.load import judge_digest, load_judge
from sppo.models.moved import moved
from sppo.preparing.pins import places
from sppo.progress import heartbeat
from sppo.reporting.compare.comparison import Comparison, even_contest
from sppo.store.opening import open_store


def head_to_head(comparison: Comparison) -> Comparison:
    """The same comparison with the win rate of B's best model over A's.

    Raises:
        ConfigError: if prompts, judge or sampling differ, or the judge is no longer the one that the runs had.
    """
    differing = ", ".join(what for what in comparison.obstacles if what != "base model")
    if differing:
        raise ConfigError(f"--judge: A and B have no contest that one judge could hold, they differ in {differing}")
    config = comparison.a.report.config
    with moved(places(open_store(config.output_uri))):
        return _held(comparison, config)


def _held(comparison: Comparison, config: RunConfig) -> Comparison:
    a, b = comparison.a, comparison.b
    if judge_digest(config.preference_model, config.judge) != a.inputs["judge"]:
        raise ConfigError(f"--judge: {config.preference_model} is not what it was when the runs were evaluated")
    judge = load_judge(config.preference_model, config.judge)
    with heartbeat(f"judging B against A with {judge.name}"):
        held = contest(
            judge,
            [each.prompt for each in a.held_out],
            [each.answers for each in b.held_out],
            [each.answers for each in a.held_out],
            config.rank.temperature,
        )
    return replace(comparison, head_to_head=even_contest(a, b, held.win_rates))
