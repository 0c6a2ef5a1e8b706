import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from sppo.evaluation.length_control import (
    ALPACA_EVAL_STRENGTHS,
    Anchor,
    _fit,
    length_controlled_win_rate,
    length_matched,
)

ALPACA_EVAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"
MODELS = (
    "alpaca-7b",
    "alpaca-7b_verbose",
    "alpaca-7b_concise",
    "vicuna-13b",
    "claude-2.1",
    "claude-2.1_concise",
    "gemma-7b-it",
    "gpt-3.5-turbo-1106",
)


def columns(name: str) -> dict[str, np.ndarray]:
    if not ALPACA_EVAL.is_dir():
        pytest.skip(f"{ALPACA_EVAL} is absent: nothing published to compare with")
    with (ALPACA_EVAL / name).open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("model", MODELS)
def test_published_values_of_alpaca_eval(model):
    judged, published = columns("judgments_8_models.csv"), columns("published_8_models.csv")
    difficulty = columns("instruction_difficulty_recovered.csv")["instruction_difficulty"].astype(float)
    gamed = columns("df_gamed_equivalent.csv")
    # Their gaps are the baseline's length less the model's, ours the other way round.
    anchor = Anchor(
        gamed["preference"].astype(float),
        -gamed["std_delta_len"].astype(float),
        gamed["instruction_difficulty"].astype(float),
    )
    rows = judged["model"] == model
    wins, ours, theirs = (judged[name][rows].astype(float) for name in ("p_model_wins", "len_model", "len_baseline"))
    of_rows = difficulty[judged["index"][rows].astype(int)]
    controlled = length_controlled_win_rate(wins, ours - theirs, of_rows, anchor, ALPACA_EVAL_STRENGTHS)
    (row,) = np.flatnonzero(published["model"] == model)
    assert 100 * wins.mean() == pytest.approx(float(published["win_rate"][row]), abs=1e-6)
    assert 100 * controlled == pytest.approx(float(published["length_controlled_winrate"][row]), abs=0.2)


def logistic(count: int, intercept: float, slope: float, shift: float = 0.0):
    generator = np.random.default_rng(1)
    gaps = generator.normal(shift, 1, size=count)
    p = 1 / (1 + np.exp(-(intercept + slope * np.tanh(gaps / gaps.std()))))
    return (generator.random(count) < p).astype(float), gaps


def test_length_control_finds_no_win_where_length_explains_it():
    """Longer answers win, and ours are longer."""
    wins, gaps = logistic(4000, 0.0, 3.0, shift=1.0)
    assert wins.mean() > 0.75
    assert length_controlled_win_rate(wins, gaps) == pytest.approx(0.5, abs=0.05)


def test_length_control_keeps_a_win_that_length_does_not_explain():
    wins, gaps = logistic(4000, 1.0, 2.0)
    assert length_controlled_win_rate(wins, gaps) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)


def test_length_control_of_equal_lengths_is_the_win_rate():
    found = length_controlled_win_rate(np.tile([1.0, 0.5, 0.0, 1.0], 8), np.zeros(32))
    assert found == pytest.approx(0.625, abs=1e-3)


@pytest.mark.parametrize("wins", [np.ones(8), np.zeros(8), np.repeat([0.0, 1.0], 4)])
def test_length_control_stays_finite_where_lengths_separate(wins):
    value = length_controlled_win_rate(wins, np.arange(8) - 3.5)
    assert 0 <= value <= 1


def test_the_unit_of_length_does_not_matter():
    wins, gaps = logistic(50, 0.5, 1.0)
    assert length_controlled_win_rate(wins, gaps) == pytest.approx(length_controlled_win_rate(wins, 1000 * gaps))


@st.composite
def judged(draw):
    """Win rates, gaps and how often each prompt counts."""
    count = draw(st.integers(4, 20))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = random.multinomial(count, np.full(count, 1 / count), 3).astype(float)
    return random.integers(0, 10, count) / 9, random.normal(draw(st.floats(-1, 1)), 1, count), weights


@given(judged())
def test_a_prompt_that_counts_twice_is_like_two_prompts(data):
    wins, gaps, weights = data
    whole = length_controlled_win_rate(wins, gaps, weights=weights)
    alone = [length_controlled_win_rate(wins, gaps, weights=row) for row in weights]
    np.testing.assert_allclose(whole, alone)


@settings(max_examples=20)
@given(judged(), st.sampled_from([0.1, 1.0, 100.0]))
def test_the_fit_is_the_minimum(data, strength):
    """Against scipy's bounded minimiser, with theta as a difference of two positive vectors."""
    wins, gaps, (weights, *_) = data
    features = np.stack([np.tanh(gaps / gaps.std(ddof=1)), np.ones_like(gaps)], axis=1)

    def objective(halves):
        logits = features @ (halves[:2] - halves[2:])
        return halves.sum() + strength * (weights * (np.logaddexp(0, logits) - wins * logits)).sum()

    best = minimize(objective, np.zeros(4), method="L-BFGS-B", bounds=[(0, None)] * 4)
    theta = _fit(features, wins, weights, strength)
    assert objective(np.concatenate([np.maximum(theta, 0), np.maximum(-theta, 0)])) <= best.fun + 1e-3


def test_only_pairs_of_like_length_count():
    outcomes = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    ours, theirs = np.array([[100.0, 50.0], [10.0, 10.0]]), np.array([[90.0, 200.0], [20.0, 0.0]])
    assert length_matched(outcomes, ours, theirs, 0.1).tolist() == [1.0]
    assert length_matched(outcomes, ours, theirs, 0.5).tolist() == [2 / 3, 1.0]
    assert length_matched(outcomes, ours, theirs, 0.0).tolist() == []


@given(st.integers(0, 2**32), st.floats(0, 0.99))
def test_matched_pairs_do_not_depend_on_whose_they_are(seed, tolerance):
    random = np.random.default_rng(seed)
    outcomes = random.integers(0, 3, (4, 2, 3)) / 2
    ours, theirs = random.integers(0, 9, (4, 2)), random.integers(0, 9, (4, 3))
    won = length_matched(outcomes, ours, theirs, tolerance)
    lost = length_matched(1 - outcomes.transpose(0, 2, 1), theirs, ours, tolerance)
    np.testing.assert_allclose(won + lost, 1)
