"""The words of a command line, before they are parsed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from inspect import signature

from sppo.config.run import all_keys
from sppo.errors import ConfigError
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig
from sppo_pipelines.overview import Commands, print_overview
from sppo_pipelines.profile import hardware_keys

TRAINING_KEYS = set(all_keys(TrainPreferenceConfig)) - {"train", "output", "kind", "evaluate", "baseline", "seed"}
"""Settings of `sppo train-preference` that have no flag of their own."""


def values_together(words: Sequence[str]) -> list[str]:
    """The words of a command line with all values of the configuration beside the first one.

    Where they stand on both sides of a flag, tyro takes the first ones only, and a flag for files takes those after it.
    """
    trains = words[:1] == ["train-preference"]
    found = TRAINING_KEYS if trains else {*all_keys(), *hardware_keys()}
    sections = {key.partition(".")[0] for key in found if "." in key}

    def is_value(place: int) -> bool:
        key, equals, _ = words[place].partition("=")
        known = key in found or key.partition(".")[0] in sections
        return bool(equals) and known and words[place - 1] not in {"--evaluate", "--license"}  # NAME=FILE

    places = [place for place in range(len(words)) if is_value(place)]
    if not places:
        return list(words)
    values = [words[place] for place in places]
    others = [word for place, word in enumerate(words) if place not in places]
    first = 1 if trains else places[0]
    return [*others[:first], *values, *others[first:]]


def answer_at_once(words: Sequence[str], groups: Mapping[str, Commands]) -> None:
    """Answer what is asked before a command: the version, what there is, or what is nearly a command's name.

    Args:
        words: the command line.
        groups: all commands.

    Raises:
        SystemExit: after the version or the overview; with 2 where a command is missing.
        ConfigError: naming the command that is meant, or all of them, or how a value is written.
    """
    commands = [name for group in groups.values() for name in group]
    if list(words) == ["--version"]:
        print(f"sppo {version('sppo')}")
        sys.exit()
    if not words or list(words) in (["--help"], ["-h"]):
        print_overview(groups)
        sys.exit(0 if words else ConfigError.exit_code)
    if not words[0].startswith("-") and words[0] not in commands:
        near = difflib.get_close_matches(words[0], commands, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(commands)}"
        raise ConfigError(f"{words[0]}: no such command; {hint}")
    if words[0] in commands:
        command = next(group[words[0]] for group in groups.values() if words[0] in group)
        _refuse_keys_as_flags(words[1:], command)
        _refuse_values(words, command)


def _refuse_keys_as_flags(words: Sequence[str], command: Callable[..., None]) -> None:
    """Refuse `--iterations 1`: values of the configuration are no flags, of the commands that take them.

    Raises:
        ConfigError: that says how the value is written.
    """
    flags = signature(command).parameters
    if "overrides" not in flags:
        return
    keys = set(all_keys()) - set(flags)
    for word, following in zip(words, [*words, ""][1:], strict=True):
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if word.startswith("--") and key in keys:
            raise ConfigError(f"{word}: values of a run are no flags; write {key}={value if equals else following}")


def _refuse_values(words: Sequence[str], command: Callable[..., None]) -> None:
    """Refuse values of the configuration of a command that takes none.

    Raises:
        ConfigError: naming the value, and the commands that take it.
    """
    if {"overrides", "settings", "moved"} & signature(command).parameters.keys():
        return
    keys = set(all_keys())
    for word in words[1:]:
        key, equals, _ = word.partition("=")
        if equals and key in keys:
            raise ConfigError(f"{word}: `sppo {words[0]}` takes no values of a run; `sppo run` and `sppo submit` do")
