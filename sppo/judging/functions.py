"""Functions of the user's as judges: which ones a run may name, and how they are called.

A run's parameters are not trusted with code: `rules:timeit:timeit` would execute an answer. Which functions there are
to choose from is said by the environment, whose owner installs code anyway.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import numbers
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sppo.errors import ConfigError

RULES = "SPPO_RULES"
"""Environment variable with the functions that runs may name: MODULE:FUNCTION or MODULE, several with commas."""
_NAME = r"[^\W\d]\w*"
_MODULE = rf"{_NAME}(\.{_NAME})*"


def module_source(entry_point: str) -> Path:
    """The file of the module that an entry point `module:function` names.

    Raises:
        ConfigError: if it is written in another way, is not allowed, or there is no such module.
    """
    module, _, function = entry_point.partition(":")
    if not re.fullmatch(f"{_MODULE}:{_NAME}", entry_point):
        raise ConfigError(f"rules:{entry_point}: write rules:MODULE:FUNCTION, such as rules:my_rules:score")
    _check_allowed(module, function)  # before anything is imported: a package around the module is, to find it
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # whatever the code of a package around the module raises
        raise ConfigError(f"rules:{entry_point}: cannot be imported ({_told(error)})") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"rules:{entry_point}: no module {module}; install it, or add its folder to PYTHONPATH")
    return Path(spec.origin)


def load_function(entry_point: str) -> Callable[[str, str], float]:
    """The function that an entry point `module:function` names; its result is checked at every call.

    Raises:
        ConfigError: if it is not allowed, cannot be imported or is no function; when called, if it fails, or returns no
            finite number.
    """
    module_source(entry_point)
    module, _, name = entry_point.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the module's own code raises
        raise ConfigError(f"rules:{entry_point}: cannot be imported ({_told(error)})") from error
    if not callable(function):
        raise ConfigError(f"rules:{entry_point}: {module} has no function {name}")
    _check_origin(entry_point, module, name, function)

    def checked(prompt: str, response: str) -> float:
        try:
            score = function(prompt, response)
        except Exception as error:  # whatever the function raises
            raise ConfigError(
                f"rules:{entry_point}: fails for the prompt {prompt[:60]!r} ({_told(error)}); mend the function"
            ) from error
        if not isinstance(score, numbers.Real) or not math.isfinite(score):
            raise ConfigError(
                f"rules:{entry_point}: returned {score!r} for the prompt {prompt[:60]!r}; return a finite number"
            )
        return float(score)

    return checked


def _check_allowed(module: str, function: str) -> None:
    _refuse_standard_library(f"rules:{module}:{function}", module)
    allowed = _allowed()
    if not {module, f"{module}:{function}"} & set(allowed):
        entry = ",".join([*allowed, f"{module}:{function}"])
        near = difflib.get_close_matches(f"{module}:{function}", allowed, 1, cutoff=0.85)
        meant = f"did you mean rules:{near[0]}? To allow this one too, " if near else ""
        raise ConfigError(
            f"rules:{module}:{function}: not among the functions that {RULES} allows; {meant}here: export "
            f"{RULES}={entry}; on a cluster: the key {RULES} of the ConfigMap sppo-settings"
        )


def _allowed() -> list[str]:
    entries = [entry.strip() for entry in os.environ.get(RULES, "").split(",")]
    wrong = [entry for entry in entries if entry and not re.fullmatch(f"{_MODULE}(:{_NAME})?", entry)]
    if wrong:
        raise ConfigError(f"{RULES}: {wrong[0]!r} is neither MODULE:FUNCTION nor MODULE; correct it")
    return [entry for entry in entries if entry]


def _check_origin(entry_point: str, module: str, name: str, function: Any) -> None:
    """Refuse what a module only imported: an allowed module does not allow what lies elsewhere."""
    origin = getattr(function, "__module__", None) or ""
    _refuse_standard_library(f"rules:{entry_point}", origin)
    if origin != module and f"{module}:{name}" not in _allowed():
        raise ConfigError(
            f"rules:{entry_point}: {module} has it from {origin or 'elsewhere'}; name it where it is defined, or allow "
            f"{module}:{name} by name in {RULES}"
        )


def _refuse_standard_library(uri: str, module: str) -> None:
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"{uri}: is of Python's standard library, which never judges; write a function of your own")


def _told(error: Exception) -> str:
    """What the user's code raised, and in which line of it."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f"{said}, {Path(frames[-1].filename).name} line {frames[-1].lineno}" if len(frames) > 1 else said
