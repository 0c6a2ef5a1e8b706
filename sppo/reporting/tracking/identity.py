"""Which run in MLflow is a run of ours, and where its page is."""

from __future__ import annotations

from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from sppo.config.run import RunConfig
from sppo.errors import without_password
from sppo.store import keys
from sppo.store.base import Store, new_attempt

TAG = "sppo.run"
"""The tag by which a run is found: its `identity`."""


class Known(BaseModel):
    """As what, and where, MLflow knows a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    begun: str = ""
    """Tells it from a run that was played in the same place before, and removed; empty for one of a version before."""
    server: str = ""
    """The address of the MLflow that was told of it last, without a password; empty until one was."""
    experiment: str = ""
    run: str = ""

    @property
    def charts(self) -> str:
        """The page of the run's charts, below the address that people open MLflow at.

        That is how MLflow's UI names it (3.17, `experiment-tracking/routes.ts`), in its view of trainings.
        """
        return f"#/experiments/{self.experiment}/runs/{self.run}/model-metrics?workflowType=machine_learning"


def begin(config: RunConfig, store: Store) -> None:
    """Give a run a name of its own before anything is said of it: MLflow may know a removed one with its figures."""
    if store.read(said_key(config)) is None and store.read(_key(config)) is None:
        _write(config, store, Known(begun=new_attempt()))


def identity(config: RunConfig, store: Store) -> str:
    """What tells a run from all others: its place, its configuration, and when it was begun there."""
    # Quoted, because a filter of MLflow cannot hold an apostrophe.
    return f"{quote(store.uri, safe='/:')} {config.digest()[:16]} {known(config, store).begun}".rstrip()


def remember(config: RunConfig, store: Store, uri: str, experiment: str, run: str) -> None:
    """Keep where a run is in MLflow, for who tells people."""
    before = known(config, store)
    now = before.model_copy(update={"server": without_password(uri), "experiment": experiment, "run": run})
    if now != before:
        _write(config, store, now)


def known(config: RunConfig, store: Store) -> Known:
    """What is kept of it."""
    kept = store.read(_key(config))
    return Known() if kept is None else Known.model_validate_json(kept)


def said_key(config: RunConfig) -> str:
    """Where the store has a list of a run's records."""
    return f"tracking/run-{keys.short(config.digest())}.json"


def _key(config: RunConfig) -> str:
    return f"tracking/mlflow-{keys.short(config.digest())}.json"


def _write(config: RunConfig, store: Store, now: Known) -> None:
    store.write(_key(config), now.model_dump_json().encode())
