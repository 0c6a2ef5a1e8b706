"""The default run of two checkouts, in turn: time, memory, disk, and what share of the work is evaluation.

    python benchmarks/run.py ../before . --rounds 3
    python benchmarks/run.py ../before . --rounds 3 --load 2 iterations=1
    python benchmarks/run.py . . --rounds 3 --load-after 2 iterations=1

plays `sppo run` of the first checkout, then of the second, and so on, each with this Python's packages, in an empty
place and with an empty cache but for converted models. It prints a row a run, and the median of the rounds' ratios.
`--load` keeps so many other processes busy meanwhile, `--load-after` only while the second plays: the ratio of one
checkout played twice is then what a load costs. Further arguments are values of the configuration; those of `--after`
are the second checkout's alone, such as values that its default had before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow.parquet as pq
from loop import INTERVAL, tree_memory

CONVERTED = Path(os.environ.get("SPPO_CACHE", Path.home() / ".cache" / "sppo")) / "models"
"""Models that were converted once; both sides read them."""
STAGES = {
    "generate": "responses*/chunk-*", "rank": "preferences*/shard-*", "train": "model*", "evaluate": "evaluation*"
}  # fmt: skip
"""What a stage commits in the folder of an iteration, in this layout and that of version 0.1."""


class Played(NamedTuple):
    """What a run took."""

    minutes: float
    gib: float
    """Peak memory of all its processes, shared pages divided among those that share them."""
    gigabytes: float
    """On disk, at its end."""
    evaluation: float
    """Share of the work of the iterations' stages."""
    final: float
    """Minutes of the questions at the end."""

    def row(self, name: str) -> str:
        """A row of a Markdown table."""
        return (
            f"| {name} | {self.minutes:.1f} | {self.gib:.2f} | {self.gigabytes:.2f} | {100 * self.evaluation:.0f} % "
            f"| {self.final:.1f} |"
        )


def play(checkout: Path, values: Sequence[str]) -> Played:
    """Play the default run of a checkout once."""
    with tempfile.TemporaryDirectory(prefix="sppo-run-") as folder:
        cache, place = Path(folder, "cache"), Path(folder, "run")
        cache.mkdir()
        (cache / "models").symlink_to(CONVERTED)
        paths = [str(checkout), str(checkout / "components"), str(checkout / "pipelines")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "SPPO_CACHE": str(cache)}
        code = "from sppo_pipelines.cli import main; main()"
        command = [sys.executable, "-c", code, "run", f"output_uri={place}", *values]
        start, peak = time.monotonic(), 0
        with psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=folder) as process:
            while process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak = max(peak, tree_memory(process))
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(INTERVAL)
        taken = time.monotonic() - start
        if process.returncode not in {0, 5}:  # 5: the gate is not passed
            raise SystemExit(f"{checkout}: the run ended with {process.returncode}")
        sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
        share, final = evaluation_share(place), final_seconds(place) / 60
        return Played(taken / 60, peak / 2**30, sum(sizes) / 1e9, share, final)


def evaluation_share(place: Path) -> float:
    """What share of the iterations' work was evaluation, without the questions at the end, which no iteration asks."""
    taken = {stage: seconds(place, f"iteration-*/{each}") for stage, each in STAGES.items()}
    asked = final_seconds(place)
    return float((taken["evaluate"] - asked) / (sum(taken.values()) - asked))


def final_seconds(place: Path) -> float:
    """How long the base and the best model took for the questions at the end, which are more than an iteration's."""
    answered = {
        path.parent: pq.read_metadata(path).num_rows for path in place.glob("instruction-answers/*/answers.parquet")
    }
    if len(set(answered.values())) < 2:
        return 0.0
    most = max(answered.values())
    return sum(seconds(place, str(folder.relative_to(place))) for folder, rows in answered.items() if rows == most)


def seconds(place: Path, commits: str) -> float:
    """How long the work of some commits of a run took, by their manifests."""
    return float(sum(json.loads(path.read_bytes())["seconds"] for path in place.glob(f"{commits}/MANIFEST.json")))


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    others = [subprocess.Popen(["yes"], stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def processor() -> str:
    """What the host computes with."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = dict(line.partition(":")[::2] for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in known.items()}
    wide = [flag for flag in fields.get("flags", "").split() if flag.startswith(("avx512", "amx")) or flag == "avx2"]
    return f"{os.cpu_count()} cores of {fields.get('model name', 'an unknown processor')}, {' '.join(wide)}"


def main() -> None:
    """Play both in turn and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkouts", nargs=2, type=Path)
    parser.add_argument("values", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--load-after", type=int, metavar="LOAD")
    parser.add_argument("--after", nargs="+", default=[], metavar="KEY=VALUE")
    asked = parser.parse_intermixed_args()
    checkouts = [path.resolve() for path in asked.checkouts]
    loads = (asked.load, asked.load if asked.load_after is None else asked.load_after)
    print(
        f"{processor()}; other busy processes: {loads[0]} and {loads[1]}; values: {' '.join(asked.values) or 'none'}\n"
    )
    print(
        "| run | minutes | peak GiB | GB on disk | evaluation | questions at the end |\n" + "|---" * 6 + "|", flush=True
    )
    ratios = []
    for number in range(1, asked.rounds + 1):
        round_ = []
        for name, checkout, own, load in zip(("before", "after"), checkouts, ([], asked.after), loads, strict=True):
            with busy(load):
                round_.append(play(checkout, [*asked.values, *own]))
            print(round_[-1].row(f"{name}, round {number}"), flush=True)
        ratios.append(round_[1].minutes / round_[0].minutes)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nafter / before, median of the rounds' ratios: {statistics.median(ratios):.2f} ({shown})")


if __name__ == "__main__":
    main()
