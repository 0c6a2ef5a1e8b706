"""What a report says first, and what it says of the run: the verdict, curves in characters, digests, time and cost."""

from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.publish import PricesConfig
from sppo.reporting.report import collect, render_html, render_markdown
from sppo.reporting.report.figures import sparkline
from sppo.reporting.report.provenance import duration, time_columns, time_rows
from sppo.reporting.report.verdict import (
    certainty_sentence,
    decision_sentence,
    gate_sentence,
    headline,
    second_judge_sentence,
)
from sppo.store import keys
from tests.conftest import lineage_of

pytestmark = pytest.mark.usefixtures("no_charts")


def words(text: str) -> str:
    return " ".join(unescape(text).replace("\\", "").split())


def with_figures(report, **figures):
    """The same report with other evaluation figures in every iteration."""
    more = {f"eval/{name}": value for name, value in figures.items()}
    return replace(report, iterations=[replace(e, figures={**e.figures, **more}) for e in report.iterations])


@pytest.mark.parametrize(
    ("low", "word"),
    [
        (0.51, "Better than the base"),
        (0.5, "Not certainly better"),
        (0.45, "Not certainly better"),
        (0.31, "Not better than"),
        (0.2, "Worse"),
    ],
)
def test_the_verdict_follows_the_interval(play_run, low, word):
    run = play_run(decisions=("stop",), lows=(low,))
    assert headline(collect(run.config, run.store)).startswith(word)


@pytest.mark.parametrize(("held_out", "ties", "found"), [(6, 0, True), (5, 0, False), (64, 58, True), (64, 59, False)])
def test_few_prompts_are_no_finding_whatever_their_interval(play_run, held_out, ties, found):
    """Of five prompts that are all won the interval is a point, and the sign test gives p = 0.0625."""
    run = play_run(decisions=("stop",), lows=(0.9,), **{"prepare.held_out": held_out})
    report = with_figures(collect(run.config, run.store), ties_vs_base=ties)
    assert report.passed is found
    assert headline(report).startswith(
        "Better than the base" if found else "Not certainly better than the base: 5 held"
    )
    told = "5 held-out prompts tell the two apart, and a finding needs 6" in gate_sentence(report)
    assert told is not found


def test_a_gate_that_asks_for_nothing_is_not_passed_by_the_base(play_run):
    run = play_run(decisions=("keep-previous",), lows=(0.9,), **{"evaluate.gate.required_vs_base": 0})
    said = gate_sentence(collect(run.config, run.store))
    assert said == "The gate is not passed: no iteration was kept, so that the base model is published."


def test_the_verdict_comes_first_in_both_formats(play_run):
    run = play_run(decisions=("continue", "keep-previous"), lows=(0.52, 0.4), **{"prices.train": 1.0})
    report = collect(run.config, run.store)
    decided = "After iteration 2 the run kept the previous model: the win rate is what it is in iteration 2."
    assert decision_sentence(report.iterations[-1]) == decided
    for text in map(words, (render_html(report), render_markdown(report))):
        first = [text.index(part) for part in (headline(report), certainty_sentence(report), decided)]
        assert first == sorted(first)
        assert first[-1] < text.index("win rate vs previous"), "the tables come after it"
        assert text.index("Answers side by side") < text.index("Time and cost")


def test_certainty_names_the_test_the_length_and_the_instructions(play_run):
    run = play_run(lows=(0.41, 0.52))
    report = collect(run.config, run.store)
    plain = certainty_sentence(report)
    assert "at equal length the win rate is 0.518" in plain and "1.08 times as long" in plain
    assert "sign test" not in plain and "instructions" not in plain, "what was not measured is not spoken of"
    measured = {"instructions_instruction_strict": 0.75, "instructions_instruction_strict_base": 0.8}
    full = certainty_sentence(with_figures(report, sign_test_p_vs_base=0.012, **measured))
    assert "a sign test over 64 held-out prompts gives p = 0.012" in full
    assert "of the instructions asked after each iteration it follows 0.75, the base 0.800" in full


