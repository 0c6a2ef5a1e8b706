"""The configurations that were started in a place, as its store records them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sppo.config.run import PreparedConfig, RunConfig, parse_config
from sppo.errors import ConfigError
from sppo.store import keys
from sppo.store.base import MANIFEST, Store
from sppo.store.opening import open_store

_NAMED = re.compile(rf"(?P<place>.+)#(?P<digest>[0-9a-f]{{{keys.DIGITS}}})")


def record(config: PreparedConfig, store: Store, pins: dict[str, str]) -> PreparedConfig:
    """Note that a configuration is played from now on.

    Args:
        config: with the digests of what it names.
        store: the run's.
        pins: what became of URIs; see `sppo.preparing.pins.pin`.

    Returns:
        It, with the one that was played before it began here.
    """
    digest, last = keys.short(config.digest()), current(store)
    before = configuration(store, digest)
    # A configuration that is taken up again continues what it did at first.
    config = config.model_copy(update={"continues": before.continues if before else last})
    _write(store, keys.PINS, json.dumps(pins, indent=1))
    _write(store, keys.configuration(digest), config.model_dump_json(indent=1))
    _write(store, keys.CURRENT, json.dumps({"configuration": digest}))
    return config


def _write(store: Store, key: str, text: str) -> None:
    if store.read(key) != text.encode():
        store.write(key, text.encode())


def is_recorded(config: PreparedConfig, store: Store) -> bool:
    """Whether a configuration was started in this place before."""
    return store.read(keys.configuration(config.digest())) is not None


def current(store: Store) -> str:
    """Which configuration was started last, as its key has it; empty if none was."""
    return str(json.loads(store.read(keys.CURRENT) or b"{}").get("configuration", ""))


def run_name(config: RunConfig) -> str:
    """How a run is written whose configuration need not be the last one that was started in its place."""
    return f"{config.output_uri}#{keys.short(config.digest())}"


def place_of(run: str) -> str:
    """The place of a run that is written `PLACE` or, where several were started there, `PLACE#1a2b3c4d`."""
    named = _NAMED.fullmatch(run)
    return run if named is None or Path(run).exists() else named["place"]


def recorded_config(run: str) -> PreparedConfig:
    """The configuration of a run that was started in a place: the last one, or the one that is named after a `#`.

    Raises:
        ConfigError: if no run was started there, or a version before 0.2 wrote it.
    """
    store = open_store(place_of(run))
    refuse_old(store)
    digest = run.removeprefix(f"{place_of(run)}#") if place_of(run) != run else current(store)
    config = configuration(store, digest) if digest else None
    if config is None:
        place, marked, _ = run.rpartition("#")
        known = sorted(open_store(place).names(keys.CONFIGURATIONS)) if marked and place else []
        if known:
            starts = ", ".join(f"{place}#{name.removesuffix('.json')}" for name in known)
            raise ConfigError(f"{run}: no start of this name; there are {starts}")
        raise ConfigError(f"{run}: no run was started there; start one with `sppo run output_uri={place_of(run)}`")
    if config.output_uri != store.uri:
        raise ConfigError(
            f"{run}: this run was started as {config.output_uri}, and its tables name its models there; "
            "move it back, or start a new run"
        )
    return config


def refuse_old(store: Store) -> None:
    """Refuse a place that a version with another layout wrote.

    Raises:
        ConfigError: naming a version that reads it.
    """
    if store.read(f"{keys.OLD}/{MANIFEST}") is not None:
        raise ConfigError(
            f"{store.uri}: holds a run of sppo 0.1, which lays its folders out otherwise; go on with that "
            "version, or choose another output_uri"
        )


def configurations(store: Store) -> list[PreparedConfig]:
    """Every configuration that was started in a place."""
    digests = sorted(name.removesuffix(".json") for name in store.names(keys.CONFIGURATIONS))
    found = (configuration(store, digest) for digest in digests)
    return [each for each in found if each is not None]


def configuration(store: Store, digest: str) -> PreparedConfig | None:
    """A configuration that was started in a place, of the digits that its key has; None if there is none."""
    key = keys.configuration(digest)
    data = store.read(key)
    return None if data is None else parse_config(data, f"{store.uri}/{key}")
