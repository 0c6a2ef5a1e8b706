"""What a run's values name: the digest of each file, model and judge that can be read here, and where folders moved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sppo.config.identity import sha256_of
from sppo.config.run import PreparedConfig, RunConfig, flatten
from sppo.errors import ConfigError
from sppo.judging.load import check_judge, judge_digest
from sppo.models.fetch import fetch_model, model_digest
from sppo.preparing.files import bundled
from sppo.preparing.pins import folder_of, places
from sppo.preparing.prompts import BUNDLED
from sppo.store import keys
from sppo.store.base import file_sha256
from sppo.store.opening import open_store
from sppo.store.s3 import s3_file
from sppo.store.uri import S3, Local, Package, parse

KEYS = ("base_model", "preference_model")
"""Values of the configuration whose folder may move while a run is played."""
SOURCES = {"prompts": BUNDLED, "evaluate.instructions.prompts": BUNDLED[1:]}
"""Values that name prompts, and which of the package's files package:sppo is there."""


def with_contents(config: RunConfig, last: PreparedConfig | None = None) -> PreparedConfig:
    """A configuration with the digests of what it names, so that a file that was edited counts as a changed value.

    A file of prompts that is gone is taken to be what it was: prepare keeps all that a run needs of it. What lies on a
    hub is told by its commit, a base model in S3 and a judge there by their names: stages compare what they read of
    these with what earlier ones read.

    Args:
        config: a configuration.
        last: what was played in its place before.

    Raises:
        ConfigError: if a judge is none.
    """
    before = last.contents_for(config) if last else {}
    kept = {key: digest for key, digest in before.items() if key in SOURCES}
    return PreparedConfig(**config.asked(), contents=kept | dict(_contents(config)))


def _contents(config: RunConfig) -> Iterator[tuple[str, str]]:
    base, names = parse(config.base_model), flatten(config.asked())
    if isinstance(base, Package):
        # Weights that a package ships in another form are converted by torch, which not every stage has.
        with suppress(PackageNotFoundError):  # its reader tells so
            yield "base_model", f"{config.base_model} {version(base.name)}"
    elif folder_of(config.base_model):
        yield "base_model", _digest(config, "base_model")
    for key, uris in {
        "preference_model": (config.preference_model,),
        "evaluate.second_judge": config.evaluate.second_judge,
    }.items():
        members = [member.model for member in config.judge.mixture if "mixture" in uris]
        if uris and not any("hf://" in each or "s3://" in each for each in (*uris, *members)):
            for uri in uris:
                check_judge(uri, config.judge)
            digests = [judge_digest(uri, config.judge) for uri in uris]
            yield key, digests[0] if len(digests) == 1 else sha256_of(digests)
    for key, packaged in SOURCES.items():
        if digest := _sources(names[key], packaged):
            yield key, digest


def _sources(uris: str | list[str], packaged: Sequence[str]) -> str:
    """The digest of a source of prompts, or of several; empty where there is none to tell of."""
    if isinstance(uris, str):
        return _source(uris, packaged)
    digests = [_source(uri, packaged) for uri in uris]
    gone = [uri for uri, digest in zip(uris, digests, strict=True) if not digest and isinstance(parse(uri), Local)]
    if gone or not any(digests):
        return ""
    return sha256_of([digest or uri for uri, digest in zip(uris, digests, strict=True)])


def _source(uri: str, packaged: Sequence[str]) -> str:
    """SHA-256 of a file of prompts; empty where only its reader can tell, or has an error to tell."""
    if uri == "package:sppo":
        with ExitStack() as opened:
            return sha256_of([file_sha256(opened.enter_context(bundled(name))) for name in packaged])
    match parse(uri):
        case S3():
            return file_sha256(s3_file(uri))
        case Local(path) if path.is_file():
            return file_sha256(path)
        case _:
            return ""


def find_folders(config: PreparedConfig, moved: Mapping[str, str]) -> None:
    """Make sure that a run's folders are where it recorded them, or record where they are now.

    Args:
        config: as the run recorded it.
        moved: the new place of a folder by the key that names it.

    Raises:
        ConfigError: if a folder is not there, holds another model than it did, or is none that the run reads.
    """
    store = open_store(config.output_uri)
    known = places(store)
    for key, uri in moved.items():
        known[getattr(config, key, "")] = _checked(config, key, uri)
    for key in filter(config.contents.__contains__, KEYS):
        recorded = getattr(config, key)
        place = known.get(recorded, recorded)
        if Path(recorded).is_absolute() and not Path(place).exists():
            raise ConfigError(f"{key}: {place} is not there any more; name its new place: {key}=FOLDER")
    if moved:
        store.write(keys.PLACES, json.dumps(known, indent=1).encode())


def _checked(config: PreparedConfig, key: str, uri: str) -> str:
    """The whole path of a folder's new place."""
    if key not in KEYS:
        raise ConfigError(f"{key}: a resumed run keeps its values; only {' and '.join(KEYS)} may name a new place")
    recorded = getattr(config, key)
    if key not in config.contents or not Path(recorded).is_absolute():
        raise ConfigError(f"{key}: this run's is {recorded}, of which it recorded no folder that could have moved")
    folder = folder_of(uri)
    if folder is None:
        raise ConfigError(f"{key}: {uri}: no such model folder; name the new place of {recorded}")
    if _digest(config.model_copy(update={key: str(folder)}), key) != config.contents[key]:
        raise ConfigError(f"{key}: {uri} holds another model than {recorded} did; name the folder that was moved")
    return str(folder)


def _digest(config: RunConfig, key: str) -> str:
    if key == "base_model":
        return model_digest(fetch_model(config.base_model))
    return judge_digest(config.preference_model, config.judge)
