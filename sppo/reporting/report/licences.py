"""What a published model was made of, and under which licences: the base model, the prompts and the judges."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from sppo.config.run import RunConfig
from sppo.config.sections.evaluate import JUDGES
from sppo.models.moved import present
from sppo.store.uri import Hub, Local, Package, parse

UNKNOWN = "not stated where the run found it"
_PACKAGE, _HUB = "package:", "hf://"
_CARD = "README.md"


@dataclass(frozen=True)
class Part:
    """One thing that a model was made of."""

    name: str
    uri: str
    revision: str
    """As far as the URI or a package's version fixes one; empty otherwise."""
    licence: str | None
    """None where it is not known."""


def parts(config: RunConfig) -> list[Part]:
    """The base model first; what its licence allows, a model that is trained from it can allow at most."""
    return list(_parts(config))


def _parts(config: RunConfig) -> Iterator[Part]:
    yield _part("base model", config.base_model, _licence_of_model(config.base_model))
    sets = config.prompt_sets()
    for number, uri in enumerate(sets, start=1):
        name = "prompts" if len(sets) == 1 else f"prompts of iteration {number}"
        yield _part(name, uri, _licence_of_package(uri))
    for uri in config.rankers():
        yield _part("judge", uri, _licence_of_model(uri))
    for name, uri in zip(JUDGES, config.evaluate.second_judge, strict=False):
        yield _part(f"{name} judge", uri, _licence_of_model(uri))


def _part(name: str, uri: str, licence: str | None) -> Part:
    revision = ""
    if uri.startswith(_HUB):
        revision = uri.partition("@")[2]
    elif uri.startswith(_PACKAGE):
        revision = _package(uri).get("version", "")
    return Part(name, uri, revision, licence)


def _licence_of_package(uri: str) -> str | None:
    metadata = _package(uri) if uri.startswith(_PACKAGE) else {}
    text = metadata.get("license_expression") or metadata.get("license") or ""
    return text.lower() if text and "\n" not in text else None  # older packages put the whole licence there


def _package(uri: str) -> dict[str, str]:
    """The single values of a package's metadata (PyPA core metadata); none where it is not installed here."""
    try:
        fields = importlib.metadata.metadata(uri.removeprefix(_PACKAGE).partition("/")[0]).json
    except importlib.metadata.PackageNotFoundError:  # the stage that loads it may have another image
        return {}
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _licence_of_model(uri: str) -> str | None:
    """What a model's own card says, where the run left one on this machine: nothing is fetched for it."""
    from huggingface_hub import metadata_load

    card = None
    match parse(uri):
        case Package():
            return _licence_of_package(uri)
        case Hub(repository, revision):
            card = _card_from_hub(repository, revision)
        case Local(path):
            card = present(path) / _CARD
    try:
        metadata = metadata_load(card) if card and card.is_file() else None
    except (ValueError, yaml.YAMLError):  # a README that is no card: not UTF-8, or with other lines at its head
        return None
    licence = metadata.get("license") if metadata else None
    return licence if isinstance(licence, str) else None  # a list names parts that this cannot tell apart


def _card_from_hub(repository: str, revision: str) -> Path | None:
    """The card of a model in the Hugging Face cache, which `sppo.models.fetch.fetch_model` brings with the weights."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, _CARD, revision=revision or None)
    return Path(found) if isinstance(found, str) else None
