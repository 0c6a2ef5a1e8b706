from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.sign_test import sign_test


def test_differences_are_counted_by_their_sign_and_ties_left_out():
    result = sign_test(np.array([0.5, 0.1, 0.5, 5 / 9 - 0.5, 0.5, 0.0, 0.0]))
    assert (result.wins, result.losses, result.ties) == (5, 0, 2)
    assert result.p_value == pytest.approx(2 * 0.5**5)
    one_lost = sign_test(np.array([0.5, 0.5, 0.5, 0.5, -0.1]))
    assert one_lost.p_value == pytest.approx(2 * (1 + 5) / 2**5)


def test_nothing_but_ties_is_no_evidence():
    assert sign_test(np.zeros(4)).p_value == 1.0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 3))
def test_the_p_value_is_both_tails_of_a_fair_coin_whichever_side_is_ours(wins, losses, ties):
    differences = np.repeat([0.3, -0.7, 0.0], [wins, losses, ties])
    ours, theirs = sign_test(differences), sign_test(-differences)
    tail = sum(comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses)
    assert (ours.wins, ours.losses, ours.ties) == (theirs.losses, theirs.wins, theirs.ties) == (wins, losses, ties)
    assert ours.p_value == pytest.approx(min(1, 2 * tail)) and theirs.p_value == pytest.approx(ours.p_value)
