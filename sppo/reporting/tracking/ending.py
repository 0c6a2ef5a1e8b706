"""How a run ends in MLflow: as finished, failed or killed, with the reason, also where no stage could say so itself."""

from __future__ import annotations

import os
from typing import Literal

from sppo.config.run import PreparedConfig, RunConfig, parse_config
from sppo.reporting.tracking import identity, last_error
from sppo.reporting.tracking.database import tracking_uri
from sppo.reporting.tracking.run import TrackedRun
from sppo.reporting.tracking.track import outage_reported, send_waiting
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.lineage import Lineage

LOCAL_RUN = "SPPO_LOCAL_RUN"
"""Where there is no Kubeflow: a name for whoever plays the stages of a run, one after another."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


def begin(config: PreparedConfig, store: Store) -> None:
    """Note who plays the run from now on; in MLflow, a run that had ended goes on."""
    started = config.model_dump_json().encode()
    if store.read(_started()) != started:
        store.write(_started(), started)
    last_error.forget(store, keys.short(config.digest()))
    identity.begin(config, store)
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
    data = store.read(_started())
    if data is None:
        print("no stage of this run came as far as MLflow: there is nothing to end", flush=True)
        return
    config = parse_config(data, f"{store.uri}/{_started()}")
    status, reason = _ending(config, store, failed)
    print(f"tracked as {status.lower()}{f': {reason}' if reason else ''}", flush=True)
    uri = tracking_uri(store)
    if uri is None:
        return
    with outage_reported(uri):
        run = TrackedRun(config, store, uri)
        send_waiting(run, store)
        run.end(status, reason)


def _ending(config: RunConfig, store: Store, failed: bool) -> tuple[Status, str]:
    if failed:
        stage, error = last_error.last(store, keys.short(config.digest()))
        return "FAILED", f"{stage}: {error}" if error else "ended without a message"
    if store.manifest(Lineage(config, store).report_key) is not None:
        return "FINISHED", ""
    return "KILLED", "somebody ended the run"


def _started() -> str:
    """Which configuration is played by whom: another run in the same place must not end this one."""
    return f"tracking/started-{os.environ.get('KFP_RUN_ID') or os.environ.get(LOCAL_RUN, 'here')}.json"
