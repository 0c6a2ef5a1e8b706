"""How long the whole loop takes, and how much memory: plays a run and watches all its processes.

    python benchmarks/loop.py output_uri=runs/measured seed=1

prints the wall time, the peak of the summed memory (proportional set size) of every process of the run, and the seconds
of each stage's work from the manifests. Arguments are those of `sppo run`. `--no-network` plays it in a network
namespace of its own, with nothing but the loopback interface (needs root).
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import psutil

from sppo.preparing.recorded import recorded_config
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store

INTERVAL = 2.0
"""Seconds between two looks at the memory."""


def tree_memory(root: psutil.Process) -> int:
    """Bytes that a process and its descendants use, shared pages divided among those that share them."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            total += process.memory_full_info().pss
    return total


def play(arguments: list[str], network: bool) -> tuple[int, float, int]:
    """Play a run; its exit code, wall time in seconds and peak memory in bytes."""
    command = [str(Path(sys.executable).with_name("sppo")), "run", *arguments]
    if not network:
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    start, peak = time.monotonic(), 0
    with psutil.Popen(command) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, tree_memory(process))
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(INTERVAL)
    return process.returncode, time.monotonic() - start, peak


def stage_seconds(output_uri: str) -> list[str]:
    """One line an iteration: the seconds of each stage's work, without starting processes and loading models."""
    store, config = open_store(output_uri), recorded_config(output_uri)
    lineage, lines = Lineage(config, store), []
    for iteration in range(1, config.iterations + 1):
        manifest = store.manifest(lineage.model_key(iteration))
        if manifest is not None:
            seconds = {name: manifest.figures[f"{name}/seconds"] for name in ("generate", "rank", "train")}
            lines.append(f"iteration {iteration}: " + ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items()))
    return lines


def main() -> None:
    """Play, then print what was measured."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--no-network"]
    code, seconds, peak = play(arguments, network="--no-network" not in sys.argv)
    print(f"exit code {code}, wall time {seconds:.0f} s ({seconds / 60:.1f} min), peak memory {peak / 2**30:.2f} GiB")
    places = [argument.partition("=")[2] for argument in arguments if argument.startswith("output_uri=")]
    print("\n".join(stage_seconds(places[-1] if places else "runs/default")))
    sys.exit(code)


if __name__ == "__main__":
    main()
