"""Whether a verdict can be trusted: each check follows its figure, and the colour follows all of them."""

from dataclasses import replace
from html import unescape

import pytest

from sppo.process.told import tell, told
from sppo.reporting.report import (
    Check,
    checks,
    collect,
    colour,
    headline,
    model_card,
    render_html,
    render_markdown,
    verdict_lines,
)

pytestmark = pytest.mark.usefixtures("no_charts")

GOOD = {
    "eval/win_rate_vs_base": 0.7,
    "eval/win_rate_vs_base_low": 0.6,
    "eval/win_rate_vs_base_high": 0.8,
    "eval/lc_win_rate_vs_base": 0.69,
    "eval/mean_probability_vs_base": 0.6,
    "eval/second_win_rate_vs_base": 0.6,
    "eval/second_win_rate_vs_base_low": 0.5,
    "eval/second_win_rate_vs_base_high": 0.7,
    "eval/second_mean_probability_vs_base": 0.52,
    "eval/truncated_fraction": 0.05,
    "generate/truncated_fraction": 0.25,
    "rank/order_agreement": 0.95,
    "rank/saturation": 0.5,
    "train/export_slope": 1.0,
    "final/instructions_trained_gain": 0.12,
    "final/instructions_trained_gain_low": 0.05,
    "final/instructions_trained_gain_high": 0.2,
    "final/instructions_other_gain": 0.0,
    "final/instructions_other_gain_low": -0.05,
    "final/instructions_other_gain_high": 0.05,
}


def with_figures(run, **changed):
    report = collect(run.config, run.store)
    figures = {**GOOD, **{name.replace("__", "/"): value for name, value in changed.items()}}
    return replace(report, iterations=[replace(e, figures={**e.figures, **figures}) for e in report.iterations])


def with_held_out(run, count):
    report = with_figures(run)
    prepare = report.config.prepare.model_copy(update={"held_out": count})
    return replace(report, config=report.config.model_copy(update={"prepare": prepare}))


@pytest.fixture
def run(play_run):
    return play_run(decisions=("stop",), lows=(0.6,))


def test_good_figures_give_no_caution(run):
    report = with_figures(run)
    assert [check for check in checks(report) if not check.trusted] == []
    assert len(checks(report)) == 11 and colour(report) == "passed"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("eval__mean_probability_vs_base", 0.546, "mean probability over the base is 0.546"),
        ("eval__second_win_rate_vs_base", 0.5, "by the second judge"),
        ("eval__second_mean_probability_vs_base", 0.4957, "its mean probability 0.4957 (both above 0.5)"),
        ("eval__truncated_fraction", 0.2, "0.200 of the held-out answers are cut (at most 0.1); raise evaluate"),
        ("eval__lc_win_rate_vs_base", 0.6, "of answers of equal length it wins 0.6, -0.100"),
        ("generate__truncated_fraction", 0.87, "0.870 of the training responses are cut"),
        ("rank__order_agreement", 0.5, "change places in 0.500"),
        ("rank__saturation", 0.99, "saturation is 0.990 (from 0.02, no opinion, to 0.9, always sure); raise rank"),
        ("rank__saturation", 0.01, "saturation is 0.010 (from 0.02, no opinion, to 0.9, always sure); lower rank"),
        ("train__export_slope", 0.5, "of what training changed, 0.500 is in the saved model"),
        ("final__instructions_trained_gain_low", -0.01, "trained kinds"),
        ("final__instructions_other_gain_high", -0.01, "other kinds"),
        ("prepare.held_out", 63, "63 held-out prompts were answered (at least 64); raise prepare.held_out"),
    ],
)
def test_a_bad_figure_is_a_caution_and_takes_the_green_away(run, name, value, words):
    report = with_held_out(run, value) if name == "prepare.held_out" else with_figures(run, **{name: value})
    (doubt,) = [check for check in checks(report) if not check.trusted]
    assert words in doubt.said and colour(report) == "caution"
    for text in (render_html(report), render_markdown(report), model_card(report)):
        assert doubt.said in " ".join(unescape(text).replace("\\", "").split())
    assert '<section class="verdict caution"' in render_html(report)


def test_a_gate_that_is_not_passed_is_red_whatever_else(run):
    report = with_figures(run, eval__win_rate_vs_base_low=0.4)
    assert colour(report) == "failed"


def test_what_was_not_measured_gives_no_check(play_run):
    report = collect((run := play_run()).config, run.store)
    nothing = [replace(each, figures={}) for each in report.iterations]
    count = run.config.prepare.held_out
    expected = [Check(count >= 64, f"{count} held-out prompts were answered (at least 64)")]
    assert checks(replace(report, iterations=nothing)) == expected


def test_instructions_of_a_run_that_trained_on_none_are_said_to_be_so(run):
    report = with_figures(run)
    without = [
        replace(each, figures={name: value for name, value in each.figures.items() if "_trained_gain" not in name})
        for each in report.iterations
    ]
    (said,) = [check.said for check in checks(replace(report, iterations=without)) if "instructions" in check.said]
    assert said.startswith("of instructions of kinds that it was not trained on it follows 0")


@pytest.mark.parametrize(("low", "trusted"), [(0.01, False), (-0.01, True)])
def test_a_fall_of_instructions_counts_where_nothing_is_measured_at_the_end(run, low, trusted):
    report = with_figures(
        run,
        **{"eval__instructions_drop": 0.05, "eval__instructions_drop_low": low, "eval__instructions_drop_high": 0.1},
    )
    assert not [check for check in checks(report) if "fewer instructions" in check.said]
    figures = {name: value for name, value in report.iterations[0].figures.items() if not name.startswith("final/")}
    alone = replace(report, iterations=[replace(report.iterations[0], figures=figures)])
    (check,) = [check for check in checks(alone) if "fewer instructions" in check.said]
    assert check.trusted is trusted


def test_the_verdict_in_a_log_is_found_again(run, capsys):
    report = with_figures(run, eval__truncated_fraction=0.2)
    lines = verdict_lines(report)
    assert lines[0].startswith(headline(report)) and "The gate is passed" in lines[1]
    assert [line.partition(": ")[2] for line in lines[2:]] == [check.said for check in checks(report)]
    assert [line for line in lines if line.startswith("caution: ")] == [line for line in lines if "are cut" in line][1:]
    print("publishing")
    tell(["of an attempt before"])
    tell(lines)
    print("published")
    log = capsys.readouterr().out
    assert told(log) == lines
    assert told(log.partition("--- end")[0]) == [] == told("")


def test_a_second_judge_that_is_a_part_of_the_first_is_told(run):
    report = with_figures(run)
    other = replace(report, config=report.config.model_copy(update={"preference_model": "unbroken"}))
    for each, is_part in ((report, True), (other, False)):
        (said,) = [check.said for check in checks(each) if "by the second judge" in check.said]
        assert ("which is a part of the first" in said) == is_part
