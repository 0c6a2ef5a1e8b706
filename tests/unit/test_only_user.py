"""A run is played once at a time in a folder, others may be beside it, and nothing is left of interrupted ones."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sppo.errors import InfrastructureError
from sppo.store.opening import open_store

HOLD = """
import sys, time
from sppo.store.opening import open_store
with open_store(sys.argv[1]).{}:
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(folder: Path, what: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds something of the store in a folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD.format(what), str(folder)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        yield holder
        holder.kill()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that plays a run in the folder."""
    with another(tmp_path, 'only_user("1a2b3c4d")') as holder:
        yield holder


@pytest.mark.parametrize("wanted", ["1a2b3c4d", ""], ids=["the same run", "the whole place"])
def test_it_is_refused_until_the_first_is_gone(tmp_path: Path, held: subprocess.Popen[bytes], wanted: str) -> None:
    with pytest.raises(InfrastructureError, match="another run"), open_store(str(tmp_path)).only_user(wanted):
        pass
    held.kill()
    held.wait()
    with open_store(str(tmp_path)).only_user(wanted):
        pass


def test_a_run_with_other_values_is_played_beside_it_and_clears_nothing_away(
    tmp_path: Path, held: subprocess.Popen[bytes]
) -> None:
    (tmp_path / ".work-of-the-first").mkdir()
    with open_store(str(tmp_path)).only_user("5e6f7a8b"):
        assert (tmp_path / ".work-of-the-first").is_dir()
        held.kill()
        held.wait()
        with pytest.raises(InfrastructureError, match="another run"), open_store(str(tmp_path)).only_user(""):
            pass


def test_a_stage_that_is_played_beside_a_run_keeps_what_it_works_on(tmp_path: Path) -> None:
    with another(tmp_path, "scratch()"), open_store(str(tmp_path)).only_user("1a2b3c4d"):
        assert len(list(tmp_path.glob(".work-*"))) == 1
    with open_store(str(tmp_path)).only_user("1a2b3c4d"):
        assert not list(tmp_path.glob(".work-*")), "it was killed, and left it"


def test_leftovers_of_interrupted_attempts_are_cleared(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for leftover in (".work-abc/output", "iteration-1/.model.tmp-123", "iteration-1/model"):
        (tmp_path / leftover).mkdir(parents=True)
    (tmp_path / "iteration-1" / ".latest.json.tmp-9").write_text("{}")
    with store.only_user("1a2b3c4d"):
        assert {p.name for p in tmp_path.rglob("*")} == {"iteration-1", "model", ".lock", ".lock-1a2b3c4d"}
