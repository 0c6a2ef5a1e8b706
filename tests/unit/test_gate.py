import pytest

from sppo.config import resolve
from sppo.gate import decide

NAME = "eval/win_rate_vs_previous"


def verdict(value: float, low: float, high: float, iteration: int = 1, **gate: float):
    config = resolve({"iterations": 3, **{f"evaluate.gate.{name}": number for name, number in gate.items()}})
    return decide(config, iteration, {NAME: value, f"{NAME}_low": low, f"{NAME}_high": high})


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


def test_a_model_is_never_dropped_where_that_is_switched_off():
    assert verdict(0.0, 0.0, 0.0, keep_previous_below=0).decision == "continue"


def test_the_reason_names_the_figures_and_the_bound():
    assert verdict(0.4, 0.35, 0.45).reason == (
        "the win rate over the previous model is 0.400 [0.350, 0.450], all of it below 0.5"
    )
    assert "all 3 iterations are played" in verdict(0.6, 0.5, 0.7, iteration=3).reason
    assert "below 0.7" in verdict(0.6, 0.5, 0.7, stop_below=0.7).reason
