"""Keeping records in the store, and sending those that MLflow does not have."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sppo.config.run import RunConfig
from sppo.config.sections.bench import BENCHMARKS
from sppo.errors import SppoError, one_line, without_password
from sppo.reporting.tracking.record import Record
from sppo.reporting.tracking.run import TrackedRun
from sppo.store.base import Store
from sppo.store.local import LocalStore


def track(config: RunConfig, store: Store, record: Record) -> None:
    """Keep a record in the store, then send it and every earlier one that could not be sent."""
    _keep(store, record)
    uri = tracking_uri(store)
    if uri is None:
        print("MLFLOW_TRACKING_URI is not set: the figures are kept in the store until it is", flush=True)
        return
    if all(earlier.sent for earlier in _records(config, store)):
        return
    with outage_reported(uri):
        send_waiting(TrackedRun(config, store, uri), store)


def send_waiting(run: TrackedRun, store: Store) -> None:
    """Send the records that MLflow does not have, one by one, until it fails."""
    for record in _records(run.config, store):
        if not record.sent:
            run.send(record)
            _write(store, record.model_copy(update={"sent": True}))


def tracking_uri(store: Store) -> str | None:
    """`MLFLOW_TRACKING_URI`, else a database beside the outputs where those are in a folder."""
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured
    return _database(store.root / "mlflow.db") if isinstance(store, LocalStore) else None


def _database(path: Path) -> str:
    """The address of an SQLite database.

    SQLAlchemy cuts a path at a ?, and 2.1 takes a % for the beginning of an escape, as 2.0 does not. With such a path
    the address is one of SQLite itself (https://www.sqlite.org/uri.html), which both leave as it is. It does not begin
    with sqlite:///, because then MLflow makes the folder without reading escapes (store/db/utils.py, 3.17).
    """
    if not {"?", "%"} & set(str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy import URL

    return URL.create("sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"uri": "true"}).render_as_string()


def _keep(store: Store, record: Record) -> None:
    """Write a record, unless a first attempt at the stage said the same.

    Of the machine the first attempt's samples stay: it did the work that a later one finds done.
    """
    before = _read(store, record.key())
    if before is None:
        _write(store, record.model_copy(update={"time": int(time.time() * 1000)}))
        return
    again = record.model_copy(update={"time": before.time, "system": before.system or record.system})
    if again != before.model_copy(update={"sent": False}):
        _write(store, again)


def _read(store: Store, key: str) -> Record | None:
    data = store.read(key)
    return None if data is None else Record.model_validate_json(data)


def _write(store: Store, record: Record) -> None:
    store.write(record.key(), record.model_dump_json().encode())


def _records(config: RunConfig, store: Store) -> Iterator[Record]:
    """All records of a run, in the order of the loop."""
    stages = [("prepare", 0)]
    stages += [(stage, t) for t in range(1, config.iterations + 1) for stage in ("train", "evaluate")]
    last = ["publish", *(f"bench-{name}" for name in BENCHMARKS)]
    for stage, iteration in [*stages, *((stage, 0) for stage in last)]:
        record = _read(store, Record(stage=stage, iteration=iteration).key())
        if record is not None:
            yield record


@contextmanager
def outage_reported(uri: str) -> Iterator[None]:
    """Turn an unreachable or failing MLflow, and a wrong address of one, into a warning; the records stay in the store.

    Its artifacts may lie in a folder or in S3, to which a client that no server stands in for writes by itself. A
    database's driver is imported when it is first asked, and addresses are taken apart by SQLAlchemy, boto3 and urllib.
    """
    import sqlalchemy.exc
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    outages = (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError, Boto3Error, BotoCoreError, ClientError)
    try:
        yield
    except SppoError:  # of the store that keeps the records
        raise
    except (*outages, ImportError, ValueError) as error:
        reason, place = one_line(error), without_password(uri)
        if isinstance(error, ImportError):
            reason += "; install it, or name another in the address"
        print(f"warning: MLflow at {place} failed ({reason}); figures are kept and sent later", flush=True)
