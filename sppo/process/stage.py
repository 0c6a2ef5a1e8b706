"""What the process of a stage begins and ends with: its surroundings, its error, its exit code, and further tries."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sppo.config.run import read_config
from sppo.errors import SppoError, storage_errors
from sppo.models.moved import moved
from sppo.preparing.pins import places
from sppo.process.output import plain_output
from sppo.process.supervisor import supervised
from sppo.process.surroundings import put_right
from sppo.reporting.tracking import last_error
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.opening import open_store

P = ParamSpec("P")
R = TypeVar("R")


def stage(function: Callable[P, R]) -> Callable[P, R]:
    """What a stage's process begins and ends with.

    Its surroundings are put right first. A failure that is written for people ends it with one line and its exit code,
    without a traceback. In a pod it is tried again where that may help.
    """

    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        with plain_output():
            try:
                with storage_errors():
                    return function(*args, **kwargs)
            except SppoError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                raise SystemExit(error.exit_code) from None
            except KeyboardInterrupt:  # whoever was interrupted knows what to say
                raise SystemExit(128 + signal.SIGINT) from None

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        put_right()
        return supervised(partial(told, *args, **kwargs))

    return wrapped


def playing(function: Callable[P, R]) -> Callable[P, R]:
    """A stage that plays a part of a run: it finds models that were moved, and its error is kept in the run's store."""
    signature = inspect.signature(function)

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        try:
            with storage_errors(), moved(places(_run(given)[0])):
                result = function(*args, **kwargs)
        except Exception as error:
            message = str(error) if isinstance(error, SppoError) else f"{type(error).__name__}: {error}"
            _keep_error(given, _title(function.__name__, given), message)
            raise
        last_error.forget(*_run(given), _title(function.__name__, given))
        return result

    return wrapped


def _title(name: str, given: Mapping[str, Any]) -> str:
    """A stage in words, such as "generate of iteration 2, shard 0"."""
    iteration, shard = given.get("iteration"), given.get("shard")
    return name + (f" of iteration {iteration}" if iteration else "") + ("" if shard is None else f", shard {shard}")


def _run(given: Mapping[str, Any]) -> tuple[Store, str]:
    """The run that a stage's arguments are of: its store, and its digest as the key of its configuration has it."""
    config = read_config(Path(given["config_path"]))
    return open_store(config.output_uri), keys.short(config.digest())


def _keep_error(given: Mapping[str, Any], title: str, message: str) -> None:
    try:
        with storage_errors():
            last_error.leave(*_run(given), title, message)
    except SppoError as error:  # the error itself may be that there is no store, or a full one
        print(f"warning: the error is not kept for the run's end: {error}", file=sys.stderr, flush=True)
