import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.run import resolve
from sppo.evaluation.gate import decide

NAME = "eval/win_rate_vs_previous"
SECOND = "eval/second_win_rate_vs_previous"
FALLEN = "eval/instructions_drop"
LENGTHS = {"eval/mean_length": 50.0, "eval/mean_length_base": 50.0}
BOUNDS = st.floats(0, 1)


def interval(name, value, low, high):
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def decided(figures, iteration=1, **gate):
    config = resolve({"iterations": 3, **{f"evaluate.gate.{name}": number for name, number in gate.items()}})
    return decide(config, iteration, figures)


def verdict(value: float, low: float, high: float, iteration: int = 1, **gate: float):
    return decided(interval(NAME, value, low, high) | LENGTHS, iteration, **gate)


def winning(**more):
    return interval(NAME, 0.8, 0.7, 0.9) | LENGTHS | more


@pytest.mark.parametrize(
    ("high", "decision"), [(0.4999, "keep-previous"), (0.5, "continue"), (0.5001, "continue"), (1.0, "continue")]
)
def test_only_an_interval_that_ends_below_the_bound_keeps_the_previous_model(high, decision):
    assert verdict(0.45, 0.4, high).decision == decision


def test_a_worse_model_is_not_kept_even_in_the_last_iteration():
    assert verdict(0.3, 0.2, 0.4, iteration=3).decision == "keep-previous"


@pytest.mark.parametrize(("iteration", "decision"), [(1, "continue"), (2, "continue"), (3, "stop"), (4, "stop")])
def test_the_last_iteration_stops(iteration, decision):
    assert verdict(0.6, 0.55, 0.65, iteration).decision == decision


@pytest.mark.parametrize(("value", "decision"), [(0.5199, "stop"), (0.52, "continue"), (0.53, "continue")])
def test_too_small_a_gain_stops(value, decision):
    assert verdict(value, 0.5, 0.55, stop_below=0.52).decision == decision


@pytest.mark.parametrize(("value", "decision"), [(0.49, "keep-previous"), (0.5, "stop"), (0.55, "stop")])
def test_a_run_that_ends_because_the_new_model_lost_keeps_the_previous_one(value, decision):
    assert verdict(value, 0.4, 0.6, stop_below=0.56).decision == decision
    assert verdict(value, 0.4, 0.6, stop_below=0.0).decision == "continue"


def test_a_model_is_never_dropped_where_that_is_switched_off():
    assert verdict(0.0, 0.0, 0.0, keep_previous_below=0).decision == "continue"


@pytest.mark.parametrize(
    ("length", "limit", "decision"),
    [(75, 1.5, "continue"), (76, 1.5, "keep-previous"), (51, 1, "keep-previous"), (10, 1, "continue")],
)
def test_answers_that_grew_too_long_keep_the_previous_model(length, limit, decision):
    assert decided(winning(**{"eval/mean_length": length}), max_length_growth=limit).decision == decision


def test_growth_is_unlimited_where_that_is_switched_off():
    assert decided(winning(**{"eval/mean_length": 5000}), max_length_growth=0).decision == "continue"


@pytest.mark.parametrize(("high", "decision"), [(0.49, "keep-previous"), (0.5, "continue"), (0.9, "continue")])
def test_a_second_judge_that_is_sure_of_the_contrary_keeps_the_previous_model(high, decision):
    figures = winning(**interval(SECOND, 0.4, 0.3, high))
    assert decided(figures).decision == decision
    assert decided(figures, second_judge_below=0).decision == "continue"


@pytest.mark.parametrize(
    ("drop", "low", "decision"),
    [(0.11, 0.01, "keep-previous"), (0.11, 0.0, "continue"), (0.09, 0.05, "continue"), (-0.2, -0.3, "continue")],
)
def test_instructions_that_are_forgotten_not_by_chance_keep_the_previous_model(drop, low, decision):
    figures = winning(**interval(FALLEN, drop, low, 0.3))
    assert decided(figures).decision == decision
    assert decided(figures, max_instruction_drop=1).decision == "continue"


def test_the_reason_is_what_led_to_the_decision():
    seen = "the win rate over the previous model is"
    assert verdict(0.4, 0.35, 0.45).reason == f"{seen} 0.400 [0.350, 0.450], all below 0.5"
    figures = interval(NAME, 0.45, 0.4, 0.49) | interval(SECOND, 0.3, 0.2, 0.4)
    figures |= {"eval/mean_length": 100.0, "eval/mean_length_base": 50.0} | interval(FALLEN, 0.25, 0.1, 0.4)
    assert decided(figures, iteration=3, stop_below=0.6).reason == (
        f"{seen} 0.450 [0.400, 0.490], all below 0.5; "
        f"{seen} 0.450 [0.400, 0.490], below 0.6, and the new model lost; "
        f"by the second judge {seen} 0.300 [0.200, 0.400], all below 0.5; "
        "the answers are 2.00 times as long as the base model's, above 1.5; "
        "the share of instructions followed fell by 0.250 [0.100, 0.400], more than 0.1"
    )
    assert verdict(0.6, 0.5, 0.7).reason == f"no rule speaks against it; {seen} 0.600 [0.500, 0.700]"
    assert verdict(0.6, 0.5, 0.7, iteration=3).reason == "all 3 iterations are played"
    assert verdict(0.55, 0.4, 0.7, iteration=3, stop_below=0.6).reason == (
        f"{seen} 0.550 [0.400, 0.700], below 0.6; all 3 iterations are played"
    )


@st.composite
def measured(draw):
    """Figures as an evaluation may find them."""
    low, value, high = sorted(draw(st.tuples(BOUNDS, BOUNDS, BOUNDS)))
    figures = interval(NAME, value, low, high)
    if draw(st.booleans()):
        figures |= interval(SECOND, *draw(st.permutations(sorted(draw(st.tuples(BOUNDS, BOUNDS, BOUNDS))))))
    if draw(st.booleans()):
        low, value, high = sorted(draw(st.tuples(*[st.floats(-1, 1)] * 3)))
        figures |= interval(FALLEN, value, low, high)
    return figures | {name: draw(st.floats(0, 200)) for name in LENGTHS}


RULES = st.fixed_dictionaries(
    {name: BOUNDS for name in ("keep_previous_below", "second_judge_below", "stop_below", "max_instruction_drop")}
    | {"max_length_growth": st.floats(0, 3)}
)
OFF = {
    "keep_previous_below": 0,
    "second_judge_below": 0,
    "stop_below": 0,
    "max_instruction_drop": 1,
    "max_length_growth": 0,
}


@given(measured(), st.integers(1, 4), RULES)
def test_the_decision_follows_from_the_rules_that_are_named(figures, iteration, rules):
    found = decided(figures, iteration, **rules)
    assert (found.decision == "continue") == found.reason.startswith("no rule speaks against it")
    assert decided(figures, iteration, **OFF).decision == ("stop" if iteration >= 3 else "continue")


@given(measured(), st.integers(1, 4), RULES, st.sampled_from(sorted(OFF)))
def test_switching_a_rule_off_never_makes_the_gate_stricter(figures, iteration, rules, name):
    strictness = ["continue", "stop", "keep-previous"]
    before, after = decided(figures, iteration, **rules), decided(figures, iteration, **rules | {name: OFF[name]})
    assert strictness.index(after.decision) <= strictness.index(before.decision)
