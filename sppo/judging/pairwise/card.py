"""The model card of a trained pairwise encoder, generated from what was measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from sppo.judging.agreement import Bin
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig

_FLAGS = {name: f"--{name}" for name in ("kind", "train", "evaluate", "output", "baseline", "seed")} | {
    "licenses": "--license"
}
"""Values that `sppo train-preference` takes as flags; the others are settings, KEY=VALUE."""

_TEMPLATE = """# Pairwise preference model

Given a prompt and two responses, the logit that the first response is better. It was made to drive self-play preference
optimisation of small chat models where nothing larger can run; it is no judge of quality in general.

{layout}
  The head (tanh, width {hidden}) sees the marker's state and the mean state of the prompt and of the candidate.
- The logits of both orders are each other's opposite: which response is shown first has no effect.
- Encoder: `{encoder}` (frozen) with low-rank updates of rank {rank} on every linear layer. This folder
  holds the updates, the markers' embeddings and the head.

## Training data

{data}

{train_pairs} pairs were trained on, the rest of these files set the temperature of the logits ({temperature:.3f}). Loss
-log sigmoid(logit of the chosen response). {epochs} epochs, AdamW, peak learning rate
{learning_rate}, {batch_size} pairs a step, {training_length} tokens a sequence, seed {seed}.

```
{command}
```

## Measured

Accuracy: the logit prefers the chosen response, ± one standard error. Longer wins: the accuracy of preferring the
response with more characters (ties 1/2). Spread: root mean square of P - 1/2. NLL: mean -log P of the
chosen response, in nats (0.693 is chance). ECE: expected calibration error, mean |P of the preferred response - share
of the pairs where that is the chosen one| over ten bins of equal size.

Development pairs, which set the temperature and the choice of settings, so the figures flatter:

{development}
{held_out}## Limits

{weak}- The standard errors above are the resolution: differences below two of them mean nothing.
- It repeats the taste of the raters of its training data. Facts, mathematics and code are beyond its size, and style
  can lead it: where a win rate by this model matters, look at the lengths and at the responses too.
- Texts beyond {max_length} tokens are cut: prompts lose their beginning, responses their end.
- It is not a safety classifier.
"""


_LAYOUTS = {
    "pair": """\
- Layout of PairRM (arXiv 2306.02561): `[CLS] <source> prompt [SEP] <candidate1> a [SEP] <candidate2> b [SEP]`, at most
  {max_length} tokens, both candidates at the same positions. A pass gives f(a, b) = head(prompt, a) - head(prompt, b),
  and the logit is (f(a, b) - f(b, a)) / 2: K responses to a prompt cost K(K-1) passes.""",
    "response": """\
- Each response is encoded alone with its prompt, as PairRM (arXiv 2306.02561) encodes two:
  `[CLS] <source> prompt [SEP] <candidate1> a [SEP]`, at most {max_length} tokens. The logit is a difference of scores,
  head(prompt, a) - head(prompt, b): K responses to a prompt cost K passes, and no preferences run in a circle.""",
    "gpm": """\
- General Preference Model (arXiv 2410.02197). Each response is encoded alone with its prompt, as PairRM
  (arXiv 2306.02561) encodes two: `[CLS] <source> prompt [SEP] <candidate1> a [SEP]`, at most {max_length} tokens. The
  head gives {dimension} numbers, u for a and v for b, and the logit is the sum over k of u_2k v_2k+1 - u_2k+1 v_2k:
  K responses to a prompt cost K passes, and preferences can run in a circle.""",
}


def write_card(config: TrainPreferenceConfig, result: Mapping[str, Any], folder: Path) -> None:
    """Write README.md into the folder of the weights, from `train_preference`'s result."""
    held_out = result["evaluate"]
    text = _TEMPLATE.format(
        **config.model_dump(exclude={"development"}),
        **{key: result[key] for key in ("train_pairs", "temperature")},
        layout=_LAYOUTS[config.encodes if config.kind == "encoder" else config.kind].format(**config.model_dump()),
        data="\n".join(_data_line(config, path) for path in config.train),
        command=command(config),
        development=_quality(result["development"]),
        weak=_weak(held_out),
        held_out=_held_out(result) if held_out else "",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


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
    lines = ""
    no_better = [name for name, f in figures.items() if f["accuracy"] < 0.5 + 2 * f["standard_error"]]
    below_length = [name for name, f in figures.items() if f["accuracy"] < f["longer_wins"]]
    if no_better:
        lines += f"- Not better than chance on {', '.join(no_better)}: do not use it for what these measure.\n"
    if below_length:
        lines += f"- Worse than preferring the longer response on {', '.join(below_length)}.\n"
    return lines


def _held_out(result: Mapping[str, Any]) -> str:
    figures = result["evaluate"]
    parts = ["Held-out pairs, measured once after training:\n", _quality(figures)]
    if "comparison" in result:
        parts += [_COMPARISON.format(baseline=result["baseline"]), _comparison(result["comparison"])]
    parts += [_LENGTH, _length(figures), _CALIBRATION, _reliability(result["reliability"])]
    return "\n".join(parts) + "\n"


_COMPARISON = """### Against another judge

The other judge: {baseline}. The pairs that only one of the two gets right, and the p-value of the exact McNemar test
that both are right equally often:
"""

_LENGTH = """### Length

Prefers longer: the share of verdicts for the response with more characters. The last two columns: accuracy where the
raters chose the longer and where they chose the shorter response.
"""

_CALIBRATION = """### Calibration

All held-out pairs in ten bins by P of the response that the judge prefers. Right: the share of them where the raters
chose it, ± one standard error.
"""


def _quality(figures: Mapping[str, Mapping[str, float]]) -> str:
    return _table(
        ["file", "pairs", "accuracy", "longer wins", "spread", "NLL", "ECE"],
        [
            [name, f"{f['pairs']}", f"{f['accuracy']:.1%} ± {f['standard_error']:.1%}", f"{f['longer_wins']:.1%}",
             f"{f['spread']:.3f}", f"{f['nll']:.3f}", f"{f['calibration_error']:.3f}"]
            for name, f in figures.items()
        ],
    )  # fmt: skip


def _length(figures: Mapping[str, Mapping[str, float]]) -> str:
    return _table(
        ["file", "prefers longer", "longer chosen", "shorter chosen"],
        [
            [name, *(_share(f[key]) for key in ("prefers_longer", "accuracy_longer", "accuracy_shorter"))]
            for name, f in figures.items()
        ],
    )


def _comparison(tests: Mapping[str, Mapping[str, float]]) -> str:
    return _table(
        ["file", "pairs", "only the other right", "only this one right", "p"],
        [
            [name, *(f"{test[key]}" for key in ("pairs", "only_old", "only_new")), f"{test['p_value']:.2g}"]
            for name, test in tests.items()
        ],
    )


def _reliability(curve: Sequence[Bin]) -> str:
    rows = [
        [
            f"{each.pairs}",
            f"{each.confidence:.3f}",
            f"{each.right:.3f} ± {(each.right * (1 - each.right) / each.pairs) ** 0.5:.3f}",
        ]
        for each in curve
    ]
    return _table(["pairs", "mean P", "right"], rows)


def _share(value: float) -> str:
    return "none" if isnan(value) else f"{value:.1%}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
