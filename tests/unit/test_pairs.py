import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.probability import ESTIMATORS, mean_logits, probabilities, win_probabilities
from sppo.algorithm.selections.base import Ranked, first_and_last, select
from sppo.algorithm.selections.length_matched import length_matched
from sppo.config.plugins import SELECTIONS
from sppo.config.run import resolve
from sppo.config.sections.rank import RankConfig
from sppo.errors import ConfigError
from sppo.judging.rank import build_pair, estimate
from tests.conftest import NO_OTHERS

WINS = st.lists(st.floats(0, 1), min_size=2, max_size=8).map(np.array)


def ranked_by(win, texts="abcdefgh", lengths=(1,) * 8, seed=0):
    """Responses whose mean logits are in the order of their probabilities."""
    return Ranked(win, win, texts[: len(win)], lengths[: len(win)], seed)


def selected_by(name, ranked, **settings):
    return select(SELECTIONS.load(name), ranked, RankConfig(selection=name, **settings))


def pair_of(count, win, selection="best-worst"):
    return build_pair(responses(count), win, win, RankConfig(selection=selection), 0)


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
    chosen = first_and_last(ranked_by(win), win)
    if chosen is None:
        assert win.max() == win.min()
        return
    best, worst = chosen
    assert win[best] == win.max() and win[worst] == win.min() and best != worst
    assert best == list(win).index(win.max()) and worst == list(win).index(win.min())


INTRANSITIVE = np.array(
    [
        [0.0, 4.0, -1.25, -1.25],  # beats one clearly, loses narrowly to two: mean logit 0.375, P 0.49
        [-4.0, 0.0, 0.5, 0.5],  # mean logit -0.75, P 0.44
        [1.25, -0.5, 0.0, 0.0],  # mean logit 0.1875, P 0.54
        [1.25, -0.5, 0.0, 0.0],
    ]
)


def test_the_paper_chooses_by_mean_logit_where_probabilities_choose_another_pair():
    texts = list("abcd")
    win = win_probabilities(probabilities(INTRANSITIVE, texts, "paper", 1.0))
    scores = mean_logits(INTRANSITIVE)
    assert scores.tolist() == [0.375, -0.75, 0.1875, 0.1875]
    asked = Ranked(win, scores, texts, [1] * 4, 0)
    assert selected_by("best-worst", asked) == (0, 1, [])
    assert selected_by("best-worst-probability", asked) == (2, 1, [])
    pair = build_pair(responses(4), win, scores, RankConfig(), 0)
    assert pair["p_chosen"] == win[0] < 0.5, "the target stays P(y > pi_t)"


@given(st.lists(st.floats(-6, 6), min_size=9, max_size=9), st.sampled_from(sorted(ESTIMATORS)))
def test_a_mean_logit_is_half_of_the_score_of_the_released_code(drawn, estimator):
    """LLM-Blender's score sums both orders, so that it chooses the same pair; with scores in place of M, so does P."""
    logits = np.array(drawn).reshape(3, 3)
    assert mean_logits(logits) == pytest.approx((logits - logits.T).mean(axis=1) / 2)
    scores = mean_logits(logits)
    transitive = np.subtract.outer(scores, scores)
    win = win_probabilities(probabilities(transitive, list("abc"), estimator, 1.0))
    assert win[scores.argmax()] == win.max() and win[scores.argmin()] == win.min()


def test_the_pair_is_chosen_after_the_length_correction():
    config = resolve({"rank.length_corrected": True})
    group = [
        row | {"token_ids": [7] * length, "logprobs": [-1.0] * length}
        for row, length in zip(responses(3), (9, 3, 2), strict=True)
    ]
    lengths = np.array([9, 3, 2])
    taste = np.subtract.outer([0.0, 1.0, -1.0], [0.0, 1.0, -1.0])
    logits = taste + np.subtract.outer(lengths, lengths)
    for corrected, chosen in ((True, 1), (False, 0)):
        asked = config.model_copy(update={"rank": RankConfig(length_corrected=corrected)})
        (pair,) = estimate(asked, 1, [group], [logits])[1]
        assert pair["chosen_index"] == chosen


@pytest.mark.parametrize("count", [2, 5])
def test_a_prompt_without_a_preference_gives_no_pair(count):
    for selection in SELECTIONS.names():
        assert pair_of(count, np.full(count, 0.5), selection) is None


def test_two_responses_are_enough():
    assert selected_by("best-worst", ranked_by(np.array([0.3, 0.7]))) == (1, 0, [])


def test_a_pair_keeps_tokens_logprobs_and_soft_targets_of_both():
    pair = pair_of(4, np.array([0.5, 0.2, 0.8, 0.8]))
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
    pair = pair_of(4, np.array([0.5, 0.2, 0.8, 0.6]), "all")
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


@given(
    ranked(),
    st.sampled_from(["best-worst", "best-worst-probability", "best-worst-random", "all"]),
    st.integers(0, 2**31 - 1),
)
def test_every_selection_starts_with_the_best_and_the_worst(drawn, selection, seed):
    win, texts, lengths = drawn
    asked = ranked_by(win, texts, lengths, seed)
    selected = selected_by(selection, asked)
    if selected is None:
        assert win.max() == win.min()
        return
    best, worst, others = selected
    assert (best, worst) == first_and_last(asked, win)
    left = set(texts) - {texts[best], texts[worst]}
    wanted = {"best-worst": 0, "best-worst-probability": 0, "best-worst-random": min(1, len(left)), "all": len(left)}[
        selection
    ]
    chosen = [texts[i] for i in others]
    assert len(chosen) == wanted == len(set(chosen)) and set(chosen) <= left
    assert selected == selected_by(selection, asked)


def test_the_random_third_response_is_any_of_the_others():
    win, texts = np.array([0.9, 0.5, 0.6, 0.4, 0.1]), list("abcde")
    drawn = [selected_by("best-worst-random", ranked_by(win, texts, seed=seed)) for seed in range(40)]
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
    selected = selected_by(selection, ranked_by(np.array([0.75, 0.25])), minimum_margin=margin)
    assert (selected is not None) is kept


def test_a_tolerance_that_nothing_reads_is_refused():
    with pytest.raises(ConfigError, match="rank: length_tolerance needs selection=length-matched"):
        resolve({"rank.length_tolerance": 0.3})
    assert resolve({"rank.length_tolerance": 0.3, "rank.selection": "length-matched"}).rank.length_tolerance == 0.3
