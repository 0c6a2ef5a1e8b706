"""The learning-rate schedule: linear warm-up, then linear decay to zero."""

from __future__ import annotations

import math


def learning_rate(step: int, steps_an_epoch: int, peak: float, warmup_ratio: float, schedule_epochs: int) -> float:
    """The learning rate of an optimizer step, counted from 0.

    The schedule is laid out over `schedule_epochs` even where training stops earlier: the paper's runs stop an
    18-epoch schedule after its first epoch and so never leave the warm-up.

    Args:
        step: from 0.
        steps_an_epoch: optimizer steps of one pass over the pairs.
        peak: the learning rate at the end of the warm-up.
        warmup_ratio: the share of the schedule that warms up.
        schedule_epochs: passes that the schedule is laid out for.
    """
    total = steps_an_epoch * schedule_epochs
    warmup = math.ceil(total * warmup_ratio)
    # The first step trains: the warm-up is one step ahead of `get_linear_schedule_with_warmup` of transformers.
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (total - step) / max(total - warmup, 1)
