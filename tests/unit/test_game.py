"""The tabular game: what multiplicative weights reach, what a reward does not, and what of it is in the loss."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, logsumexp, softmax

from benchmarks import game
from benchmarks.game import GAMES, ROCK_PAPER_SCISSORS, duality_gap, fit_table
from sppo.algorithm.probability import probabilities, win_probabilities

PAGE = (Path(__file__).parents[2] / "docs" / "game.md").read_text()


@pytest.fixture(scope="module")
def results():
    return {name: game.play(games) for name, games in GAMES.items()}


def closed_form(policy, preference, eta):
    """pi(y) exp(eta P(y > pi)) / Z."""
    weighted = policy * np.exp(eta * (preference @ policy - (preference @ policy).max()))
    return weighted / weighted.sum()


@st.composite
def tables(draw):
    """A policy and preferences between its answers."""
    answers = draw(st.integers(2, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = 2 * random.normal(size=(answers, answers))
    return random.dirichlet(np.full(answers, 3.0)), expit(scores - scores.T)


@pytest.mark.parametrize("name", GAMES)
def test_the_games_are_intransitive(name):
    for preference in GAMES[name]:
        np.testing.assert_allclose(preference + preference.T, 1)
        assert (preference.max(axis=0) >= 0.55).all()  # each answer loses to another


def test_the_winner_of_rock_paper_scissors_plays_each_as_often_as_the_other_two_differ():
    margin = np.abs(ROCK_PAPER_SCISSORS - 0.5)
    expected = np.array([margin[1, 2], margin[0, 2], margin[0, 1]])
    np.testing.assert_allclose(game.von_neumann_winner(ROCK_PAPER_SCISSORS), expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("name", GAMES)
def test_no_answer_beats_the_winner_more_often_than_not(name):
    for preference in GAMES[name]:
        winner = game.von_neumann_winner(preference)
        assert winner.sum() == pytest.approx(1)
        assert duality_gap(preference, winner) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", GAMES)
def test_the_average_policy_approaches_the_winner_as_the_theorem_says(results, name):
    played = results[name]
    assert game.share_of_bound(played, GAMES[name].shape[-1]) < 1
    assert game.slope(played) == pytest.approx(-0.5, abs=0.05)
    assert (played.average[-1] < played.average[0] / 4).all()  # in every game, over T = 64 .. 16384


@pytest.mark.parametrize("name", GAMES)
def test_the_last_policy_does_not(results, name):
    last = results[name].last.mean(axis=1)
    assert last[-1] > last[0] / 2
    assert last[-1] > 10 * results[name].average[-1].mean()


@pytest.mark.parametrize("name", GAMES)
def test_a_bradley_terry_reward_does_not(results, name):
    played = results[name]
    assert (played.reward > 3 * played.average)[-1].all()
    assert (played.reward[-1] > 0.1).all()
    assert (played.best_reward > 3 * played.average[-1]).all()


def test_the_bradley_terry_reward_is_the_one_of_greatest_likelihood():
    """There, the wins that the rewards predict for each answer are the wins that it has."""
    games = GAMES["20 random, 10 answers"]
    rewards = game.bradley_terry(games)
    predicted = expit(rewards[:, :, None] - rewards[:, None, :])
    np.testing.assert_allclose(predicted.sum(axis=-1), games.sum(axis=-1), rtol=1e-9)


def test_where_preferences_are_transitive_the_reward_finds_the_winner_too():
    rewards = np.array([0.0, 0.5, -1.0, 1.5])
    preference = expit(rewards[:, None] - rewards)
    fitted = game.bradley_terry(preference)
    np.testing.assert_allclose(fitted - fitted[0], rewards, atol=1e-8)
    assert duality_gap(preference, softmax(100 * fitted)) == pytest.approx(0, abs=1e-9)


@given(tables(), st.floats(0.01, 1000))
def test_minimising_the_loss_over_a_free_table_is_the_update(table, eta):
    """The constant 1/2 that stands for log Z falls out when the result is normalised, whatever eta is."""
    policy, preference = table
    np.testing.assert_allclose(
        fit_table(policy, preference, eta, False), closed_form(policy, preference, eta), atol=1e-6
    )


@given(tables(), st.floats(0.05, 0.3))
def test_over_policies_it_is_the_update_but_for_a_term_of_third_order(table, eta):
    policy, preference = table
    win = preference @ policy - 0.5
    variance = policy @ win**2
    assert logsumexp(eta * win, b=policy) == pytest.approx(eta**2 * variance / 2, abs=eta**3 / 24)  # log Z - eta/2
    deviation = fit_table(policy, preference, eta, True) - closed_form(policy, preference, eta)
    third_order = -(eta**3) * variance * win * policy / 2
    np.testing.assert_allclose(deviation, third_order, atol=eta**4 * variance / 10 + 1e-9)


@pytest.mark.parametrize("eta", [1.0, 10.0, 1000.0])
def test_at_the_minimum_over_policies_the_pull_is_proportional_to_the_policy(eta):
    """Lagrange: pi_t(y) (r(y) - target(y)) / pi(y) is the same for every answer that the policy still gives."""
    fitted = fit_table(game.SKEWED, ROCK_PAPER_SCISSORS, eta, True)
    residual = np.log(fitted / game.SKEWED) - eta * (ROCK_PAPER_SCISSORS @ game.SKEWED - 0.5)
    pull = (game.SKEWED * residual / fitted)[fitted > 1e-6]
    np.testing.assert_allclose(pull, pull.mean(), rtol=1e-4)


def test_at_a_large_eta_the_answers_that_win_share_the_policy():
    win = ROCK_PAPER_SCISSORS @ game.SKEWED - 0.5
    expected = game.SKEWED * win.clip(min=0)
    np.testing.assert_allclose(
        fit_table(game.SKEWED, ROCK_PAPER_SCISSORS, 1000, True), expected / expected.sum(), atol=0.03
    )
    assert closed_form(game.SKEWED, ROCK_PAPER_SCISSORS, 1000).max() > 1 - 1e-9


def test_the_targets_are_those_of_the_ranking_stage():
    """A judge's logits in, P(y > pi_t) out, over responses that occur in the policy's proportions."""
    responses = np.repeat(np.arange(3), [4, 1, 3])  # game.SKEWED
    logits = logit(ROCK_PAPER_SCISSORS)[np.ix_(responses, responses)]
    pairwise = probabilities(logits, [str(answer) for answer in responses], "paper", temperature=1.0)
    win = ROCK_PAPER_SCISSORS @ game.SKEWED
    np.testing.assert_allclose(win_probabilities(pairwise), win[responses], rtol=1e-12)


def test_fifty_iterations_through_the_loss_are_fifty_of_the_closed_form():
    policy = np.full(3, 1 / 3)
    for expected in game.policies(ROCK_PAPER_SCISSORS, 0.3, 50):
        np.testing.assert_allclose(policy, expected, atol=1e-6)
        policy = fit_table(policy, ROCK_PAPER_SCISSORS, 0.3, False)


def test_the_page_shows_what_a_fresh_run_gives(results, tmp_path):
    assert game.games_table(results) in PAGE
    assert game.loss_table() in PAGE
    game.draw(results, tmp_path / "game.svg")
    assert (tmp_path / "game.svg").read_bytes() == game.PLOT.read_bytes()
