import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.objective import loss_at_start, sppo_loss

PAIRS = st.lists(st.tuples(*[st.floats(-100, 100)] * 2, *[st.floats(0, 1)] * 2), min_size=1, max_size=6)
ETAS = st.floats(0.1, 2000)


def tensors(pairs):
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]


@given(PAIRS, ETAS)
def test_the_loss_is_the_square_distance_to_the_centred_probabilities(pairs, eta):
    r_w, r_l, p_w, p_l = np.array(pairs, np.float64).T
    expected = 0.5 * ((r_w - eta * (p_w - 0.5)) ** 2 + (r_l - eta * (p_l - 0.5)) ** 2)
    np.testing.assert_allclose(sppo_loss(*tensors(pairs), eta).numpy(), expected, rtol=1e-9, atol=1e-9)


@given(PAIRS, ETAS)
def test_the_loss_at_the_start_has_a_closed_form(pairs, eta):
    _, _, p_w, p_l = tensors(pairs)
    expected = eta**2 / 2 * ((p_w - 0.5).square() + (p_l - 0.5).square()).mean()
    assert loss_at_start(p_w, p_l, eta) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(PAIRS, ETAS)
def test_hard_labels_give_half_of_two_squares(pairs, eta):
    """P_w = 1 and P_l = 0: half of (r_w - eta/2)^2 + (r_l + eta/2)^2."""
    r_w, r_l, p_w, _ = tensors(pairs)
    one = torch.ones_like(p_w)
    loss = sppo_loss(r_w, r_l, one, 1 - one, eta)
    torch.testing.assert_close(loss, ((r_w - eta / 2) ** 2 + (r_l + eta / 2) ** 2) / 2)


@given(PAIRS, ETAS)
def test_the_gradient_pulls_each_log_ratio_to_its_own_target(pairs, eta):
    r_w, r_l, p_w, p_l = tensors(pairs)
    r_w.requires_grad_(), r_l.requires_grad_()
    sppo_loss(r_w, r_l, p_w, p_l, eta).sum().backward()
    torch.testing.assert_close(r_w.grad, (r_w - eta * (p_w - 0.5)).detach())
    torch.testing.assert_close(r_l.grad, (r_l - eta * (p_l - 0.5)).detach())


def test_the_loss_vanishes_at_the_targets():
    p_w, p_l = torch.tensor([0.9]), torch.tensor([0.25])
    assert float(sppo_loss(1000 * (p_w - 0.5), 1000 * (p_l - 0.5), p_w, p_l, 1000.0)) == 0
