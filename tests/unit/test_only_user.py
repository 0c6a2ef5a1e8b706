"""One run at a time in a folder, and nothing left of interrupted ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from sppo.errors import InfrastructureError
from sppo.store.opening import open_store

HOLD = """
import sys, time
from sppo.store.opening import open_store
with open_store(sys.argv[1]).only_user():
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_run_in_a_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(InfrastructureError, match="another run"), open_store(str(tmp_path)).only_user():
            pass
        holder.kill()
    with open_store(str(tmp_path)).only_user():
        pass


def test_leftovers_of_interrupted_attempts_are_cleared(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for leftover in (".work-abc/output", "iteration-1/.model.tmp-123", "iteration-1/model"):
        (tmp_path / leftover).mkdir(parents=True)
    (tmp_path / "iteration-1" / ".latest.json.tmp-9").write_text("{}")
    with store.only_user():
        assert {p.name for p in tmp_path.rglob("*")} == {"iteration-1", "model", ".lock"}
