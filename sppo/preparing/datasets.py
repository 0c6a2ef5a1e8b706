"""Prompts of a data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import yaml

from sppo.errors import ConfigError, SppoError, one_line
from sppo.models.hub import hub_errors, refuse_page

FORM = "hf://org/name:config/split@revision"
_SPLIT = "train"
"""Where neither the URI nor prepare.split names one."""


class Named(NamedTuple):
    """What a data set's URI names; empty where it leaves that out."""

    repository: str
    config: str
    split: str
    revision: str


def parse(uri: str) -> Named:
    """Take `hf://org/name:config/split@revision` apart; the configuration, the split and the revision are optional."""
    name, _, revision = uri.removeprefix("hf://").partition("@")
    repository, _, part = name.partition(":")
    config, _, split = part.partition("/")
    return Named(repository, config, split, revision)


def read_dataset(uri: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set.

    Args:
        uri: see `parse`.
        split: `prepare.split`; empty: the URI's.

    Raises:
        ConfigError: if there is no such data set, configuration or split, or a file of it is damaged.
        InfrastructureError: if the hub cannot be reached, and the cache does not have it.
    """
    from datasets import load_dataset
    from huggingface_hub.utils import validate_repo_id

    refuse_page(uri)
    named = parse(uri)
    if split and named.split and split != named.split:
        raise ConfigError(f"prepare.split: {split!r}, but prompts is {uri}; name the split in one of them")
    with hub_errors(f"prompts: {uri}"), _datasets_errors(uri):
        validate_repo_id(named.repository)
        if "/" not in named.repository:  # the library would take json and the like for a reader of the files here
            raise ConfigError(f"prompts: {uri}: names no organisation; write {FORM}")
        yield from load_dataset(
            # With the scheme, a folder here of the same name is not taken for it.
            f"hf://datasets/{named.repository}",
            named.config or None,
            split=named.split or split or _SPLIT,
            revision=named.revision or None,
        )


def count_rows(uri: str, split: str) -> int:
    """How many rows a data set says that it has; nothing but its card is read. Arguments and errors: `read_dataset`.

    Raises:
        ConfigError: also if it does not say, as where its card has no `dataset_info`.
    """
    from datasets import load_dataset_builder

    refuse_page(uri)
    named = parse(uri)
    with hub_errors(f"prompts: {uri}"), _datasets_errors(uri):
        builder = load_dataset_builder(
            f"hf://datasets/{named.repository}", named.config or None, revision=named.revision or None
        )
        splits = builder.info.splits or {}
    wanted = named.split or split or _SPLIT
    if wanted not in splits or not splits[wanted].num_examples:
        raise ConfigError(f"prompts: {uri}: its card does not say how many rows {wanted} has")
    count: int = splits[wanted].num_examples
    return count


@contextmanager
def _datasets_errors(uri: str) -> Iterator[None]:
    """Turn what the library datasets raises of a data set into one line; of the hub, see `hub_errors`."""
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (SppoError, HfHubHTTPError, HFValidationError):
        raise
    except DatasetGenerationError as error:  # says nothing itself: its cause does
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:  # of the file system
            raise cause from error
        raise ConfigError(f"prompts: {uri}: a file of it cannot be read ({one_line(cause)}); mend it there") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"prompts: {uri}: its README.md does not begin with YAML ({one_line(error)})") from error
    except (DatasetsError, FileNotFoundError, RuntimeError, ValueError) as error:
        outage = next((each for each in _behind(error) if isinstance(each, LocalEntryNotFoundError)), None)
        if outage is not None:  # which the library hides behind a file that is not there
            raise outage from error
        reason = one_line(error).partition(" Example of usage")[0]
        raise ConfigError(f"prompts: {uri}: {reason}; a data set is written {FORM}") from error


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The exceptions during whose handling this one was raised, also where it does not tell."""
    while error.__context__ is not None:
        error = error.__context__
        yield error
