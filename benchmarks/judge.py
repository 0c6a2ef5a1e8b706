"""How fast PairRM judges: the scorer of this system against `llm_blender.Blender.rank`, same weights, same texts.

    python benchmarks/judge.py --prompts 500

The sides work in turns in this process, a slice of the prompts each turn, and a ratio is the median of the ratios of
turns on the same slice. Tokenization is timed, loading is not. Blender runs as it does by default (float32 on a CPU,
float16 on a GPU); a batch size of 1 is what the paper's authors run and the measure of all differences, because with
others a prompt's scores depend on its neighbours. Without `--model` the weights are random, in the shape of
deberta-v3-small or -large, and the tokenizer is trained on the prompts. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from sppo.judging.cache import JudgementCache
from sppo.judging.judge import Judge
from sppo.judging.pairrm.llm_blender import mend_llm_blender
from sppo.judging.pairrm.ranker import PairRM

ROOT = Path(__file__).parents[1]
SHAPES = {
    "small": {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}


class Texts(NamedTuple):
    """Prompts, and K responses to each."""

    prompts: list[str]
    responses: list[list[str]]

    def part(self, number: int, parts: int) -> Texts:
        """Every `parts`-th prompt, from `number` on."""
        return Texts(self.prompts[number::parts], self.responses[number::parts])


Side = Callable[[Texts], np.ndarray]
"""Judges: raw logits (N, K, K)."""


def main() -> None:
    """Measure, and print."""
    arguments = parse()
    texts = read_texts(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or build_model(Path(scratch), arguments.shape, texts)
        blender = load_blender(folder, arguments.backbone)
        models = {dtype: PairRM(folder, str(folder), dtype=dtype) for dtype in ("float32", "bfloat16")}
        sides: dict[str, Side] = {f"ours, {dtype}": fast(model) for dtype, model in models.items()}
        sides |= {f"Blender, batches of {size}": slow(blender, size) for size in (1, *arguments.batch_sizes)}
        warm = Texts(["why?"] * 2, [["yes", "no"]] * 2)
        for side in sides.values():
            side(warm)
        model = models["bfloat16"]
        before = model.figures()
        seconds, logits = take_turns(sides, texts, arguments.rounds)
        figures = {name: value - before[name] for name, value in model.figures().items()}
        report(arguments, texts, seconds, logits, figures)
        rerun(models["bfloat16"], texts.part(0, arguments.rounds), Path(scratch))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--responses", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[4], help="of Blender, beside 1")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of the random weights")
    parser.add_argument("--model", type=Path, help="a folder in the layout of llm-blender/PairRM, in place of those")
    parser.add_argument("--backbone", help="folder of microsoft/deberta-v3-large, which Blender loads beside --model")
    parser.add_argument(
        "--texts", type=Path, help='JSON lines {"prompt": …, "responses": […]}, in place of the built ones'
    )
    arguments = parser.parse_args()
    if arguments.rounds > arguments.prompts:
        parser.error("--rounds: at least one prompt a round")
    return arguments


def read_texts(arguments: argparse.Namespace) -> Texts:
    """Texts of mixed length: the prompts that ship with sppo, a fifth with a passage, and responses of their words."""
    if arguments.texts:
        rows = [json.loads(line) for line in arguments.texts.read_text().splitlines()[: arguments.prompts]]
        return Texts([row["prompt"] for row in rows], [row["responses"][: arguments.responses] for row in rows])
    lines = (ROOT / "sppo" / "data" / "prompts.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    draw = random.Random(0)

    def passage(median: int) -> str:
        words = min(round(draw.lognormvariate(0, 0.7) * median), 8 * median)
        text: list[str] = []
        while len(text) < words:
            text += draw.choice(prompts).split()
        return " ".join(text[:words])

    chosen = [draw.choice(prompts) for _ in range(arguments.prompts)]
    chosen = [f"{prompt}\n\n{passage(200)}" if draw.random() < 0.2 else prompt for prompt in chosen]
    return Texts(chosen, [[passage(120) for _ in range(arguments.responses)] for _ in chosen])


def build_model(scratch: Path, shape: str, texts: Texts) -> Path:
    """A checkpoint with random weights and a tokenizer trained on the texts, as the tests build it."""
    builder = _checkpoint_builder()
    corpus = [*texts.prompts, *(text for responses in texts.responses for text in responses)]
    tokenizer = builder.build_tokenizer(corpus, 8000)
    folder: Path = builder.write_checkpoint(scratch / "PairRM", "llm-blender", SHAPES[shape], tokenizer)
    return folder


def _checkpoint_builder() -> ModuleType:
    path = ROOT / "tests" / "unit" / "pairrm_checkpoints.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_blender(folder: Path, backbone: str | None) -> Any:
    """llm-blender's own loading, backbone first."""
    mend_llm_blender()
    from llm_blender import Blender

    blender = Blender()
    options = {"model_name": backbone} if backbone else {}
    blender.loadranker(str(folder), device="cuda" if torch.cuda.is_available() else "cpu", **options)
    return blender


