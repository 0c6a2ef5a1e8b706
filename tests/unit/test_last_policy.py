"""The updates of `benchmarks/last_policy.py` minimise the system's losses, and docs/game.md shows what they reach."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks import last_policy
from benchmarks.game import GAMES, ROCK_PAPER_SCISSORS, SKEWED
from benchmarks.last_policy import LONG, SHORT
from sppo.algorithm.objectives import dpo, ipo, rspo, sppo
from sppo.algorithm.objectives.base import Responses
from sppo.config.sections.train import RspoConfig, TrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "game.md").read_text()
ETA, TAU = 0.7, 0.3


@pytest.fixture(scope="module")
def results():
    return {name: last_policy.courses(GAMES[name]) for name in last_policy.PLAYED}


def fitted(objective, settings):
    """The log-ratios of least loss over the pairs that the skewed policy draws, each answer the winner as it wins."""
    start, preference = torch.tensor(SKEWED), torch.tensor(ROCK_PAPER_SCISSORS)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    weights = start[pairs].prod(dim=1) * preference[pairs[:, 0], pairs[:, 1]]
    win, over_base = preference @ start, start.log() + np.log(3)

    def loss_and_gradient(values):
        table = torch.tensor(values, requires_grad=True)
        loss = (2 * weights * objective.loss(Responses(table[pairs], win[pairs], over_base[pairs]), settings)).sum()
        loss.backward()
        return loss.item(), table.grad.numpy()

    return minimize(loss_and_gradient, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-12}).x


@pytest.mark.parametrize(
    "objective,settings,rule",
    [
        (sppo, TrainConfig(eta=ETA), partial(last_policy.sppo, eta=ETA)),
        (ipo, TrainConfig(objective="ipo", eta=ETA), partial(last_policy.sppo, eta=ETA)),
        (dpo, TrainConfig(objective="dpo", eta=ETA / 4), last_policy.Dpo(ETA)),
        (
            rspo,
            TrainConfig(objective="rspo", eta=ETA, rspo=RspoConfig(forward=ETA * TAU, reverse=ETA * TAU)),
            partial(last_policy.rspo, eta=ETA, tau=TAU),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", "")[-4:],
)
def test_an_update_is_the_least_loss(objective, settings, rule):
    expected = rule(np.log(SKEWED)[None], ROCK_PAPER_SCISSORS[None])[0]
    difference = fitted(objective, settings) - expected
    np.testing.assert_allclose(difference, difference.mean(), atol=1e-6)  # a constant drops out when it is normalised
    assert np.ptp(expected) > 0.05


def test_dpo_follows_its_minimum_with_one_step_of_newton_an_iteration():
    rule, eta = last_policy.Dpo(0.02), 0.02
    log_policy = np.log(SKEWED)[None]
    for _ in range(200):
        ratios = rule(log_policy, ROCK_PAPER_SCISSORS[None])
        difference = ratios - last_policy.Dpo(eta)(log_policy, ROCK_PAPER_SCISSORS[None])
        np.testing.assert_allclose(difference, np.full((1, 3), difference.mean()), atol=1e-6)
        log_policy = log_policy + ratios
        log_policy -= np.log(np.exp(log_policy).sum())


def test_the_last_policy_of_rspo_is_near_the_winner_where_sppo_s_circles(results):
    played = results["rock, paper, scissors"]
    assert played["rspo", LONG].last[-1].max() <= 1e-3
    assert played["sppo, ipo", SHORT].last[-1].min() > 0.15
    assert played["dpo", SHORT].last[-1].min() > 0.05
    for courses in results.values():
        assert (courses["rspo", LONG].last[-1] < courses["rspo", SHORT].last[-1]).all()
        assert courses["rspo", SHORT].last[-1].mean() < courses["sppo, ipo", SHORT].last[-1].mean() / 10


def test_the_page_shows_what_a_fresh_run_gives(results, tmp_path):
    assert last_policy.table(results) in PAGE
    last_policy.draw(results, tmp_path / "last-policy.svg")
    assert (tmp_path / "last-policy.svg").read_bytes() == last_policy.PLOT.read_bytes()
