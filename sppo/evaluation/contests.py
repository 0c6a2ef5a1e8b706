"""The figures of an evaluation that judges give: the new policy's answers against the previous one's and the base's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo.algorithm.sign_test import sign_test
from sppo.config.run import RunConfig
from sppo.config.sections.evaluate import JUDGES
from sppo.evaluation.length_control import length_controlled_win_rate, length_matched
from sppo.evaluation.statistics import Interval, bca_interval, mean_interval
from sppo.evaluation.winrate import Contest, Values, contest, disagreement
from sppo.judging.load import load_judge
from sppo.progress import heartbeat
from sppo.seeds import derive_seed
from sppo.store import keys, tables

OPPONENTS = ("previous", "base")


@dataclass(frozen=True)
class Answers:
    """One model's S answers to each of the N held-out prompts."""

    key: str
    """Where they lie in the store; it tells one model from another."""
    texts: list[list[str]]
    tokens: Values
    """Length of each answer, shape (N, S)."""


def hold_contests(
    config: RunConfig, prompts: Sequence[dict[str, Any]], answers: Mapping[str, Answers], output: Path
) -> dict[str, float]:
    """Judge the new policy's answers against both opponents'.

    Args:
        config: the run's resolved configuration.
        prompts: the held-out prompts, rows of `tables.PROMPTS`.
        answers: of the models `new`, `previous` and `base`.
        output: gets the comparisons table.

    Returns:
        The `eval/` figures.
    """
    first = _contests(config, config.preference_model, prompts, answers)
    figures: dict[str, float] = {}
    for opponent in OPPONENTS:
        figures |= _against(config, opponent, first[answers[opponent].key])
    figures |= _lengths(config, first[answers["base"].key], answers["new"], answers["base"])
    for name, uri in zip(JUDGES, config.evaluate.second_judge, strict=False):
        other = _contests(config, uri, prompts, answers)
        for opponent in OPPONENTS:
            held = other[answers[opponent].key]
            interval = _win_rate(config, f"{name} judge, {opponent}", held)
            figures |= interval.figures(f"eval/{name}_win_rate_vs_{opponent}")
            figures[f"eval/{name}_mean_probability_vs_{opponent}"] = float(held.probabilities.mean())
        figures[f"eval/{name}_disagreement"] = disagreement(list(first.values()), list(other.values()))
    rows = [
        {"prompt_id": row["prompt_id"], "opponent": opponent, "win_rate": win, "probability": probability}
        for opponent, held in ((opponent, first[answers[opponent].key]) for opponent in OPPONENTS)
        for row, win, probability in zip(prompts, held.win_rates, held.mean_probabilities, strict=True)
    ]
    tables.write(output / keys.COMPARISONS_FILE, tables.COMPARISONS, rows)
    return figures


def _contests(
    config: RunConfig, uri: str, prompts: Sequence[dict[str, Any]], answers: Mapping[str, Answers]
) -> dict[str, Contest]:
    """A judge's contests by the opponent's key: in the first iteration the previous model is the base."""
    judge = load_judge(uri, config.judge)
    texts = [row["prompt"] for row in prompts]
    held: dict[str, Contest] = {}
    for opponent in OPPONENTS:
        key = answers[opponent].key
        if key not in held:
            with heartbeat(f"judging against {opponent} with {judge.name}"):
                held[key] = contest(
                    judge, texts, answers["new"].texts, answers[opponent].texts, config.rank.temperature
                )
    return held


def _against(config: RunConfig, opponent: str, held: Contest) -> dict[str, float]:
    interval, signs = _win_rate(config, opponent, held), sign_test(held.win_rates - 0.5)
    print(
        f"win rate over {opponent}: {interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]; "
        f"{signs.wins} prompts won, {signs.losses} lost, {signs.ties} tied, p = {signs.p_value:.2g}",
        flush=True,
    )
    return {
        **interval.figures(f"eval/win_rate_vs_{opponent}"),
        f"eval/sign_test_p_vs_{opponent}": signs.p_value,
        f"eval/ties_vs_{opponent}": float(signs.ties),
        f"eval/mean_probability_vs_{opponent}": float(held.probabilities.mean()),
    }


def _win_rate(config: RunConfig, name: str, held: Contest) -> Interval:
    return mean_interval(held.win_rates, config.evaluate.bootstrap, derive_seed(config.seed, "bootstrap", name))


def _lengths(config: RunConfig, held: Contest, new: Answers, base: Answers) -> dict[str, float]:
    """The mean lengths, and the win rates over the base in which they have no part."""
    gaps = new.tokens.mean(axis=1) - base.tokens.mean(axis=1)
    controlled = bca_interval(
        lambda weights: length_controlled_win_rate(held.win_rates, gaps, weights=weights),
        len(gaps),
        config.evaluate.bootstrap,
        derive_seed(config.seed, "bootstrap", "length-controlled"),
    )
    figures = controlled.figures("eval/lc_win_rate_vs_base")
    matched = length_matched(held.outcomes, new.tokens, base.tokens, config.evaluate.length_match)
    name = "eval/length_matched_win_rate_vs_base"
    figures[f"{name}_prompts"] = float(len(matched))
    if len(matched):  # else there is no such rate
        seed = derive_seed(config.seed, "bootstrap", "length-matched")
        figures |= mean_interval(matched, config.evaluate.bootstrap, seed).figures(name)
    figures["eval/mean_length"] = float(new.tokens.mean())
    figures["eval/mean_length_base"] = float(base.tokens.mean())
    figures["eval/truncated_fraction"] = float((new.tokens >= config.evaluate.max_tokens).mean())
    return figures
