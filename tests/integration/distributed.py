"""A run that has come to its first training, and the processes that train it."""

import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401 - so that forked processes need not load it again
import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - as well

import sppo.training.train  # noqa: F401 - as well
from sppo.config.run import PreparedConfig, resolve
from sppo.models.policy import load_policy
from sppo.preparing.recorded import record
from sppo.store import keys, tables
from sppo.store.base import Store
from sppo.store.once import run_once
from sppo.store.opening import open_store
from tests.conftest import COUNTED, NO_OTHERS, lineage_of

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "iterations": 1,
    "train.dtype": "float32",
    "train.learning_rate": 1e-3,
    "train.global_batch": 4,
    "train.micro_tokens": 40,
    "train.checkpoint_every": 1,
    "train.audit_fraction": 1.0,
    "train.audit_tolerance": 20.0,
}
PAIRS = 9
"""So that the last batch of four holds a single pair: less than there are workers."""


def pairs() -> list[dict[str, Any]]:
    """Pairs of random responses of different lengths, with log-probabilities that are about the tiny model's."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=generator).tolist()

    rows = []
    for i in range(PAIRS):
        ids = {"prompt_ids": tokens(5), "chosen_ids": tokens(3 + i), "rejected_ids": tokens(12 - i)}
        logprobs = {f"{side}_logprobs": [-6.0] * len(ids[f"{side}_ids"]) for side in ("chosen", "rejected")}
        rows.append(
            {"prompt_id": f"p{i}", "prompt": "?", "chosen": "", "rejected": "", "chosen_index": 0, "rejected_index": 1,
             "p_chosen": 0.55 + 0.04 * i, "p_rejected": 0.5 - 0.04 * i, **ids, **logprobs, **NO_OTHERS}
        )  # fmt: skip
    return rows


def start(uri: str, model: Path, **changes: Any) -> Store:
    """Commit what a training begins with."""
    store = open_store(uri)
    config = resolve({"output_uri": store.uri, "base_model": str(model), **SETTINGS, **changes})

    def prepared(folder: Path) -> dict[str, float]:
        rows = [{"prompt_id": f"p{i}", "prompt": "?", "prompt_ids": [63]} for i in range(PAIRS)]
        tables.write(folder / keys.prompts_file(1), tables.PROMPTS, rows)
        return {}

    def ranked(folder: Path) -> dict[str, float]:
        tables.write(folder / keys.PAIRS_FILE, tables.PAIRS, pairs())
        return dict.fromkeys(COUNTED, 1.0)

    record(PreparedConfig(**config.asked()), store, {})
    run_once(store, lineage_of(uri).prepared_key, {}, prepared)
    run_once(store, lineage_of(uri).preferences_key(1, 0, 1), {}, ranked)
    return store


def command(uri: str, workers: int, patch: str = "", **environment: str) -> subprocess.Popen[str]:
    """Start `sppo train`, alone or under torchrun; `patch` is Python that each process executes first."""
    code = f"import sys\n{patch}\nfrom sppo_pipelines.cli import main\nsys.argv[0] = 'sppo'\nmain()"
    words = [sys.executable, "-c", code, "train", uri]
    if workers > 1:
        torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", str(workers)]
        words = [*torchrun, "--no-python", *words]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    # MLflow leaves the server of an earlier test in the environment.
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        words, env={**inherited, **settings}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process: its exit code, and what it printed."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def together(workers: int, uri: str, patch: str = "") -> list[int]:
    """Run the train stage in processes that are forked from one which has imported everything; their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "SPPO_"))}
    environment |= {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [{**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(workers)]
    processes = [context.Process(target=_worker, args=(uri, patch, place)) for place in places]
    for process in processes:
        process.start()
    multiprocessing.connection.wait([process.sentinel for process in processes])
    deadline = time.monotonic() + 60
    while any(process.exitcode is None for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):  # as torchrun does
            for process in processes:
                process.terminate()
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def _worker(uri: str, patch: str, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    exec(patch, {})
    from sppo import cli

    cli.train(uri)


def trained(store: Store) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The log rows and the weights of the model that was trained."""
    folder = store.fetch(lineage_of(store.uri).model_key(1))
    lines = (folder / keys.TRAINING_LOG_FILE).read_text().splitlines()
    return [json.loads(line) for line in lines], load_policy(folder, "float32").state_dict()


def checkpoint(store: Store) -> int | None:
    """The step of the newest checkpoint."""
    latest = store.read(f"{lineage_of(store.uri).checkpoints_key(1)}/latest.json")
    return None if latest is None else json.loads(latest)["step"]


def wait_for(reached: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something has happened while a process runs."""
    deadline = time.monotonic() + 100
    while not reached():
        assert process.poll() is None, end(process)[1][-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read what a process prints until some text comes."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines)[-6000:])
