"""The algorithm without a network: a table of preferences, a policy of a few numbers, the exact update.

    python benchmarks/game.py

prints the tables of docs/game.md and writes its plot, docs/images/game.svg; the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp, softmax

from sppo.algorithm.objectives.sppo import sppo_loss
from sppo.algorithm.probability import pairwise_probabilities

PLOT = Path(__file__).parents[1] / "docs" / "images" / "game.svg"
HORIZONS = [2**k for k in range(6, 15)]
"""Numbers of iterations T; each is played from the start, with an eta of its own."""
SHOWN = [64, 1024, 16384]
STEP_SIZES = [0.1, 1.0, 10.0, 1000.0]
SKEWED = np.array([4, 1, 3]) / 8
"""The policy from which the table of the loss starts."""

Array = NDArray[np.float64]

# P(row beats column) of rock, paper and scissors, the three wins of unequal strength.
ROCK_PAPER_SCISSORS: Array = np.array([[0.5, 0.1, 0.7], [0.9, 0.5, 0.25], [0.3, 0.75, 0.5]])


def random_games(answers: int, count: int, seed: int) -> Array:
    """Tables of shape (count, answers, answers) from random logits of both orders.

    Each answer of a game loses to another at least 55 to 45. Where one beats all others, it is the winner, alone, and
    rewards can express that.
    """
    random = np.random.default_rng(seed)
    games: list[Array] = []
    while len(games) < count:
        game = pairwise_probabilities(random.normal(size=(answers, answers)), temperature=1.0)
        if (game.max(axis=0) >= 0.55).all():
            games.append(game)
    return np.stack(games)


GAMES: dict[str, Array] = {
    "rock, paper, scissors": ROCK_PAPER_SCISSORS[None],
    **{f"20 random, {n} answers": random_games(n, count=20, seed=n) for n in (5, 10, 20)},
}


def von_neumann_winner(preference: Array) -> Array:
    """The policy that no answer beats more often than not: the minimax solution, by linear programming."""
    answers = len(preference)
    solution = linprog(
        np.append(np.zeros(answers), -1.0),  # maximise the value, the last variable
        A_ub=np.column_stack([-preference.T, np.ones(answers)]),
        b_ub=np.zeros(answers),
        A_eq=np.append(np.ones(answers), 0.0)[None],
        b_eq=[1.0],
    )
    return np.asarray(solution.x[:answers])


def duality_gap(preference: Array, policy: Array) -> Array:
    """max over pi of P(pi > policy) less min over pi of P(policy > pi) (Theorem 4.1): 0 for the winner only."""
    return 2 * (preference @ policy[..., None]).max(axis=(-2, -1)) - 1


def policies(preference: Array, eta: float, iterations: int) -> Iterator[Array]:
    """pi_1, pi_2, ... from the uniform policy by pi_t+1(y) = pi_t(y) exp(eta P(y > pi_t)) / Z."""
    log_policy = np.zeros(preference.shape[:-1])
    for _ in range(iterations):
        policy = softmax(log_policy, axis=-1)
        yield policy
        log_policy += eta * (preference @ policy[..., None])[..., 0]


def step_size(answers: int, iterations: int) -> float:
    """The eta that makes `bound` smallest: of the order of 1/sqrt(T), as Theorem 4.1 asks."""
    return float(np.sqrt(8 * np.log(answers) / iterations))


def bound(answers: int, iterations: int) -> float:
    """What the average policy's duality gap cannot exceed: 2 (ln(answers) / (eta T) + eta / 8) at that eta.

    The regret of multiplicative weights with gains in [0, 1] (Hoeffding's lemma), the constant of Theorem 4.1.
    """
    return float(np.sqrt(2 * np.log(answers) / iterations))


def bradley_terry(preference: Array) -> Array:
    """The rewards r of greatest likelihood, sigmoid(r_i - r_j) = P_ij, every pair of answers equally often.

    By Zermelo's iteration, which raises the likelihood in each round.
    """
    answers = preference.shape[-1]
    others = 1 - np.eye(answers)
    wins = (preference * others).sum(axis=-1)
    strength = np.ones(wins.shape)
    for _ in range(1000):
        strength = wins / (others / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1)
        strength /= strength.mean(axis=-1, keepdims=True)
    return np.log(strength)


class Played(NamedTuple):
    """The duality gaps of some games of equal size, by horizon; arrays of shape (horizons, games)."""

    average: Array
    """Of the mixture of pi_1 .. pi_T."""
    last: Array
    """Of pi_T alone."""
    distance: Array
    """Total variation between the mixture and the winner."""
    reward: Array
    """Of the policy that T steps of the same size on the Bradley-Terry reward give, pi_1 exp(eta T r) / Z."""
    best_reward: Array
    """The least gap of pi_1 exp(r / beta) / Z over all beta; shape (games,)."""


def play(games: Array) -> Played:
    """Play games of shape (games, answers, answers), anew for each horizon: eta depends on it."""
    answers = games.shape[-1]
    winners = np.stack([von_neumann_winner(game) for game in games])
    rewards = bradley_terry(games)
    rows = []
    for iterations in HORIZONS:
        eta = step_size(answers, iterations)
        total, policy = np.zeros_like(winners), winners
        for policy in policies(games, eta, iterations):
            total += policy
        average = total / iterations
        rewarded = softmax(eta * iterations * rewards, axis=-1)
        gaps = [duality_gap(games, each) for each in (average, policy)]
        rows.append((*gaps, np.abs(average - winners).sum(axis=-1) / 2, duality_gap(games, rewarded)))
    regularised = [duality_gap(games, softmax(rewards / beta, axis=-1)) for beta in np.logspace(-3, 3, 601)]
    return Played(*np.array(rows).swapaxes(0, 1), np.min(regularised, axis=0))


def slope(played: Played) -> float:
    """The exponent of T in the gap of the average policy: a line through the logarithms of its means over games."""
    return float(np.polyfit(np.log(HORIZONS), np.log(played.average.mean(axis=1)), 1)[0])


def share_of_bound(played: Played, answers: int) -> float:
    """The largest gap of an average policy, in any game at any horizon, over its bound."""
    bounds = np.array([bound(answers, iterations) for iterations in HORIZONS])
    return float((played.average / bounds[:, None]).max())


def fit_table(policy: Array, preference: Array, eta: float, normalised: bool) -> Array:
    """The next policy by minimising the system's own loss over a table of log-ratios, and its normalisation.

    The pairs are all (y, y') with the probability that pi_t draws them; the targets are P(y > pi_t).

    Args:
        policy: pi_t, shape (answers,).
        preference: shape (answers, answers).
        eta: the step size.
        normalised: whether the table is held to be a policy (a softmax, as a language model is) while it is fitted,
            or is free, one number an answer.
    """
    start, target = torch.tensor(policy), torch.tensor(preference @ policy)
    answers = torch.arange(len(policy))
    pairs = torch.cartesian_prod(answers, answers)

    def loss_and_gradient(values: Array) -> tuple[float, Array]:
        table = torch.tensor(values, requires_grad=True)
        ratio = (table.log_softmax(0) if normalised else table) - start.log()
        loss = (start[pairs].prod(dim=1) * sppo_loss(ratio[pairs], target[pairs], eta)).sum()
        loss.backward()
        return loss.item(), table.grad.numpy()

    fitted = minimize(loss_and_gradient, np.log(policy), jac=True, method="BFGS", options={"gtol": 1e-11})
    return np.asarray(softmax(fitted.x))


def games_table(results: dict[str, Played]) -> str:
    """The first table of docs/game.md: means over the games of a row."""
    shown = [HORIZONS.index(iterations) for iterations in SHOWN]
    head = ["game", *[f"T = {iterations}" for iterations in SHOWN], "exponent of T", "largest share of the bound"]
    rows = [[*head, "distance to the winner", "last policy", "Bradley-Terry", "at its best (least)"]]
    for name, played in results.items():
        gaps = [f"{gap:.4f}" for gap in played.average.mean(axis=1)[shown]]
        fit = [f"{slope(played):.2f}", f"{share_of_bound(played, GAMES[name].shape[-1]):.2f}"]
        others = [f"{each[-1].mean():.3f}" for each in (played.distance, played.last, played.reward)]
        best = f"{played.best_reward.mean():.3f} ({played.best_reward.min():.3f})"
        rows.append([name, *gaps, *fit, *others, best])
    return markdown(rows)


def loss_table() -> str:
    """The second table of docs/game.md: rock, paper, scissors, one step from a skewed policy."""
    rows = [["eta", "log Z - eta/2", "eta^2 Var / 2", "free table", "normalised policy"]]
    win = ROCK_PAPER_SCISSORS @ SKEWED
    for eta in STEP_SIZES:
        update = softmax(np.log(SKEWED) + eta * win)
        fits = [fit_table(SKEWED, ROCK_PAPER_SCISSORS, eta, normalised) for normalised in (False, True)]
        free, normalised = (np.abs(fit - update).sum() / 2 for fit in fits)
        excess, second = logsumexp(eta * (win - 0.5), b=SKEWED), eta**2 * (SKEWED @ (win - 0.5) ** 2) / 2
        shown = "below 1e-9" if free < 1e-9 else f"{free:.2g}"
        rows.append([f"{eta:g}", f"{excess:.3g}", f"{second:.3g}", shown, f"{normalised:.2g}"])
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A table whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def draw(results: dict[str, Played], path: Path) -> None:
    """One orbit of rock, paper, scissors, and the gaps over T. Rounded, so that the last bits do not show."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    orbit = np.stack(list(policies(ROCK_PAPER_SCISSORS, step_size(3, 512), 512)))
    average = orbit.cumsum(axis=0) / np.arange(1, len(orbit) + 1)[:, None]
    rewarded = softmax(np.outer(np.linspace(0, 40, 81), bradley_terry(ROCK_PAPER_SCISSORS)), axis=-1)
    winner = von_neumann_winner(ROCK_PAPER_SCISSORS)[None]
    left.plot(*corners[[0, 1, 2, 0]].T, color="black", linewidth=0.8)
    for policy, style, label in (
        (orbit, {"color": "C0", "linewidth": 0.6}, "policies"),
        (average, {"color": "C3"}, "their average"),
        (rewarded, {"color": "black", "linestyle": ":"}, "Bradley-Terry"),
        (winner, {"color": "C3", "marker": "*", "markersize": 12, "linestyle": ""}, "von Neumann winner"),
    ):
        left.plot(*np.round(policy @ corners, 4).T, label=label, **style)
    for corner, name, place in zip(corners, ("rock", "paper", "scissors"), ("top", "top", "bottom"), strict=True):
        left.annotate(name, corner, ha="center", va=place)
    left.set(aspect="equal", title="Rock, paper, scissors, T = 512")
    left.set_axis_off()
    left.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.25, 1))
    for index, (name, played) in enumerate(results.items()):
        for gaps, style in ((played.average, "o-"), (played.reward, "s:")):
            rounded = [float(f"{gap:.4g}") for gap in gaps.mean(axis=1)]
            right.loglog(
                HORIZONS, rounded, style, color=f"C{index}", markersize=3, label=name if style == "o-" else None
            )
    right.loglog(HORIZONS, [round(T**-0.5, 6) for T in HORIZONS], "--", color="black", linewidth=0.8, label="1/sqrt(T)")
    right.set(xlabel="iterations T", title="Duality gap: average policy (solid), Bradley-Terry (dotted)")
    right.title.set_fontsize(10)
    right.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "game"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Print both tables and write the plot."""
    results = {name: play(games) for name, games in GAMES.items()}
    print(games_table(results), loss_table(), sep="\n\n")
    draw(results, PLOT)


if __name__ == "__main__":
    main()