def test_the_judges_disagreement_is_told(play_run):
    run = play_run(**{"evaluate.second_judge": "/a/second"})
    said = {"win_rate_vs_base": 0.4, "disagreement": 0.25, "mean_probability_vs_base": 0.45}
    report = with_figures(collect(run.config, run.store), **{f"second_{name}": value for name, value in said.items()})
    sentence = second_judge_sentence(report)
    assert "a mean probability of 0.45; it differs from the first on 0.25 of the answer pairs" in sentence


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 50))
def test_a_sparkline_spans_its_range(values, width):
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width) and set(drawn) <= set("▁▂▃▄▅▆▇█")
    if len(values) <= width and len(set(values)) > 1:
        assert drawn[values.index(max(values))] == "█" and drawn[values.index(min(values))] == "▁"


def test_a_sparkline_averages_neighbours():
    assert sparkline([0, 0, 1, 1, 2, 2, 7, 7], width=4) == "▁▂▃█"
    assert sparkline([3, 3]) == "▁▁" and sparkline([]) == ""


def test_the_training_curves_are_drawn_in_markdown(play_run):
    run = play_run()
    rows = [line for line in render_markdown(collect(run.config, run.store)).splitlines() if "▁▃▆█" in line]
    assert len(rows) == 2 and all("█▆▃▁" in row for row in rows), "log-ratios rise, the loss falls"


def commit(run, key: str, seconds: float) -> None:
    folder = run.store.root / "made"
    folder.mkdir(exist_ok=True)
    (folder / "table").write_text(key)
    run.store.commit(key, folder, {}, {}, seconds)


def test_time_adds_up_over_tasks_and_iterations(play_run):
    run = play_run(shards=2, **{"generate.chunk_size": 2, "prices.generate": 3.0, "prices.rank": 1.0})
    for t in (1, 2):
        for part in range(2):
            commit(run, lineage_of(run.config).chunk_key(t, part), 900.0 * t)
            commit(run, lineage_of(run.config).preferences_key(t, part, 2), 10.0 * t)
    report = collect(run.config, run.store)
    assert [each.seconds["generate"] for each in report.iterations] == [1800, 3600]
    assert all({"train", "evaluate"} < set(each.seconds) for each in report.iterations)
    assert time_columns(report) == ("stage", "iteration 1", "iteration 2", "all", "cost")
    generate, rank, *_, total = time_rows(report)
    assert generate == ("generate", "30 min 0 s", "1 h 0 min", "1 h 30 min", "4.50")
    assert rank == ("rank", "20.0 s", "40.0 s", "1 min 0 s", "0.02")
    assert total[0] == "all" and total[-1] == "4.52"
    text = render_markdown(report)
    assert "Time and cost" in text and "1 h 30 min" in text and "4.50" in text


def test_without_prices_there_is_no_cost(play_run):
    run = play_run()
    report = collect(run.config, run.store)
    assert time_columns(report)[-1] == "all" and {len(row) for row in time_rows(report)} == {4}
    assert time_rows(report)[0] == ("generate", "–", "–", "–"), "no time of it is stored"
    assert "cost" not in render_markdown(report).partition("## Time")[2].partition("## What was run")[0]


def test_a_price_changes_the_report_alone(play_run):
    run = play_run()
    other = lineage_of(run.config.model_copy(update={"prices": PricesConfig(train=9.0)}))
    assert other.published_key == lineage_of(run.config).published_key
    assert other.report_key != lineage_of(run.config).report_key


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_everything_that_a_result_depends_on_has_its_digest(play_run, render):
    run = play_run()
    report = collect(run.config, run.store)
    prepared = {keys.prompts_file(t): f"{t}c" * 32 for t in (1, 2, 3)}
    text = render(replace(report, tables={**prepared, keys.HELD_OUT_FILE: "ff" * 32}))
    inputs = report.iterations[0].inputs
    for digest in (run.config.digest(), inputs["base"], inputs["judge"], inputs["held_out"], "1c" * 32, "2c" * 32):
        assert digest in text
    assert "3c" * 32 not in text, "iteration 3 was not played"
    assert all(each.inputs["new"] in text for each in report.iterations)
    assert "torch 2." in text.replace("\\", "")
