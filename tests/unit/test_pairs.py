import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.pairs import best_and_worst, build_pair

WINS = st.lists(st.floats(0, 1), min_size=2, max_size=8).map(np.array)


def responses(count: int) -> list[dict]:
    return [
        {
            "prompt_id": "p",
            "prompt": "Why?",
            "prompt_ids": [1, 2],
            "text": f"answer {i}",
            "token_ids": [i, 9],
            "logprobs": [-0.5, -float(i)],
        }
        for i in range(count)
    ]


@given(WINS)
def test_the_pair_is_the_first_best_and_the_first_worst(win):
    chosen = best_and_worst(win)
    if chosen is None:
        assert win.max() == win.min()
        return
    best, worst = chosen
    assert win[best] == win.max() and win[worst] == win.min() and best != worst
    assert best == list(win).index(win.max()) and worst == list(win).index(win.min())


@pytest.mark.parametrize("count", [2, 5])
def test_a_prompt_without_a_preference_gives_no_pair(count):
    assert build_pair(responses(count), np.full(count, 0.5)) is None


def test_two_responses_are_enough():
    assert best_and_worst(np.array([0.3, 0.7])) == (1, 0)


def test_a_pair_keeps_tokens_logprobs_and_soft_targets_of_both():
    pair = build_pair(responses(4), np.array([0.5, 0.2, 0.8, 0.8]))
    assert pair == {
        "prompt_id": "p",
        "prompt": "Why?",
        "prompt_ids": [1, 2],
        "chosen": "answer 2",
        "chosen_index": 2,
        "p_chosen": 0.8,
        "chosen_ids": [2, 9],
        "chosen_logprobs": [-0.5, -2.0],
        "rejected": "answer 1",
        "rejected_index": 1,
        "p_rejected": 0.2,
        "rejected_ids": [1, 9],
        "rejected_logprobs": [-0.5, -1.0],
    }
