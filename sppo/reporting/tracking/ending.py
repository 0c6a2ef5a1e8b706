"""How a run ends in MLflow: as finished, failed or killed, with the reason, also where no stage could say so itself."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sppo.config.run import RunConfig
from sppo.reporting.tracking import last_error
from sppo.reporting.tracking.run import TrackedRun
from sppo.reporting.tracking.track import outage_reported, send_waiting, tracking_uri
from sppo.store import keys
from sppo.store.base import Store

STARTED = "tracking/started.json"

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Started(BaseModel):
    """Who plays a run: another run in the same place must not end it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kfp_run_id: str
    config: RunConfig


def begin(config: RunConfig, store: Store) -> None:
    """Note who plays the run from now on; in MLflow, a run that had ended goes on."""
    started = Started(kfp_run_id=_kfp_run_id(), config=config).model_dump_json().encode()
    if store.read(STARTED) != started:
        store.write(STARTED, started)
    last_error.forget(store)
    uri = tracking_uri(store)
    if uri is not None:
        with outage_reported(uri):
            TrackedRun(config, store, uri).go_on()


def end(store: Store, failed: bool) -> None:
    """End the run in MLflow, with its nested runs, as far as they go on.

    Args:
        store: the run's.
        failed: whether a stage failed; else the run is at its end, or somebody ended it.
    """
    data = store.read(STARTED)
    started = Started.model_validate_json(data) if data else None
    if started is None or started.kfp_run_id != _kfp_run_id():
        print("no stage of this run came as far as MLflow: there is nothing to end", flush=True)
        return
    status, reason = _ending(store, failed)
    print(f"the run is {status.lower()}{f': {reason}' if reason else ''}", flush=True)
    uri = tracking_uri(store)
    if uri is None:
        return
    with outage_reported(uri):
        run = TrackedRun(started.config, store, uri)
        send_waiting(run, store)
        run.end(status, reason)


def _ending(store: Store, failed: bool) -> tuple[Status, str]:
    if failed:
        stage, error = last_error.last(store)
        return "FAILED", f"{stage}: {error}" if error else "ended without a message"
    if store.manifest(keys.PUBLISHED_REPORT) is not None:
        return "FINISHED", ""
    return "KILLED", "somebody ended the run"


def _kfp_run_id() -> str:
    return os.environ.get("KFP_RUN_ID", "")
