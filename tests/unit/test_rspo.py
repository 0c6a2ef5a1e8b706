"""RSPO: the formula in float64, the divergences' own gradients on a table, SPPO where its weights are 0."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.objectives import dpo, ipo, rspo, sppo
from sppo.algorithm.objectives.base import Responses, needs_base
from sppo.config.plugins import OBJECTIVES
from sppo.config.run import resolve
from sppo.config.sections.train import RspoConfig, TrainConfig
from sppo.errors import ConfigError

NUMBERS = st.floats(-8, 8)
RESPONSES = st.lists(st.tuples(NUMBERS, st.floats(0, 1), NUMBERS), min_size=2, max_size=5)
WEIGHTS = st.floats(0, 10)
ETAS = st.floats(1, 1e4)


def settings_of(eta, forward, reverse):
    return TrainConfig(objective="rspo", eta=eta, rspo=RspoConfig(forward=forward, reverse=reverse))


def tensors(drawn):
    """r, P and s, each of shape (n,), in float64."""
    return torch.tensor(drawn, dtype=torch.float64).T


@given(RESPONSES, ETAS, WEIGHTS, WEIGHTS)
def test_the_loss_is_the_formula(drawn, eta, forward, reverse):
    r, p, s = np.array(drawn).T
    game = (r - eta * (p - 0.5)) ** 2
    held = forward * (r**2 / 2 - (np.exp(-s) - 1) * r) + reverse * (r + s) ** 2 / 2
    loss = rspo.loss(Responses(*tensors(drawn)), settings_of(eta, forward, reverse))
    assert float(loss) == pytest.approx(np.mean(game + held), rel=1e-12, abs=1e-9)


@given(RESPONSES, ETAS)
def test_with_weights_of_0_it_is_sppo_to_the_last_bit(drawn, eta):
    settings = settings_of(eta, 0, 0)
    for dtype in (torch.float32, torch.float64):
        responses = Responses(*(each.to(dtype) for each in tensors(drawn)))
        assert torch.equal(rspo.loss(responses, settings), sppo.loss(responses, settings))


@st.composite
def policies(draw):
    """pi_t, mu and the preferences between some answers; float64."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    answers = draw(st.integers(2, 6))
    logits = random.normal(size=(answers, answers))
    preference = 1 / (1 + np.exp(logits.T - logits))
    return map(torch.tensor, (random.dirichlet(np.full(answers, 2.0)), random.dirichlet(np.ones(answers)), preference))


@given(policies(), st.floats(0.1, 100), WEIGHTS, WEIGHTS)
def test_a_first_step_descends_the_paper_s_sum_of_the_game_and_the_divergences(drawn, eta, forward, reverse):
    """Where pi is pi_t, over responses y ~ pi_t: the gradient of -2 eta P(pi > pi_t) + f KL(mu, pi) + b KL(pi, mu)."""
    start, base, preference = drawn
    base = (base + 0.01) / (base + 0.01).sum()
    start = (start + 0.01) / (start + 0.01).sum()
    logits = start.log().requires_grad_()
    log_policy = logits.log_softmax(0)
    policy, win = log_policy.exp(), preference @ start
    wanted = -2 * eta * policy @ win
    wanted = wanted + forward * (base * (base.log() - log_policy)).sum()
    wanted = wanted + reverse * (policy * (log_policy - base.log())).sum()
    (expected,) = torch.autograd.grad(wanted, logits)

    log_policy = logits.log_softmax(0)
    drawn_alone = [each[:, None] for each in (log_policy - start.log(), win, start.log() - base.log())]
    loss = start @ rspo.loss(Responses(*drawn_alone), settings_of(eta, forward, reverse))
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


@given(policies(), st.floats(0.1, 10), WEIGHTS)
def test_the_least_loss_with_the_reverse_divergence_is_magnetic_mirror_descent(drawn, eta, reverse):
    start, base, preference = drawn
    power = 1 / (1 + reverse / 2)
    win = preference @ start
    s = start.log() - base.log()
    target = (power * (start.log() + reverse / 2 * base.log() + eta * (win - 0.5)) - start.log()).requires_grad_()
    rspo.loss(Responses(target, win, s), settings_of(eta, 0, reverse)).backward()
    torch.testing.assert_close(target.grad, torch.zeros_like(target), rtol=0, atol=1e-9)


def test_it_alone_asks_for_the_base():
    assert [name for name in OBJECTIVES.names() if needs_base(OBJECTIVES.load(name))] == ["rspo"]


@pytest.mark.parametrize("name", ["sppo", "dpo", "ipo"])
@pytest.mark.parametrize("weight", ["forward", "reverse"])
def test_its_weights_are_refused_where_nothing_reads_them(name, weight):
    with pytest.raises(ConfigError, match=f"rspo needs objective=rspo: with {name} nothing reads it"):
        resolve({"train.objective": name, f"train.rspo.{weight}": 0.25})
    assert resolve({"train.objective": "rspo", f"train.rspo.{weight}": 0.25}).train.rspo != RspoConfig()


@pytest.mark.parametrize("objective", [dpo, ipo])
def test_the_baselines_look_at_the_pair_alone(objective):
    settings = TrainConfig(eta=10.0)
    pair = Responses(torch.tensor([1.5, -0.5]), torch.tensor([0.9, 0.1]))
    more = Responses(torch.tensor([1.5, -0.5, 7.0]), torch.tensor([0.9, 0.1, 0.6]))
    assert torch.equal(objective.loss(pair, settings), objective.loss(more, settings))


def test_the_baselines_by_hand():
    """beta = 0.1, a difference of 2: log(1 + exp(-0.2)) = 0.598139 and (2 - 5)^2 = 9."""
    pair = Responses(torch.tensor([1.5, -0.5], dtype=torch.float64), torch.tensor([0.9, 0.1]))
    assert float(dpo.loss(pair, TrainConfig(eta=10.0))) == pytest.approx(0.5981388693815918, rel=1e-12)
    assert float(ipo.loss(pair, TrainConfig(eta=10.0))) == pytest.approx(9, rel=1e-12)
