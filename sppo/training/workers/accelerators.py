"""One machine with several accelerators: a worker of the training on each of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from pathlib import Path

from sppo.errors import RunFailedError
from sppo.training.workers.trainjob.spec import stage_command


def workers_wanted() -> int:
    """How many workers this process should start: none where it is one itself, or where one is enough."""
    import torch

    count = torch.accelerator.device_count()
    return count if count > 1 and "WORLD_SIZE" not in os.environ else 0


def run_workers(count: int, run: str, iteration: int, shards: int) -> None:
    """Train an iteration with as many workers, which print here, and wait for their end.

    A signal is handed on to them; this process then ends with 143 or 130, as they do.

    Raises:
        SystemExit: with the exit code of the worker that failed first, which has told why.
        RunFailedError: if a worker was killed, or failed with an error that is not written for people.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
        local_addr="localhost",
    )
    sppo, *arguments = stage_command(run, iteration, shards)
    before = {number: signal.getsignal(number) for number in map(signal.Signals, (1, 2, 3, 15))}
    print(f"training with {count} workers, one an accelerator", flush=True)
    try:
        elastic_launch(config, str(Path(sys.executable).with_name(sppo)))(*arguments)
    except SignalException as told:
        raise SystemExit(128 + told.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 1:
            raise SystemExit(failure.exitcode) from None
        raise RunFailedError(f"training: worker {rank}: {failure.message}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
