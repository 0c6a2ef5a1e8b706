import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from sppo.algorithm.schedule import learning_rate
from sppo.config.run import RunConfig, load_preset


def rates(steps_an_epoch: int, warmup_ratio: float, schedule_epochs: int, epochs: int) -> list[float]:
    return [
        learning_rate(step, steps_an_epoch, 1.0, warmup_ratio, schedule_epochs)
        for step in range(steps_an_epoch * epochs)
    ]


@given(st.integers(1, 200), st.floats(0, 0.99), st.integers(1, 20))
def test_the_rate_rises_to_its_peak_and_then_falls_to_zero(steps, ratio, epochs):
    values = rates(steps, ratio, epochs, epochs)
    assert all(0 < value <= 1 for value in values)
    assert max(values) == 1
    top = len(values) - 1 - values[::-1].index(1)
    assert values[: top + 1] == sorted(values[: top + 1]) and values[top:] == sorted(values[top:], reverse=True)
    assert learning_rate(len(values), steps, 1.0, ratio, epochs) == 0


def test_values_at_the_boundaries():
    values = rates(10, 0.2, 1, 1)
    assert values == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


@given(st.integers(1, 400))
def test_the_paper_never_leaves_the_warm_up_in_its_only_epoch(steps):
    train = RunConfig.model_validate(load_preset("paper")).train
    values = rates(steps, train.warmup_ratio, train.schedule_epochs, train.epochs)
    assert values == sorted(values) and len(set(values)) == len(values)
    # 1 of 18 epochs of which 1.8 warm up: 10/18 of the peak is where it stops.
    if steps >= 100:
        assert values[-1] == pytest.approx(1 / 1.8, rel=0.01)


def test_a_single_step_trains():
    assert learning_rate(0, 1, 1.0, 0.1, 1) == 1


@given(st.integers(1, 60), st.floats(0, 0.99), st.integers(1, 5))
def test_the_warm_up_is_one_step_ahead_of_transformers(steps, ratio, epochs):
    total = steps * epochs
    warmup = math.ceil(total * ratio)
    assume(warmup < total)  # transformers ends a schedule of nothing else at 0
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = get_linear_schedule_with_warmup(optimizer, warmup, total).lr_lambdas[0]
    theirs = [factor(step + 1 if step < warmup else step) for step in range(total)]
    assert rates(steps, ratio, epochs, epochs) == pytest.approx(theirs)
