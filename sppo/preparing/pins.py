"""What a model's URI became for a run: a commit of a hub (`hf://org/name@commit`), or a whole path.

A repository of a hub goes on changing, and so does what lies in a cache. A run plays on for days, over several
machines: all of it must see the same model, whatever folder a command is started from.

A run's results depend on the URIs that it recorded, so these stay when a folder is moved; `places` says where it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from sppo.config.run import RunConfig
from sppo.models.fetch import hub_commit
from sppo.models.moved import present
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.uri import Local, parse

_HUB = re.compile(r"(?P<repository>(?:\w+:)?hf://[^@]+)(?:@(?P<revision>.+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


def pin(config: RunConfig, store: Store) -> tuple[RunConfig, dict[str, str]]:
    """Name the commit of every model of a hub (the one that this place recorded, or else the newest), and whole paths.

    Args:
        config: the run's configuration, as somebody gave it.
        store: the run's.

    Returns:
        The configuration with commits and whole paths, and what each URI that was ever given here became.

    Raises:
        ConfigError: if a hub has no such model.
        InfrastructureError: if a hub cannot be reached, and the cache does not have the model.
    """
    recorded = recorded_pins(store)
    moved = places(store)
    before = {present: recorded for recorded, present in moved.items()}
    pins = dict(recorded)

    def became(uri: str) -> str:
        path = _whole_path(uri)
        if path in {*moved, *recorded.values()} or folder_of(uri):
            return before.get(path, path)
        found = _HUB.fullmatch(uri)
        if found is None or _COMMIT.fullmatch(found["revision"] or ""):
            return uri
        return _recorded(uri, found, recorded) or f"{found['repository']}@{_newest(uri)}"

    def pinned(uri: str) -> str:
        new = became(uri)
        if new != uri:
            pins[uri] = new
        return new

    return renamed(config, pinned), pins


def renamed(config: RunConfig, became: Callable[[str], str]) -> RunConfig:
    """A configuration with other URIs of its models and judges.

    Args:
        config: a configuration.
        became: gives what a URI is to be.
    """
    values = config.asked()
    for key in ("base_model", "preference_model"):
        values[key] = became(values[key])
    values["evaluate"]["second_judge"] = [became(uri) for uri in values["evaluate"]["second_judge"]]
    for member in values["judge"]["mixture"]:
        member["model"] = became(member["model"])
    return RunConfig.model_validate(values)


def recorded_pins(store: Store) -> dict[str, str]:
    """What each URI that was ever given in a place became."""
    found: dict[str, str] = json.loads(store.read(keys.PINS) or b"{}")
    return found


def folder_of(uri: str) -> Path | None:
    """The whole path of a URI that names a model folder of this machine, wherever that is now; None for any other.

    A judge may be written in other ways, which only its kind knows: a folder is what a model's config.json lies in.
    """
    path = _whole_path(uri)
    return Path(path) if path and (present(Path(path)) / "config.json").is_file() else None


def _whole_path(uri: str) -> str:
    place = parse(uri) if uri else None
    return str(place.path.absolute()) if isinstance(place, Local) else ""


def places(store: Store) -> dict[str, str]:
    """The present place of every model folder of a run that was moved, by the path that the run recorded."""
    data = store.read(keys.PLACES)
    found: dict[str, str] = {} if data is None else json.loads(data)
    return found


def _recorded(uri: str, found: re.Match[str], recorded: Mapping[str, str]) -> str | None:
    """What the run recorded for a URI, or, if that names no revision at all, for its repository."""
    if uri in recorded or found["revision"]:
        return recorded.get(uri)
    of_repository = (pinned for pinned in recorded.values() if pinned.startswith(f"{found['repository']}@"))
    return next(of_repository, None)


def _newest(uri: str) -> str:
    return hub_commit(uri[uri.index("hf://") :])
