"""The average and the last policy of every objective, on the tables of `game.py`: no network, exact updates.

    python -m benchmarks.last_policy

prints the last table of docs/game.md and writes its plot, docs/images/last-policy.svg; the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from benchmarks.game import GAMES, Array, duality_gap, markdown, step_size

PLOT = Path(__file__).parents[1] / "docs" / "images" / "last-policy.svg"
PLAYED = ("rock, paper, scissors", "20 random, 10 answers")
SHORT, LONG = 2**14, 2**17
"""Numbers of iterations T; those of SPPO and DPO never settle, and are played for the shorter one."""

Rule = Callable[[Array, Array], Array]
"""From log pi_t of shape (games, answers) and preferences: log-ratios of the next policy, before it is normalised."""


def sppo(log_policy: Array, preference: Array, eta: float) -> Array:
    """The minimum of the losses `sppo` and, with each answer of a pair as the winner as often as it wins, `ipo`."""
    win = preference @ np.exp(log_policy)[..., None]
    return eta * (win[..., 0] - 0.5)


def rspo(log_policy: Array, preference: Array, eta: float, tau: float) -> Array:
    """The minimum of the loss `rspo` with f = b = eta tau, the base being uniform.

    It plays the game whose payoff is less by tau / 2 times each divergence.
    """
    s = log_policy + np.log(log_policy.shape[-1])
    held = eta * tau / 2 * (np.expm1(-s) - s)
    return (sppo(log_policy, preference, eta) + held) / (1 + eta * tau)


class Dpo:
    """The minimum of the loss `dpo` over pairs of answers of pi_t, each the winner as often as it wins.

    It is the Bradley-Terry reward of greatest likelihood over beta = 4 / eta, with which small steps are SPPO's. One
    step of Newton's method finds it, from that of the policy before.
    """

    def __init__(self, eta: float) -> None:
        self.eta = eta
        self.reward: Array | None = None

    def __call__(self, log_policy: Array, preference: Array) -> Array:
        """See `Rule`."""
        policy = np.exp(log_policy)
        reward = np.zeros_like(policy) if self.reward is None else self.reward
        for _ in range(1 if self.reward is not None else 20):
            predicted = expit(reward[..., :, None] - reward[..., None, :])
            excess = ((predicted - preference) @ policy[..., None])[..., 0]
            slopes = predicted * (1 - predicted) * policy[..., None, :]
            # Rewards have no level of their own: the mean over the policy is held at 0.
            matrix = np.eye(policy.shape[-1]) * slopes.sum(axis=-1, keepdims=True) - slopes + policy[..., None, :]
            reward = reward - np.linalg.solve(matrix, excess[..., None])[..., 0]
        self.reward = reward
        return self.eta / 4 * reward


class Course(NamedTuple):
    """Duality gaps of some games while they are played, arrays of shape (marks, games)."""

    marks: list[int]
    """After how many iterations."""
    average: Array
    last: Array


def play(games: Array, rule: Rule, iterations: int) -> Course:
    """Play games of shape (games, answers, answers) from the uniform policy."""
    answers = games.shape[-1]
    log_policy = np.full(games.shape[:-1], -np.log(answers))
    marks = sorted({round(2 ** (k / 8)) for k in range(8 * 20)} & {*range(64, iterations)} | {iterations})
    total, average, last = np.zeros_like(log_policy), [], []
    for iteration in range(1, iterations + 1):
        policy = np.exp(log_policy)
        total += policy
        if iteration in marks:
            average.append(duality_gap(games, total / iteration))
            last.append(duality_gap(games, policy))
        log_policy = log_policy + rule(log_policy, games)
        log_policy -= np.log(np.exp(log_policy).sum(axis=-1, keepdims=True))
    return Course(marks, np.array(average), np.array(last))


def regularization(iterations: int) -> tuple[float, float]:
    """The eta and tau of `rspo`: both of the order of 1/sqrt(T), as the gap that tau leaves is of the order of tau."""
    return 24 / iterations**0.5, 0.5 / iterations**0.5


def courses(games: Array) -> dict[tuple[str, int], Course]:
    """By objective and T."""
    eta = step_size(games.shape[-1], SHORT)
    rules: dict[tuple[str, int], Rule] = {("sppo, ipo", SHORT): partial(sppo, eta=eta), ("dpo", SHORT): Dpo(eta)}
    for iterations in (SHORT, LONG):
        held, tau = regularization(iterations)
        rules["rspo", iterations] = partial(rspo, eta=held, tau=tau)
    return {key: play(games, rule, key[1]) for key, rule in rules.items()}


def table(results: dict[str, dict[tuple[str, int], Course]]) -> str:
    """The table of docs/game.md: means over the games of a row, and the largest."""
    rows = [["game", "objective", "T", "average policy", "last policy", "largest of the last"]]
    for name, played in results.items():
        for (objective, iterations), course in played.items():
            gaps = (course.average[-1].mean(), course.last[-1].mean(), course.last[-1].max())
            rows.append(
                [name, f"`{objective}`".replace(", ", "`, `"), str(iterations), *(f"{gap:.4f}" for gap in gaps)]
            )
    return markdown(rows)


def draw(results: dict[str, dict[tuple[str, int], Course]], path: Path) -> None:
    """The last policies' gaps while they are played. Rounded, so that the last bits do not show."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    for axes, (name, played) in zip(figure.subplots(1, len(results), sharey=True), results.items(), strict=True):
        for color, (objective, iterations) in enumerate([("sppo, ipo", SHORT), ("dpo", SHORT), ("rspo", LONG)]):
            course = played[objective, iterations]
            for gaps, style in ((course.last, "-"), (course.average, ":")):
                rounded = [float(f"{gap:.4g}") for gap in gaps.mean(axis=1)]
                axes.loglog(course.marks, rounded, style, color=f"C{color}", label=objective if style == "-" else None)
        axes.set(xlabel="iterations", title=name)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle("Duality gap: last policy (solid), average policy (dotted)", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "last-policy"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Print the table and write the plot."""
    results = {name: courses(GAMES[name]) for name in PLAYED}
    print(table(results))
    draw(results, PLOT)


if __name__ == "__main__":
    main()
