"""Kinds of preference models: what each has to offer, and how the kind that a URI names is found.

A file of `sppo.judging.kinds` is a kind; docs/extending.md adds one.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, TypeVar

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.preference_model import PreferenceModel
from sppo.models.fetch import fetch_model, model_digest, model_name
from sppo.models.hub import refuse_page
from sppo.models.moved import present
from sppo.store.uri import Foreign, Local, parse

PACKAGE = "sppo.judging.kinds"
"""Where the kinds are; nothing imports it by name."""
GROUP = "sppo.preference_models"
"""Entry points of installed packages that hold further ones: each names a module."""


class Kind(ABC):
    """One kind of preference models. What it needs to compute, such as torch, it imports in its methods."""

    schemes: tuple[str, ...] = ()
    """The words before the colon in its URIs; none, if its URIs name folders of weights (`WeightsKind`)."""
    example: str
    """How its URI is written, for messages and docs/judges.md."""
    scores = False
    """Whether each response is scored by itself, and a comparison is the difference of two scores."""
    reads_templates = False
    """Whether it can be shown a prompt in the policy's chat template (`rank.prompt`)."""
    trial_uri: str | None = None
    """A URI that loads without files and network; the tests of all kinds need it, or make a model themselves."""

    @abstractmethod
    def check(self, uri: str, settings: JudgeConfig) -> None:
        """Make sure that the URI names a model of this kind, without loading it.

        Raises:
            ConfigError: if it does not.
            InfrastructureError: if a hub or store cannot be reached.
        """

    @abstractmethod
    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """A digest of all that its logits depend on, apart from `settings`."""

    def place(self, uri: str) -> str:
        """Where the model or file is that the URI names; empty where it names none."""
        return "" if self.schemes else uri

    def passes(self, uri: str, settings: JudgeConfig, responses: int) -> int:
        """How often the model is asked about a prompt's responses: each once, or every two in both orders."""
        return responses if self.scores else responses * (responses - 1)

    @abstractmethod
    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """The model, ready to judge; raises as `check` does."""


class WeightsKind(Kind):
    """A kind whose URI is a model's (`sppo.models.fetch.fetch_model`), recognised by the model's config.json."""

    @abstractmethod
    def recognizes(self, config: dict[str, Any], uri: str) -> bool:
        """Whether a model's config.json is one of this kind.

        Raises:
            ConfigError: if it is one that cannot judge.
        """

    def name(self, uri: str) -> str:
        """Identity of the model for reports, which the loaded one has as `PreferenceModel.name`."""
        return model_name(uri, fetch_model(uri))

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        fetch_model(uri, weights=False)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`."""
        return model_digest(fetch_model(uri))


K = TypeVar("K", bound=type[Kind])
_KINDS: list[Kind] = []


def register(kind: K) -> K:
    """Make a kind known: the decorator of its class.

    Raises:
        ValueError: if another kind has one of its schemes.
    """
    for scheme in kind.schemes:
        if any(scheme in other.schemes for other in _KINDS):
            raise ValueError(f"{kind.__name__}: another kind has the scheme {scheme}: already")
    _KINDS.append(kind())
    return kind


def kinds() -> Sequence[Kind]:
    """All kinds, those whose URIs are a model's first."""
    _import_all()
    return sorted(_KINDS, key=lambda kind: bool(kind.schemes))


@functools.cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}."):
        importlib.import_module(module.name)
    for entry_point in entry_points(group=GROUP):
        entry_point.load()


def kind_of(uri: str) -> Kind:
    """The kind of the preference model that a URI names; of a hub only the small files are asked for.

    Raises:
        ConfigError: if it names nothing, or a model that is no preference model.
        InfrastructureError: if a hub or store cannot be reached.
    """
    scheme = uri.partition(":")[0]
    for kind in kinds():
        if scheme in kind.schemes:
            return kind
    refuse_page(uri)
    place = parse(uri)
    absent = isinstance(place, Local) and not present(place.path.absolute()).exists()
    if absent and "/" in uri and ":" not in uri:
        raise ConfigError(
            f"{uri}: no such model folder; `sppo train-preference` makes one, and docs/judges.md has the other judges"
        )
    if absent or isinstance(place, Foreign):
        near = difflib.get_close_matches(scheme, [name for kind in kinds() for name in kind.schemes], 1)
        hint = f"did you mean {near[0]}:…? " if near and ":" in uri else ""
        raise ConfigError(
            f"{uri}: no such model folder, and no kind that is written so; {hint}supported: {supported()}"
        )
    try:
        path = fetch_model(uri, weights=False) / "config.json"
    except ConfigError as error:
        if scheme != "package":
            raise
        raise ConfigError(f"{error}; supported preference models: {supported()}") from error
    if not path.is_file():
        raise ConfigError(f"{uri}: no config.json; supported preference models: {supported()}")
    config = json.loads(path.read_bytes())
    for kind in kinds():
        if isinstance(kind, WeightsKind) and kind.recognizes(config, uri):
            return kind
    raise ConfigError(f"{uri}: not a preference model; supported: {supported()}")


def supported() -> str:
    """The URIs of all kinds, in words."""
    return "; ".join(kind.example for kind in kinds())


def text_sha256(*parts: str) -> str:
    """SHA-256 of texts, for `Kind.digest`."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
