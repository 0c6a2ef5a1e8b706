"""Lists of public names, one name a line, and what is said where the program has others."""

import os
from collections.abc import Iterable
from pathlib import Path

LISTS = Path(__file__).parent
ADVICE = "Names are a promise to users. If the change is meant, run `make surface` and say it in the commit."


def check(kind: str, names: Iterable[str], folder: Path = LISTS) -> None:
    """Hold the program's names against a list, or write the list anew where `SURFACE=write` asks for it.

    Args:
        kind: the list is the file `KIND.txt`.
        names: what the program has.
        folder: where the list lies.

    Raises:
        AssertionError: naming what was added and what was removed.
    """
    path, now = folder / f"{kind}.txt", sorted(set(names))
    if os.environ.get("SURFACE") == "write":
        path.write_text("".join(f"{name}\n" for name in now), encoding="utf-8")
    changes = differences(path.read_text(encoding="utf-8").splitlines(), now)
    if changes:
        raise AssertionError("\n".join([f"the program does not have the names of {path.name}", *changes, ADVICE]))


def differences(frozen: list[str], now: list[str]) -> list[str]:
    """A line for each name that was added or removed; none where both lists are the same.

    Raises:
        AssertionError: if the frozen list is not sorted, or names something twice.
    """
    assert frozen == sorted(set(frozen)), f"a list must be sorted and name everything once. {ADVICE}"
    added, removed = set(now) - set(frozen), set(frozen) - set(now)
    return [*(f"added: {name}" for name in sorted(added)), *(f"removed: {name}" for name in sorted(removed))]
