"""A hub's model is one commit: `hf://org/name` is `hf://org/name@commit` once a run is prepared.

A repository of a hub goes on changing, and so does what lies in a cache. A run plays on for days, over several
machines: all of it must see the same model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from sppo.config.run import RunConfig
from sppo.models.fetch import hub_commit
from sppo.store import keys
from sppo.store.base import Store

_HUB = re.compile(r"(?P<repository>(?:\w+:)?hf://[^@]+)(?:@(?P<revision>.+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


def pin(config: RunConfig, store: Store) -> tuple[RunConfig, dict[str, str]]:
    """Name the commit of every model of a hub: the one that this run recorded, or else the newest.

    Args:
        config: the run's configuration, as somebody gave it.
        store: the run's.

    Returns:
        The configuration with commits, and each of its URIs that named none, with the one that it became.

    Raises:
        ConfigError: if a hub has no such model.
        InfrastructureError: if a hub cannot be reached, and the cache does not have the model.
    """
    recorded: dict[str, str] = {}
    if store.manifest(keys.PREPARED) is not None:
        recorded = json.loads(store.read_committed(keys.PREPARED, keys.PINS_FILE))
    pins: dict[str, str] = {}

    def pinned(uri: str) -> str:
        found = _HUB.fullmatch(uri)
        if found is None or _COMMIT.fullmatch(found["revision"] or ""):
            return uri
        pins[uri] = _recorded(uri, found, recorded) or f"{found['repository']}@{_newest(uri)}"
        return pins[uri]

    values = config.model_dump()
    for key in ("base_model", "preference_model"):
        values[key] = pinned(values[key])
    values["evaluate"]["second_judge"] = pinned(values["evaluate"]["second_judge"])
    for member in values["judge"]["mixture"]:
        member["model"] = pinned(member["model"])
    return RunConfig.model_validate(values), pins


def _recorded(uri: str, found: re.Match[str], recorded: Mapping[str, str]) -> str | None:
    """What the run recorded for a URI, or, if that names no revision at all, for its repository."""
    if uri in recorded or found["revision"]:
        return recorded.get(uri)
    of_repository = (pinned for pinned in recorded.values() if pinned.startswith(f"{found['repository']}@"))
    return next(of_repository, None)


def _newest(uri: str) -> str:
    return hub_commit(uri[uri.index("hf://") :])