def fast(model: PairRM) -> Side:
    """The scorer of this system, as the stages use it, without a cache."""
    return lambda texts: np.stack(Judge(model).logits(texts.prompts, texts.responses))


def slow(blender: Any, batch_size: int) -> Side:
    """Blender's rank, and the logits that it makes its scores of."""
    predict = blender.ranker._full_predict

    def judge(texts: Texts) -> np.ndarray:
        kept: list[np.ndarray] = []

        def record(**batch: Any) -> Any:
            outputs = predict(**batch)
            kept.append(outputs["logits"].float().cpu().numpy())
            return outputs

        blender.ranker._full_predict = record
        blender.rank(texts.prompts, texts.responses, return_scores=True, batch_size=batch_size, disable_tqdm=True)
        return np.concatenate(kept)

    return judge


def take_turns(
    sides: dict[str, Side], texts: Texts, rounds: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of every side and round, and its logits of all rounds; another side begins each round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        part = texts.part(number, rounds)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            logits[name].append(sides[name](part))
            seconds[name].append(time.perf_counter() - began)
    return seconds, {name: np.concatenate(parts) for name, parts in logits.items()}


def report(
    arguments: argparse.Namespace,
    texts: Texts,
    seconds: dict[str, list[float]],
    logits: dict[str, np.ndarray],
    figures: dict[str, float],
) -> None:
    """Print the table."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    comparisons = len(texts.prompts) * arguments.responses * (arguments.responses - 1)
    weights = arguments.model or f"random, deberta-v3-{arguments.shape}"
    print(f"\n{device}, {platform.machine()}, torch {torch.__version__}; weights: {weights}.")
    print(f"{len(texts.prompts)} prompts x {arguments.responses} responses in {arguments.rounds} rounds:")
    print(f"{comparisons} comparisons of {figures['tokens'] / comparisons:.0f} tokens on average.\n")
    first = "Blender, batches of 1"
    best = min((name for name in seconds if name.startswith("Blender")), key=lambda name: sum(seconds[name]))
    print("| side | comparisons/s | times batches of 1 | times Blender's best | max abs dP |\n|---|---|---|---|---|")
    for name, taken in seconds.items():
        ratios = [statistics.median(a / b for a, b in zip(seconds[to], taken, strict=True)) for to in (first, best)]
        error = np.abs(sigmoid(logits[name]) - sigmoid(logits[first])).max()
        speed = comparisons / sum(taken)
        print(f"| {name} | {speed:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {error:.1e} |")
    print(f"\nSpread of the logits: {logits[first][logits[first] != 0].std():.2f}. Blender's best: {best}.")
    print(f"Forwarded tokens, padding included, over those of the sequences: {_share(figures):.4f}.")


def _share(figures: dict[str, float]) -> float:
    return figures["forwarded_tokens"] / figures["tokens"]


def rerun(model: PairRM, texts: Texts, scratch: Path) -> None:
    """Judge the same texts twice, the second time with nothing but the cache's files."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        Judge(model, JudgementCache(scratch / "judgements")).logits(texts.prompts, texts.responses)
        taken.append(time.perf_counter() - began)
    print(f"Judging {len(texts.prompts)} prompts again from the cache: {taken[1] / taken[0]:.2%} of the first time.")


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities."""
    return 1 / (1 + np.exp(-logits))


if __name__ == "__main__":
    main()
