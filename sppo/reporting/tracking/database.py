"""Where runs are tracked, and the database and the artifacts of those whose outputs are in a folder."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sppo.store.base import Store
from sppo.store.local import LocalStore
from sppo.store.uri import Local, parse

DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"


def tracking_uri(store: Store) -> str | None:
    """`MLFLOW_TRACKING_URI`, else a database of all runs in the folder around the run's; None for a run in S3.

    A run that has a database in its own folder, as all had before, goes on with that.
    """
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured
    if not isinstance(store, LocalStore):
        return None
    own = store.root / DATABASE
    return _address(own if own.is_file() else store.root.parent / DATABASE)


def artifacts_uri(uri: str) -> str | None:
    """The folder of an SQLite database's artifacts, beside it: none of them goes with a run's folder.

    Returns:
        None for a server, which has a place of its own for them.
    """
    path = database_path(uri)
    return None if path is None else (path.parent / ARTIFACTS).as_uri()


@contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Let one process at a time open an SQLite database: two that make its tables would leave them half made.

    MLflow's tracking store takes no lock for that (`store/tracking/sqlalchemy_store.py`, 3.17). Once they are there,
    SQLite sees to it that one writes at a time: MLflow lets each wait 20 s for the others (`store/db/utils.py`).

    Raises:
        OSError: if it cannot be opened; MLflow would try that for 100 s (`create_sqlalchemy_engine_with_retry`).
    """
    path = database_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".lock-{path.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            sqlite3.connect(path).close()
        except sqlite3.OperationalError as error:
            raise OSError(f"{path}: {error}") from error
        yield


def database_path(uri: str) -> Path | None:
    """Where an address of SQLite has its file; None for another address, or a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    url = make_url(uri)
    ((name,), options) = url.get_dialect()().create_connect_args(url)
    if name == ":memory:":
        return None
    place = parse(name) if options.get("uri") else Local(Path(name))
    assert isinstance(place, Local)
    return place.path.absolute()


def _address(path: Path) -> str:
    """The address of an SQLite database.

    SQLAlchemy cuts a path at a ?, and 2.1 takes a % for the beginning of an escape, as 2.0 does not. With such a path
    the address is one of SQLite itself (https://www.sqlite.org/uri.html), which both leave as it is. It does not begin
    with sqlite:///, because then MLflow makes the folder without reading escapes (store/db/utils.py, 3.17).
    """
    if not {"?", "%"} & set(str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy import URL

    return URL.create("sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"uri": "true"}).render_as_string()
