"""Keeping records in the store, and sending those that MLflow does not have."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sppo.config.run import PreparedConfig, RunConfig
from sppo.errors import SppoError, one_line, without_password
from sppo.preparing.recorded import configuration
from sppo.reporting.tracking.database import tracking_uri
from sppo.reporting.tracking.identity import begin, said_key
from sppo.reporting.tracking.record import Record
from sppo.reporting.tracking.run import TrackedRun
from sppo.store.base import Store


def track(config: RunConfig, store: Store, record: Record) -> None:
    """Keep a record in the store, then send it and every earlier one that could not be sent.

    A stage whose work another run in this place did has nothing to say: that run said it.
    """
    begin(config, store)
    _keep(config, store, record)
    uri = tracking_uri(store)
    if uri is None:
        print("MLFLOW_TRACKING_URI is not set: the figures are kept in the store until it is", flush=True)
        return
    waiting = [each for each in _runs(config, store) if not all(earlier.sent for earlier in _records(each, store))]
    if waiting:
        with outage_reported(uri):
            for each in waiting:
                send_waiting(TrackedRun(each, store, uri), store)


def send_waiting(run: TrackedRun, store: Store) -> None:
    """Send the records of a run that MLflow does not have, one by one, until it fails."""
    for record in _records(run.config, store):
        if not record.sent:
            run.send(record)
            _write(store, record.model_copy(update={"sent": True}))


def _runs(config: RunConfig, store: Store) -> Iterator[RunConfig]:
    """The run, after those that it continues: what these could not send would else be sent only if they went on."""
    continued = configuration(store, config.continues) if isinstance(config, PreparedConfig) else None
    if continued is not None:
        yield from _runs(continued, store)
    yield config


def _keep(config: RunConfig, store: Store, record: Record) -> None:
    """Write a record, unless another run did, or a first attempt at the stage said the same.

    Of the machine the first attempt's samples stay: it did the work that a later one finds done.
    """
    before, said = _read(store, record.key()), _said(config, store)
    if before is None:
        if record.key() not in said:
            store.write(said_key(config), json.dumps([*said, record.key()], indent=1).encode())
        _write(store, record.model_copy(update={"time": int(time.time() * 1000)}))
    elif record.key() in said:
        again = record.model_copy(update={"time": before.time, "system": before.system or record.system})
        if again != before.model_copy(update={"sent": False}):
            _write(store, again)


def _said(config: RunConfig, store: Store) -> list[str]:
    """Where the records of a run are, in the order in which they were said first."""
    found: list[str] = json.loads(store.read(said_key(config)) or b"[]")
    return found


def _read(store: Store, key: str) -> Record | None:
    data = store.read(key)
    return None if data is None else Record.model_validate_json(data)


def _write(store: Store, record: Record) -> None:
    store.write(record.key(), record.model_dump_json().encode())


def _records(config: RunConfig, store: Store) -> list[Record]:
    found = (_read(store, key) for key in _said(config, store))
    return [record for record in found if record is not None]


@contextmanager
def outage_reported(uri: str) -> Iterator[None]:
    """Turn an unreachable or failing MLflow, and a wrong address of one, into a warning; the records stay in the store.

    Its artifacts may lie in a folder or in S3, to which a client that no server stands in for writes by itself. A
    database's driver is imported when it is first asked, and addresses are taken apart by SQLAlchemy, boto3 and urllib.
    """
    import sqlalchemy.exc
    from alembic.util import CommandError
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    of_libraries = (
        MlflowException,
        sqlalchemy.exc.SQLAlchemyError,
        CommandError,
        Boto3Error,
        BotoCoreError,
        ClientError,
    )
    outages: tuple[type[Exception], ...] = (*of_libraries, OSError, ImportError, ValueError)
    try:
        yield
    except SppoError:  # of the store that keeps the records
        raise
    except outages as error:
        reason, place = one_line(error), without_password(uri)
        if isinstance(error, ImportError):
            reason += "; install it, or name another in the address"
        print(f"warning: MLflow at {place} failed ({reason}); figures are kept and sent later", flush=True)
