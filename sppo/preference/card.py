"""The model card of a trained pairwise encoder, generated from what was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppo.preference.config import TrainPreferenceConfig

_FLAGS = {name: f"--{name}" for name in ("train", "evaluate", "output", "seed")} | {"licenses": "--license"}
"""Values that `sppo train-preference` takes as flags; the others are settings, KEY=VALUE."""

_COLUMNS = "| file | pairs | accuracy | longer wins | orders disagree | order correlation | spread | NLL |\n" + (
    "|---|---:|---:|---:|---:|---:|---:|---:|\n"
)

_TEMPLATE = """# Pairwise preference model

Given a prompt and two responses, the logit that the first response is better. It was made to drive self-play preference
optimisation of small chat models where nothing larger can run; it is no judge of quality in general.

- Layout of PairRM (arXiv 2306.02561): `[CLS] <source> prompt [SEP] <candidate1> a [SEP] <candidate2> b [SEP]`, at most
  {max_length} tokens, both candidates at the same positions. The logit is head(prompt, a) - head(prompt, b); the head
  (tanh, width {hidden}) sees the marker's state and the mean state of the prompt and of the candidate.
- Encoder: `{encoder}` (frozen) with low-rank updates of rank {rank} on every linear layer. This folder
  holds the updates, the markers' embeddings and the head.
- Use the mean of both orders: P(a beats b) = sigmoid((M[a, b] - M[b, a]) / 2).

## Training data

{data}

{train_pairs} pairs were trained on, the rest of these files set the temperature of the logits ({temperature:.3f}). Loss
-log sigmoid(logit of the chosen response), responses in random order. {epochs} epochs, AdamW, peak learning rate
{learning_rate}, {batch_size} pairs a step, {training_length} tokens a comparison, seed {seed}.

```
{command}
```

## Measured

Accuracy: the mean of both orders prefers the chosen response, ± one standard error. Longer wins: the accuracy of
preferring the response with more characters (ties 1/2). Orders disagree: the share of pairs whose verdict depends on
which response is shown first; order correlation: between M[a, b] and -M[b, a]. Spread: root mean square of P - 1/2.
NLL: mean -log P of the chosen response, in nats (0.693 is chance).

Development pairs, which set the temperature and the choice of settings, so the figures flatter:

{development}
{held_out}
## Limits

{weak}- The standard errors above are the resolution: differences below two of them mean nothing.
- It repeats the taste of the raters of its training data. Facts, mathematics and code are beyond its size, and style
  can lead it: where a win rate by this model matters, look at the lengths and at the responses too.
- Texts beyond {max_length} tokens are cut: prompts lose their beginning, responses their end.
- It is not a safety classifier.
"""


def write_card(config: TrainPreferenceConfig, result: Mapping[str, Any]) -> None:
    """Write README.md beside the weights from `train_preference`'s result."""
    held_out = result["evaluate"]
    text = _TEMPLATE.format(
        **config.model_dump(exclude={"development"}),
        **{key: result[key] for key in ("train_pairs", "temperature")},
        data="\n".join(_data_line(config, path) for path in config.train),
        command=command(config),
        development=_table(result["development"]),
        weak=_weak(held_out),
        held_out=f"Held-out pairs, measured once after training:\n\n{_table(held_out)}" if held_out else "",
    )
    (Path(config.output) / "README.md").write_text(text, encoding="utf-8")


def command(config: TrainPreferenceConfig) -> str:
    """The command line that repeats the training; values that are defaults are left out."""
    settings, flags = ["sppo", "train-preference"], []
    for name, value in config.model_dump(exclude_defaults=True).items():
        if name not in _FLAGS:
            # Before the flags: behind one that takes several values, a setting would be read as one of these.
            settings.append(f"{name}={value}")
            continue
        if isinstance(value, dict):
            values = [f"{key}={part}" for key, part in value.items()]
        else:
            values = [str(part) for part in value] if isinstance(value, tuple) else [str(value)]
        flags.append(shlex.join([_FLAGS[name], *values]))
    return " \\\n    ".join([shlex.join(settings), *flags])


def _data_line(config: TrainPreferenceConfig, path: str) -> str:
    name = Path(path).name
    return f"- `{name}`, {config.licenses.get(name, 'licence not stated')}"


def _weak(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The limits that the held-out figures show."""
    below_chance = [name for name, f in figures.items() if f["accuracy"] < 0.5]
    below_length = [name for name, f in figures.items() if 0.5 <= f["accuracy"] < f["longer_wins"]]
    lines = ""
    if below_chance:
        lines += f"- Worse than chance on {', '.join(below_chance)}: do not use it for what these measure.\n"
    if below_length:
        lines += f"- Worse than preferring the longer response on {', '.join(below_length)}.\n"
    return lines


def _table(figures: Mapping[str, Mapping[str, float]]) -> str:
    return _COLUMNS + "".join(
        f"| {name} | {f['pairs']} | {f['accuracy']:.1%} ± {f['standard_error']:.1%} | {f['longer_wins']:.1%} "
        f"| {f['order_disagreement']:.1%} | {f['order_correlation']:.3f} | {f['spread']:.3f} | {f['nll']:.3f} |\n"
        for name, f in figures.items()
    )
