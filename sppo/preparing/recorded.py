"""The configuration that a run was started with, as its store records it."""

from __future__ import annotations

from pathlib import Path

from sppo.config.run import RunConfig, read_config
from sppo.errors import ConfigError
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.opening import open_store


def recorded_config(output_uri: str) -> RunConfig:
    """The configuration of a run that was started in a place.

    Raises:
        ConfigError: if no run was started there.
    """
    store = open_store(output_uri)
    if store.manifest(keys.PREPARED) is None:
        raise ConfigError(f"{output_uri}: no run was started there; start one with `sppo run output_uri={output_uri}`")
    config = read_config(config_path(store))
    if config.output_uri != store.uri:
        raise ConfigError(
            f"{output_uri}: this run was started as {config.output_uri}, and its tables name its models there; "
            "move it back, or start a new run"
        )
    return config


def config_path(store: Store) -> Path:
    """The local file with the configuration of a run that was prepared."""
    return store.fetch(keys.PREPARED) / keys.CONFIG_FILE
