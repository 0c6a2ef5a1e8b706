"""The objective against numbers worked out in float64 from the paper's formula, the gradients by hand.

Near its target a log-ratio cancels, and what is left is the rounding of the two numbers that were subtracted: no
arithmetic keeps 1e-6 of a difference that is smaller than that. `allowance` is this loss of the last digits, four
roundings (eta, P - 1/2, their product, the difference) of numbers no larger than |r| + eta |P - 1/2|. The first test
allows 1e-6 of the exact value and this; the second keeps away from cancellation and allows 1e-6 and nothing else.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.objectives import sppo
from sppo.algorithm.objectives.base import loss_at_start
from sppo.algorithm.objectives.sppo import sppo_loss
from sppo.config.sections.train import TrainConfig

# float32 can hold every number drawn, so that the reference starts from the very same ones.
LOG_RATIOS = st.floats(-200, 200, width=32)
PROBABILITIES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.5, 1.0]))
PAIRS = st.lists(st.tuples(LOG_RATIOS, LOG_RATIOS, PROBABILITIES, PROBABILITIES), min_size=1, max_size=6)
ETAS = st.one_of(st.floats(1, 1e4), st.sampled_from([1.0, 1e3, 1e4]))
TOLERANCE = 1e-6

# Of the log-ratios and of the probabilities.
DTYPES = [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float32, torch.float64)]
every_dtype = pytest.mark.parametrize("ratios,probabilities", DTYPES, ids=lambda dtype: str(dtype)[6:])


def columns(pairs):
    """r of shape (2, pairs) and P of shape (2, pairs), the chosen responses first."""
    r_w, r_l, p_w, p_l = np.array(pairs, np.float64).T
    return np.stack([r_w, r_l]), np.stack([p_w, p_l])


def by_hand(r, p, eta):
    """The loss of each pair, its derivatives by r_w and r_l, and the size of what was subtracted for each."""
    target = eta * (p - 0.5)
    residual = r - target
    return 0.5 * (residual[0] ** 2 + residual[1] ** 2), residual, np.abs(r) + np.abs(target)


def ours(r, p, eta, ratios, probabilities):
    """The same loss and derivatives from the code, as float64."""
    r_w, r_l = (torch.tensor(row, dtype=ratios, requires_grad=True) for row in r)
    p_w, p_l = (torch.tensor(row, dtype=probabilities) for row in p)
    loss = sppo_loss(torch.stack([r_w, r_l], -1), torch.stack([p_w, p_l], -1), eta)
    loss.sum().backward()
    return loss.detach().double().numpy(), np.stack([r_w.grad.double().numpy(), r_l.grad.double().numpy()])


@every_dtype
@given(PAIRS, ETAS)
def test_loss_and_gradients_are_those_of_the_formula(ratios, probabilities, pairs, eta):
    r, p = columns(pairs)
    loss, gradient, scale = by_hand(r, p, eta)
    measured_loss, measured_gradient = ours(r, p, eta, ratios, probabilities)
    unit = torch.finfo(torch.promote_types(ratios, probabilities)).eps / 2
    allowance = 4 * unit * scale
    assert (np.abs(measured_gradient - gradient) <= TOLERANCE * np.abs(gradient) + allowance).all()
    of_square = (np.abs(gradient) * allowance + allowance**2 / 2).sum(axis=0)
    assert (np.abs(measured_loss - loss) <= TOLERANCE * loss + of_square).all()


@every_dtype
@given(PAIRS, ETAS)
def test_away_from_the_target_a_millionth_is_kept(ratios, probabilities, pairs, eta):
    r, p = columns(pairs)
    r = np.copysign(r, 0.5 - p)  # on the other side of zero than its target: the two add up
    loss, gradient, _ = by_hand(r, p, eta)
    measured_loss, measured_gradient = ours(r, p, eta, ratios, probabilities)
    tiny = float(torch.finfo(torch.float32).tiny)  # the square of a smaller number than its root is no longer normal
    np.testing.assert_allclose(measured_gradient, gradient, rtol=TOLERANCE, atol=tiny)
    np.testing.assert_allclose(measured_loss, loss, rtol=TOLERANCE, atol=tiny)


@given(PAIRS, ETAS)
def test_the_loss_at_the_start_has_a_closed_form(pairs, eta):
    _, p = columns(pairs)
    expected = eta**2 / 2 * ((p - 0.5) ** 2).sum(axis=0).mean()
    assert loss_at_start(sppo, torch.tensor(p).T, TrainConfig(eta=eta)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_loss_vanishes_at_the_targets():
    p = torch.tensor([0.9, 0.25, 0.5])
    assert float(sppo_loss(1000 * (p - 0.5), p, 1000.0)) == 0


@given(PAIRS, ETAS)
def test_the_loss_of_a_pair_is_the_papers_to_the_last_bit(pairs, eta):
    r, p = (torch.tensor(each, dtype=torch.float32) for each in columns(pairs))
    chosen, rejected = r - eta * (p - 0.5)
    assert torch.equal(sppo_loss(r.T, p.T, eta), (chosen.square() + rejected.square()) / 2)


@given(st.lists(st.tuples(LOG_RATIOS, PROBABILITIES), min_size=1, max_size=6), ETAS, st.data())
def test_the_loss_of_many_responses_is_their_mean_in_any_order(responses, eta, data):
    shuffled = data.draw(st.permutations(responses))
    r, p = torch.tensor(responses, dtype=torch.float64).T
    expected = np.mean([(each - eta * (wins - 0.5)) ** 2 for each, wins in responses])
    assert float(sppo_loss(r, p, eta)) == pytest.approx(expected, rel=1e-12)
    assert float(sppo_loss(*torch.tensor(shuffled, dtype=torch.float64).T, eta)) == pytest.approx(expected, rel=1e-12)


def test_the_loss_at_the_start_weighs_prompts_alike():
    """By hand: (0.2^2 + 0.2^2)/2 = 0.04 of a pair, (0.3^2 + 0 + 0.3^2)/3 = 0.06 of three responses, mean 0.05."""
    targets = [torch.tensor([0.7, 0.3]), torch.tensor([0.8, 0.5, 0.2])]
    assert loss_at_start(sppo, targets, TrainConfig(eta=10.0)) == pytest.approx(100 * 0.05)
