"""What was tried for a better embedded judge, as the table in docs/judges.md.

    python benchmarks/judge_trials.py --data FOLDER
    python benchmarks/judge_trials.py --data FOLDER --only "head of 256"

trains an encoder with each of `TRIALS` on the pairs of FOLDER, and measures it once on pairs that are held out. What a
trial found is kept in benchmarks/played/judges, and the table is written after each from all that are there. What is
there is not trained again; delete a file to train it anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from game import markdown
from results import ROOT, processor, revision, write_between

from sppo.judging.labelled_pairs import Pair, read_pairs
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig
from sppo.judging.pairwise.fit import train_preference
from sppo.judging.similarity import similarities

PAGE, KEPT = ROOT / "docs" / "judges.md", ROOT / "benchmarks" / "played" / "judges"
BEGIN, END = "<!-- trials: begin -->\n", "<!-- trials: end -->\n"
HELPFUL, CHECKED = "hh_helpful_train.jsonl.gz", "ifeval_rule_pairs.jsonl.gz"
HELD_OUT = ("hh_helpful_test", "llmbar_and_mtbench_human_test")
"""Pairs that no trial trains on, and by which none is chosen."""
Pairs = list[Pair]


def all_of(pairs: Pairs) -> Pairs:
    """The pairs as they are."""
    return pairs


def of_like_length(pairs: Pairs) -> Pairs:
    """As many pairs whose chosen response is the longer one as others, so that length tells nothing."""
    longer = [pair for pair in pairs if len(pair.chosen) > len(pair.rejected)]
    others = [pair for pair in pairs if len(pair.chosen) <= len(pair.rejected)]
    fewest = min(len(longer), len(others))
    draw = random.Random(0)
    return draw.sample(longer, fewest) + draw.sample(others, fewest)


def hard(pairs: Pairs) -> Pairs:
    """The half whose two responses mean most alike: what tells them apart is not the subject."""
    alike = [float(similarities("minilm")([pair.chosen, pair.rejected])[0, 1]) for pair in pairs]
    return [pairs[row] for row in np.argsort(alike)[len(pairs) // 2 :]]


def with_neighbours(pairs: Pairs) -> Pairs:
    """Beside the pairs, others that the chosen response wins against the one to the most similar other prompt.

    So LLMBar's adversarial pairs were made (arXiv 2310.07641, section 2.2): good answers to another question.
    """
    counts = np.zeros((len(pairs), 4096))
    for row, pair in enumerate(pairs):
        for start in range(len(pair.prompt) - 2):
            counts[row, crc32(pair.prompt[start : start + 3].lower().encode()) % 4096] += 1
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    alike = counts @ counts.T
    alike[alike > 0.95] = 0  # the same prompt, or nearly
    others = [pairs[row] for row in alike.argmax(axis=1)]
    made = [Pair(pair.prompt, pair.chosen, other.chosen, pair.group) for pair, other in zip(pairs, others, strict=True)]
    return pairs + [pair for pair in made if pair.chosen != pair.rejected]


class Trial(NamedTuple):
    """Pairs to train on, a change of each file's, and values of train-preference."""

    files: Sequence[str]
    change: Callable[[Pairs], Pairs] = all_of
    values: Mapping[str, Any] = {}


TRIALS: Mapping[str, Trial] = {
    "helpful pairs, as `package:sppo`": Trial([HELPFUL]),
    "checked pairs, as `package:sppo/second`": Trial([CHECKED], values={"epochs": 1, "training_length": 192}),
    "helpful and checked pairs": Trial([HELPFUL, CHECKED]),
    "the harder half": Trial([HELPFUL], hard),
    "length tells nothing": Trial([HELPFUL], of_like_length),
    "answers to other prompts": Trial([HELPFUL], with_neighbours),
    "checked pairs, and answers to other prompts": Trial([HELPFUL, CHECKED], with_neighbours),
    "head of 256": Trial([HELPFUL], values={"hidden": 256}),
    "rank 32": Trial([HELPFUL], values={"rank": 32, "alpha": 64.0}),
    "1 epoch": Trial([HELPFUL], values={"epochs": 1}),
    "learning rate 2e-4": Trial([HELPFUL], values={"learning_rate": 2e-4}),
    "512 tokens": Trial([HELPFUL], values={"training_length": 512}),
    "weight decay 0.1, dropout 0.3": Trial([HELPFUL], values={"weight_decay": 0.1, "dropout": 0.3}),
}
"""What is changed, by its name; all encode a response alone, and else have train-preference's defaults."""


def kept_as(name: str) -> Path:
    """Where the figures of a trial are kept."""
    return KEPT / f"{name.replace('`', '').replace(' ', '-').replace('/', '-')}.json"


def play(name: str, data: Path) -> None:
    """Train, measure, and keep the figures."""
    trial, begun = TRIALS[name], revision()
    with tempfile.TemporaryDirectory() as folder:
        train = tuple(_written(trial.change(read_pairs(str(data / file))), Path(folder) / file) for file in trial.files)
        evaluate = {held: str(data / f"{held}.jsonl.gz") for held in HELD_OUT}
        values = {"encodes": "response", **trial.values}
        asked = {"train": train, "evaluate": evaluate, "output": f"{folder}/judge", **values}
        found = train_preference(TrainPreferenceConfig.model_validate(asked))
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = {
        "revision": begun,
        "machine": processor(),
        "pairs": found["train_pairs"],
        "development": found["development"],
        "evaluate": found["evaluate"],
    }
    kept_as(name).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _written(pairs: Pairs, path: Path) -> str:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(vars(pair)) + "\n" for pair in pairs)
    return str(path)


def table() -> str:
    """All trials that were made, in Markdown."""
    rows = [["", "pairs", "development", *(f"`{name}`" for name in HELD_OUT), "longer preferred", "ECE"]]
    played = {name: json.loads(kept_as(name).read_text()) for name in TRIALS if kept_as(name).exists()}
    for name, kept in played.items():
        last = kept["evaluate"][HELD_OUT[-1]]
        rows.append(
            [
                name,
                str(kept["pairs"]),
                "; ".join(_accuracy(figures) for figures in kept["development"].values()),
                *(_accuracy(kept["evaluate"][held]) for held in HELD_OUT),
                f"{last['prefers_longer']:.2f}",
                f"{last['calibration_error']:.3f}",
            ]
        )
    where = "; ".join(sorted({f"{kept['revision']} on {kept['machine']}" for kept in played.values()}))
    missing = [name for name in TRIALS if name not in played]
    lines = [markdown(rows), "", f"Trained at revision {where}."]
    return "\n".join(lines + ["", f"Not tried yet: {'; '.join(missing)}."] * bool(missing)) + "\n"


def _accuracy(figures: Mapping[str, float]) -> str:
    return f"{100 * figures['accuracy']:.1f} ± {100 * figures['standard_error']:.1f}"


def main() -> None:
    """Make the trials that are missing, and write the table after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="the folder with the files of pairs")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS))
    asked = parser.parse_args()
    for name in asked.only:
        if not kept_as(name).exists():
            play(name, asked.data)
        write_between(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    main()
