"""How fast training is: against TRL's DPOTrainer(loss_type="sppo_hard"), against the machine, and in its growth.

    python benchmarks/train.py runs/default

takes the pairs of a run's first iteration (`make run` makes such a run) and its first policy. Every side is a process
of its own, so that its peak memory is its own; they work in turns, never at once, and a ratio is the median of the
ratios of turns that follow one another. Prints Markdown. Needs trl (`pip install --no-deps trl==1.16.0`).

The policy may have random weights instead, which take as long: in its own shape (`--shape random`) or, on a GPU, in
that of a larger Llama (`--shape 7b --batch 32 --parts machine growth`).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

SIDES = Path(__file__).parent / "train_sides.py"


class Side:
    """A process that takes an optimizer step when it is told to."""

    def __init__(self, name: str, arguments: list[str], **options: Any) -> None:
        self.name = name
        command = [sys.executable, str(SIDES), name, *arguments, json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self.ask()

    def ask(self) -> dict[str, float]:
        """Wait for what the process tells next."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"{self.name} ended: {self.process.wait()}")

    def step(self) -> dict[str, float]:
        """Have it take a step; seconds and tokens."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.ask()

    def end(self) -> dict[str, float]:
        """Stop it; its peak memory."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        answer = self.ask()
        self.process.wait()
        return answer


def against_trl(arguments: list[str], rounds: int, batch: int) -> None:
    """Steps of both trainers on the same batches, in turns; ours with and without gradient checkpointing."""
    names = ("this one", "this one, gradient checkpointing", f"TRL {version('trl')} DPOTrainer, sppo_hard")
    sides = [
        Side("ours", arguments, batch=batch),
        Side("ours", arguments, batch=batch, checkpointing=True),
        Side("trl", arguments, batch=batch),
    ]
    turns = [[side.step() for side in sides] for _ in range(rounds + 1)][1:]  # the first warms up
    peaks = [side.end()["peak_gib"] for side in sides]
    print("| trainer | seconds a step | pairs a second | times TRL's | peak memory, GiB | of TRL's |")
    print("|---|---|---|---|---|---|")
    for index, name in enumerate(names):
        seconds = statistics.median(turn[index]["seconds"] for turn in turns)
        ratios = [turn[-1]["seconds"] / turn[index]["seconds"] for turn in turns]
        print(
            f"| {name} | {seconds:.2f} | {batch / seconds:.2f} | {statistics.median(ratios):.1f} ({min(ratios):.1f} to "
            f"{max(ratios):.1f}) | {peaks[index]:.2f} | {peaks[index] / peaks[-1]:.2f} |"
        )
    print(f"\nMedians of {rounds} turns.\n")


def against_the_machine(arguments: list[str], rounds: int, batch: int) -> None:
    """The share of the matrix-product rate that is measured before and after each step."""
    side = Side("ours", arguments, batch=batch, rate=True)
    turns = [side.step() for _ in range(rounds + 1)][1:]
    side.end()
    rates = [turn["flops"] / turn["seconds"] for turn in turns]
    shares = [rate / turn["rate"] for rate, turn in zip(rates, turns, strict=True)]
    tokens, rate, peak = (
        statistics.median(column) for column in ([t["tokens"] for t in turns], rates, [t["rate"] for t in turns])
    )
    print(
        f"{side.facts['parameters'] / 1e6:.1f} M parameters (N), {tokens:.0f} tokens a step, prompts counted once: 6 N "
        f"tokens a second are {rate / 1e12:.2f} TFLOP/s. The product of two 4096 × 4096 matrices, measured in between: "
        f"{peak / 1e12:.2f} TFLOP/s. Share, median of {rounds}: **{statistics.median(shares):.0%}** "
        f"({min(shares):.0%} to {max(shares):.0%}).\n"
    )


def ideas(arguments: list[str], rounds: int, batch: int) -> None:
    """What a step costs without one of the ideas, each in turns with the step as it is."""
    without: dict[str, dict[str, Any]] = {
        "each response with a prompt of its own": {"share": False},
        "short sequences by PyTorch's fused attention kernel too": {"short": 0},
        "transformers' own norms and MLPs": {"lean": False},
        "torch.optim.RMSprop with clipping and a copy to bfloat16": {"fused": False},
        "passes of 384 tokens": {"micro_tokens": 384},
        "gradient checkpointing": {"checkpointing": True},
    }
    print(
        "| step | times as long, median of ratios | seconds | peak memory, GiB | both as it is |\n|---|---|---|---|---|"
    )
    for name, options in without.items():
        sides = [Side("ours", arguments, batch=batch), Side("ours", arguments, batch=batch, **options)]
        turns = [[side.step() for side in sides] for _ in range(rounds + 1)][1:]
        peaks = [side.end()["peak_gib"] for side in sides]
        own, other = (statistics.median(turn[index]["seconds"] for turn in turns) for index in range(2))
        ratio = statistics.median(changed["seconds"] / as_it_is["seconds"] for as_it_is, changed in turns)
        print(f"| {name} | {ratio:.2f} | {other:.2f} | {peaks[1]:.2f} | {own:.2f}; {peaks[0]:.2f} |", flush=True)
    print()


def growth(arguments: list[str], rounds: int, batch: int) -> None:
    """Seconds by tokens of a step, and peak memory by its pairs, in passes so small that every size takes several."""
    sizes = [batch // 2, batch, batch * 2, batch * 4]
    sides = [Side("ours", arguments, batch=size, micro_tokens=1024 * batch // 8) for size in sizes]
    turns = [[side.step() for side in sides] for _ in range(rounds + 1)][1:]
    peaks = [side.end()["peak_gib"] for side in sides]
    print("| pairs a step | tokens | seconds | ms a token | peak memory, GiB |\n|---|---|---|---|---|")
    for index, size in enumerate(sizes):
        tokens = statistics.median(turn[index]["tokens"] for turn in turns)
        seconds = statistics.median(turn[index]["seconds"] for turn in turns)
        per_token = statistics.median(turn[index]["seconds"] / turn[index]["tokens"] for turn in turns)
        print(f"| {size} | {tokens:.0f} | {seconds:.2f} | {per_token * 1e3:.2f} | {peaks[index]:.2f} |")
    print()


PARTS = {"trl": against_trl, "machine": against_the_machine, "ideas": ideas, "growth": growth}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output_uri of a run whose first iteration has pairs")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each side that count")
    parser.add_argument("--shape", choices=["run", "random", "1b", "7b"], default="run", help="of the policy")
    parser.add_argument("--batch", type=int, default=8, help="pairs of one optimizer step")
    parser.add_argument("--micro-tokens", type=int, default=0, help="of one pass; by default 4096, 16384 on a GPU")
    parser.add_argument("--joined", type=int, default=1, help="so many pairs one after the other make a longer one")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    wanted = parser.parse_args()
    arguments = [wanted.run, wanted.shape, str(wanted.joined), wanted.dtype, str(wanted.micro_tokens)]
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{device}, {platform.machine()}, Python {platform.python_version()}, {packages}; {wanted.dtype}.\n")
    for part in wanted.parts:
        PARTS[part](arguments, wanted.rounds, wanted.batch)


if __name__ == "__main__":
    main()
