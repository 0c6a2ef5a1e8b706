"""A comparison in sentences and in the cells of tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sppo.config.sections.evaluate import JUDGES
from sppo.evaluation.statistics import FEWEST, Interval
from sppo.reporting.compare.comparison import Changes, Comparison, Evidence, measured_alike
from sppo.reporting.compare.side import Answered, Side
from sppo.reporting.report import IterationReport
from sppo.reporting.report.figures import share, with_interval

WIN_RATE = "eval/win_rate_vs_base"
ROWS = {
    WIN_RATE: "win rate vs base",
    "eval/lc_win_rate_vs_base": "at equal length",
    "eval/mean_probability_vs_base": "mean probability",
    **{f"eval/{judge}_win_rate_vs_base": f"by the {judge} judge" for judge in JUDGES},
    "eval/win_rate_vs_previous": "win rate vs previous",
    "eval/mean_length": "mean length",
    "eval/instructions_instruction_strict": "instructions followed",
}
"""The figures that are set against each other, iteration by iteration."""
BEST_COLUMNS = ("", "run", "best model", "win rate vs base", "P vs base", "at equal length")
ROW_COLUMNS = ("iteration", "figure", "A", "B", "B − A")
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """A figure of an iteration in both runs."""

    iteration: int
    label: str
    a: str
    b: str
    difference: str


def headline(comparison: Comparison) -> str:
    """Which run is better, in one sentence that says how sure it is."""
    if comparison.same_model:
        return "A and B have the same best model."
    evidence = comparison.difference or comparison.head_to_head
    if evidence is None:
        return "The results of A and B do not compare, so neither is known to be better."
    if comparison.difference is not None:
        of_a, of_b = (share(float(side.best_win_rates.mean())) for side in (comparison.a, comparison.b))
        difference = signed_interval(evidence.interval)
        why = f"the win rate over the base of its best model is {of_b} against {of_a}, a difference of {difference}"
    else:
        why = f"its best model wins {interval(evidence.interval)} of the contests with that of A"
    if evidence.direction != "undecided":
        return f"B is {evidence.direction} than A: {why}."
    if evidence.differing < FEWEST:
        told = f"{evidence.differing} held-out prompts tell A and B apart, and a finding needs {FEWEST}"
        return f"Too few prompts to say whether B is better than A ({told}): {why}."
    return f"The data does not say whether B is better than A: {why}."


def sentences(comparison: Comparison) -> Iterator[str]:
    """What stands behind the headline, or in its way."""
    if comparison.obstacles:
        listed = "; ".join(f"{what}: {differs}" for what, differs in comparison.obstacles.items())
        yield f"Win rates over the base do not compare, because the runs differ in what these rest on ({listed})."
    if comparison.difference is not None and not comparison.same_model:
        yield _signs(comparison.difference)
        assert comparison.length_controlled is not None
        yield _at_equal_length(comparison, comparison.length_controlled)
    if comparison.head_to_head is not None:
        held = comparison.head_to_head
        won = f"B's best model wins {interval(held.interval)} of the contests with A's"
        yield f"Head to head before {comparison.held_before}, {won}. {_signs(held)}"


def _signs(evidence: Evidence) -> str:
    signs = evidence.signs
    return (
        f"B is ahead on {signs.wins} of {evidence.differing + signs.ties} held-out prompts, A on {signs.losses}; "
        f"sign test p = {signs.p_value:.2g}."
    )


def _at_equal_length(comparison: Comparison, controlled: Interval) -> str:
    told = f"At equal length the difference is {signed_interval(controlled)}"
    borne_out = {"better": controlled.low > 0, "worse": controlled.high < 0, "undecided": True}
    if not borne_out[comparison.direction or "undecided"]:
        return f"{told}, which does not bear this out: mind how long the answers are."
    return f"{told}."


def best_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Each run with its best model, under `BEST_COLUMNS`."""
    return [_best_row(side) for side in (comparison.a, comparison.b)]


def _best_row(side: Side) -> tuple[str, ...]:
    figures = side.report.best.figures if side.report.best else {}
    shown = (WIN_RATE, "eval/mean_probability_vs_base", "eval/lc_win_rate_vs_base")
    rates = (with_interval(figures, name) for name in shown)
    return (side.name, side.report.config.output_uri, side.best_name, *rates)


def iteration_rows(comparison: Comparison) -> list[Row]:
    """By iteration: each figure of `ROWS` that either run has, whether weights are dropped, and the gate's decision."""
    reports = [{each.iteration: each for each in side.report.iterations} for side in (comparison.a, comparison.b)]
    return [
        row
        for t in sorted({*reports[0], *reports[1]})
        for row in _rows_of(comparison, t, reports[0].get(t), reports[1].get(t))
    ]


def _rows_of(comparison: Comparison, t: int, a: IterationReport | None, b: IterationReport | None) -> Iterator[Row]:
    figures = [each.figures if each else {} for each in (a, b)]
    for name, label in ROWS.items():
        if name in figures[0] or name in figures[1]:
            of_a, of_b = (with_interval(each, name) for each in figures)
            yield Row(t, label, of_a, of_b, _difference(comparison, name, a, b))
    if (a and a.dropped) or (b and b.dropped):
        yield Row(t, "weights", _weights(a), _weights(b), "")
    yield Row(t, "gate", a.decision if a else NOTHING, b.decision if b else NOTHING, "")


def _weights(each: IterationReport | None) -> str:
    return NOTHING if each is None else "dropped" if each.dropped else "there"


def _difference(comparison: Comparison, name: str, a: IterationReport | None, b: IterationReport | None) -> str:
    if a is None or b is None or name not in a.figures or name not in b.figures:
        return NOTHING
    if name == WIN_RATE and a.iteration in comparison.by_iteration:
        return signed_interval(comparison.by_iteration[a.iteration].interval)
    if not measured_alike(comparison, name, a, b):
        return NOTHING
    difference = b.figures[name] - a.figures[name]
    return signed(difference, 1 if name == "eval/mean_length" else 3)


def change_rows(changes: Changes) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """What differs, as key, value in A and value in B, under a heading for its kind; kinds that agree are left out."""
    kinds = (
        ("Settings that determine the results", changes.decisive, None),
        ("Settings that change no result", changes.free, None),
        ("Content, by SHA-256", changes.content, 16),
    )
    return [
        (kind, [(each.key, _value(each.a, clipped), _value(each.b, clipped)) for each in differing])
        for kind, differing, clipped in kinds
        if differing
    ]


def _value(value: object, clipped: int | None) -> str:
    return NOTHING if value is None else str(value)[:clipped]


def panel(comparison: Comparison, count: int) -> list[tuple[Answered, Answered]]:
    """The first held-out prompts that both runs have, each as A's best model and as B's best model met it."""
    of_b = {each.prompt_id: each for each in comparison.b.held_out}
    both = [(each, of_b[each.prompt_id]) for each in comparison.a.held_out if each.prompt_id in of_b]
    return both[:count]


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if any(digit in text for digit in "123456789") else text[1:]


def signed_interval(difference: Interval) -> str:
    """A difference with its 95 % interval."""
    return f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}]"


def interval(rate: Interval) -> str:
    """A win rate with its 95 % interval."""
    return f"{share(rate.value)} [{share(rate.low)}, {share(rate.high)}]"
