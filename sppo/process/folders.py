"""The model folders of a run that lie on this machine: what they held when it began, and where they are now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sppo.config.run import RunConfig
from sppo.errors import ConfigError
from sppo.judging.load import judge_digest
from sppo.models.fetch import fetch_model, model_digest
from sppo.preparing.pins import folder_of, places
from sppo.store import keys
from sppo.store.opening import open_store

KEYS = ("base_model", "preference_model")
"""Values of the configuration whose folder may move while a run is played."""


def write_digests(config: RunConfig, folder: Path) -> None:
    """Write down what the folders hold that a run is prepared with, so that they can be told when they have moved."""
    digests = {key: _digest(config, key) for key in KEYS if folder_of(getattr(config, key))}
    (folder / keys.FOLDERS_FILE).write_text(json.dumps(digests, indent=1))


def find_folders(config: RunConfig, moved: Mapping[str, str]) -> None:
    """Make sure that a run's folders are where it recorded them, or record where they are now.

    Args:
        config: as the run recorded it.
        moved: the new place of a folder by the key that names it.

    Raises:
        ConfigError: if a folder is not there, holds another model than it did, or is none that the run reads.
    """
    store = open_store(config.output_uri)
    path = store.fetch(keys.PREPARED) / keys.FOLDERS_FILE
    digests: dict[str, str] = json.loads(path.read_bytes()) if path.is_file() else {}
    known = places(store)
    for key, uri in moved.items():
        known[getattr(config, key, "")] = _checked(config, key, uri, digests)
    for key in digests:
        recorded = getattr(config, key)
        place = known.get(recorded, recorded)
        if not Path(place).is_dir():
            raise ConfigError(f"{key}: {place} is not there any more; name its new place: {key}=FOLDER")
    if moved:
        store.write(keys.PLACES, json.dumps(known, indent=1).encode())


def _checked(config: RunConfig, key: str, uri: str, digests: Mapping[str, str]) -> str:
    """The whole path of a folder's new place."""
    if key not in KEYS:
        raise ConfigError(f"{key}: a run's own values stay as they are; only {' and '.join(KEYS)} may name a new place")
    recorded = getattr(config, key)
    if key not in digests:
        raise ConfigError(f"{key}: this run's is {recorded}, of which it recorded no folder that could have moved")
    folder = folder_of(uri)
    if folder is None:
        raise ConfigError(f"{key}: {uri}: no such model folder; name the new place of {recorded}")
    if _digest(config.model_copy(update={key: str(folder)}), key) != digests[key]:
        raise ConfigError(f"{key}: {uri} holds another model than {recorded} did; name the folder that was moved")
    return str(folder)


def _digest(config: RunConfig, key: str) -> str:
    if key == "base_model":
        return model_digest(fetch_model(config.base_model))
    return judge_digest(config.preference_model, config.judge)
