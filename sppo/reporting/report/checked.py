"""Greedy answers to prompts with instructions that code checks, for a report's reader to look at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sppo.evaluation.ifeval import read_answers
from sppo.store.base import Manifest
from sppo.store.lineage import Lineage

SHOWN = 4
"""How many of an iteration's prompts are shown."""


@dataclass(frozen=True)
class Checked:
    """The greedy answers of the base and of the new model to one prompt, and which of its instructions each follows."""

    prompt: str
    instructions: tuple[str, ...]
    """Their kinds, as the file of prompts calls them."""
    base: str
    new: str
    base_followed: tuple[bool, ...]
    new_followed: tuple[bool, ...]


def checked(lineage: Lineage, evaluated: Manifest) -> tuple[Checked, ...]:
    """Some answers at random, by a hash of the prompt: the same prompts in every iteration, and in every run on them.

    Args:
        lineage: of the run.
        evaluated: an iteration's evaluation.

    Returns:
        At most `SHOWN`; none where the iteration asked no such prompts, or the answers are not there any more.
    """
    if "eval/instructions_prompts" not in evaluated.figures:
        return ()
    count = lineage.config.evaluate.instructions.count
    read = (read_answers(lineage, evaluated.inputs[role], count) for role in ("base", "new"))
    base, new = ({row["prompt_id"]: row for row in rows} for rows in read)
    if not base or not new:  # a run of an earlier version, or one of which old answers were removed
        return ()
    drawn = sorted(new, key=lambda prompt_id: hashlib.sha256(prompt_id.encode()).digest())[:SHOWN]
    return tuple(
        Checked(
            prompt=new[prompt_id]["prompt"],
            instructions=tuple(new[prompt_id]["instruction_ids"]),
            base=base[prompt_id]["text"],
            new=new[prompt_id]["text"],
            base_followed=tuple(base[prompt_id]["followed"]),
            new_followed=tuple(new[prompt_id]["followed"]),
        )
        for prompt_id in drawn
    )


def followed(verdicts: tuple[bool, ...]) -> str:
    """How many of a prompt's instructions an answer follows, in words."""
    return f"follows {sum(verdicts)} of {len(verdicts)}"
