"""Work in a process of its own, whose memory is given back when it ends."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from sppo.errors import RunFailedError

Result = TypeVar("Result")


def in_child(work: Callable[[], Result]) -> Result:
    """Do work in a copy of this process.

    What it imports, such as half a gigabyte of PyTorch, is not kept here for as long as the caller lives.

    Args:
        work: what to do; what it returns or raises must be something that can be pickled.

    Returns:
        What it returned.

    Raises:
        Exception: what it raised.
        SystemExit: with its exit code, if a signal ended it in order.
        RunFailedError: if it was killed.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(work, theirs))
    child.start()
    theirs.close()
    try:
        result, raised = ours.recv()
    except EOFError:
        child.join()
        if child.exitcode and child.exitcode > 0:
            raise SystemExit(child.exitcode) from None
        raise RunFailedError(f"a process of this command was killed (exit code {child.exitcode})") from None
    except BaseException:  # a signal ends this process: nobody waits for the work any more
        child.terminate()
        child.join()
        raise
    child.join()
    if raised is not None:
        raise raised
    done: Result = result
    return done


def _send(work: Callable[[], object], pipe: Connection) -> None:
    """Send what the work returns, and what it raises."""
    result, raised = None, None
    try:
        result = work()
    except Exception as error:  # the caller's process raises it
        error.add_note(traceback.format_exc())
        raised = error
    pipe.send((result, raised))
