import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.selections.base import Ranked, select
from sppo.algorithm.selections.best_worst import best_and_worst
from sppo.algorithm.selections.length_matched import length_matched
from sppo.config.plugins import SELECTIONS
from sppo.config.run import resolve
from sppo.config.sections.rank import RankConfig
from sppo.errors import ConfigError
from sppo.judging.rank import build_pair
from tests.conftest import NO_OTHERS

WINS = st.lists(st.floats(0, 1), min_size=2, max_size=8).map(np.array)


def selected_by(name, win, texts, lengths, seed=0, **settings):
    return select(SELECTIONS.load(name), Ranked(win, texts, lengths, seed), RankConfig(selection=name, **settings))


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
    for selection in SELECTIONS.names():
        assert build_pair(responses(count), np.full(count, 0.5), RankConfig(selection=selection), 0) is None


def test_two_responses_are_enough():
    assert best_and_worst(np.array([0.3, 0.7])) == (1, 0)


def test_a_pair_keeps_tokens_logprobs_and_soft_targets_of_both():
    pair = build_pair(responses(4), np.array([0.5, 0.2, 0.8, 0.8]), RankConfig(), 0)
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
        **NO_OTHERS,
    }


def test_further_responses_keep_their_tokens_logprobs_and_soft_targets():
    pair = build_pair(responses(4), np.array([0.5, 0.2, 0.8, 0.6]), RankConfig(selection="all"), 0)
    assert (pair["chosen_index"], pair["rejected_index"]) == (2, 1)
    assert {name: pair[name] for name in NO_OTHERS} == {
        "other_indices": [0, 3],
        "p_others": [0.5, 0.6],
        "other_ids": [[0, 9], [3, 9]],
        "other_logprobs": [[-0.5, -0.0], [-0.5, -3.0]],
    }


@st.composite
def ranked(draw):
    """Win probabilities, texts of which some are equal, and lengths of a prompt's responses."""
    win = draw(WINS)
    texts = draw(st.lists(st.sampled_from("abcdef"), min_size=len(win), max_size=len(win)))
    return win, texts, draw(st.lists(st.integers(1, 40), min_size=len(win), max_size=len(win)))


@given(ranked(), st.sampled_from(["best-worst", "best-worst-random", "all"]), st.integers(0, 2**31 - 1))
def test_every_selection_starts_with_the_best_and_the_worst(drawn, selection, seed):
    win, texts, lengths = drawn
    selected = selected_by(selection, win, texts, lengths, seed)
    if selected is None:
        assert win.max() == win.min()
        return
    best, worst, others = selected
    assert (best, worst) == best_and_worst(win)
    left = set(texts) - {texts[best], texts[worst]}
    wanted = {"best-worst": 0, "best-worst-random": min(1, len(left)), "all": len(left)}[selection]
    chosen = [texts[i] for i in others]
    assert len(chosen) == wanted == len(set(chosen)) and set(chosen) <= left
    assert selected == selected_by(selection, win, texts, lengths, seed)


def test_the_random_third_response_is_any_of_the_others():
    win, texts = np.array([0.9, 0.5, 0.6, 0.4, 0.1]), list("abcde")
    drawn = [selected_by("best-worst-random", win, texts, [1] * 5, seed) for seed in range(40)]
    assert {others[0] for _, _, others in drawn} == {1, 2, 3}


@given(ranked(), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_a_length_matched_pair_differs_most_among_those_of_like_length(drawn, tolerance):
    win, _, lengths = drawn
    allowed = [
        (win[i] - win[j], i, j)
        for i in range(len(win))
        for j in range(len(win))
        if win[i] > win[j] and abs(lengths[i] - lengths[j]) <= tolerance * max(lengths[i], lengths[j])
    ]
    found = length_matched(win, lengths, tolerance)
    if not allowed:
        assert found is None
        return
    best, worst = found
    assert (win[best] - win[worst], best, worst) in allowed
    assert win[best] - win[worst] == max(gap for gap, _, _ in allowed)
    if tolerance == 1:
        assert win[best] - win[worst] == win.max() - win.min()


@pytest.mark.parametrize("selection", ["best-worst", "length-matched"])
@pytest.mark.parametrize(("margin", "kept"), [(0.0, True), (0.5, True), (0.501, False)])
def test_a_small_margin_leaves_a_prompt_out(selection, margin, kept):
    wins, texts, lengths = np.array([0.75, 0.25]), ["a", "b"], [4, 4]
    selected = selected_by(selection, wins, texts, lengths, minimum_margin=margin)
    assert (selected is not None) is kept


def test_a_tolerance_that_nothing_reads_is_refused():
    with pytest.raises(ConfigError, match="rank: length_tolerance needs selection=length-matched"):
        resolve({"rank.length_tolerance": 0.3})
    assert resolve({"rank.length_tolerance": 0.3, "rank.selection": "length-matched"}).rank.length_tolerance == 0.3
