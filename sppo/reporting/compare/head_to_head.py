"""The two best models head to head: their committed answers before one judge, nothing is generated."""

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


def head_to_head(comparison: Comparison, uri: str = "") -> Comparison:
    """The same comparison with the win rate of B's best model over A's.

    Args:
        comparison: of two runs.
        uri: of the judge that is asked; empty: the runs' own.

    Raises:
        ConfigError: if prompts or sampling differ; where no judge is named also if the runs had two, or theirs is no
            longer the one that it was.
    """
    differing = ", ".join(what for what in comparison.obstacles if not _is_no_matter(what, uri))
    if differing:
        flag = "--judged-by" if uri else "--judge"
        hint = "" if uri else "; --judged-by names a judge for both"
        raise ConfigError(
            f"{flag}: A and B have no contest that one judge could hold, they differ in {differing}{hint}"
        )
    config = comparison.a.report.config
    with moved(places(open_store(config.output_uri))):
        return _held(comparison, config, uri)


def _is_no_matter(what: str, uri: str) -> bool:
    """Whether it does not matter to a contest that the runs differ in something."""
    return what == "base model" or (bool(uri) and (what == "judge" or what.startswith("judge.")))


def _held(comparison: Comparison, config: RunConfig, uri: str) -> Comparison:
    a, b = comparison.a, comparison.b
    if not uri and judge_digest(config.preference_model, config.judge) != a.inputs["judge"]:
        raise ConfigError(f"--judge: {config.preference_model} is not what it was when the runs were evaluated")
    judge = load_judge(uri or config.preference_model, config.judge)
    with heartbeat(f"judging B against A with {judge.name}"):
        held = contest(
            judge,
            [each.prompt for each in a.held_out],
            [each.answers for each in b.held_out],
            [each.answers for each in a.held_out],
            config.rank.temperature,
        )
    evidence = even_contest(a, b, held.win_rates)
    return replace(comparison, head_to_head=evidence, held_before=uri or config.preference_model)
