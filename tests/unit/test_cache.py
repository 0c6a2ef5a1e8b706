"""Others may not write what lies in the cache, whatever an older stage left there."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sppo.errors import InfrastructureError
from sppo.store.local_cache import cached, filling, make_private

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
COUNT = """
import warnings
warnings.simplefilter("error", RuntimeWarning)  # nltk's, where it refuses a folder
from sppo.judging.instruction_checks import follows
values = {"num_sentences": 2, "relation": "at least"}
print(follows("p", "One. Two.", ["length_constraints:number_sentences"], [values]))
"""


def open_to_all(folder: Path) -> Path:
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").touch()
    for path in (folder, folder / "below", folder / "below" / "file"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return folder


def test_what_is_ours_is_made_private(tmp_path):
    folder = open_to_all(tmp_path / "cached")
    assert make_private(folder)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "below", folder / "below" / "file")]
    assert modes == [0o755, 0o755, 0o644]


@AS_ROOT
@pytest.mark.parametrize("name", [".", "below", "below/file"])
def test_what_another_user_may_write_is_not_private(tmp_path, name):
    folder = open_to_all(tmp_path / "cached")
    os.chown(folder / name, 12345, 12345)
    assert not make_private(folder)
    assert stat.S_IMODE((folder / name).stat().st_mode) & 0o022, "it is not ours to change"


def test_a_place_in_the_cache_is_made_private_when_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path))
    open_to_all(tmp_path / "models" / "one")
    assert cached("models", "one") == tmp_path / "models" / "one"
    assert not any(path.stat().st_mode & 0o022 for path in (tmp_path / "models" / "one").rglob("*"))
    assert not cached("models", "two").exists()


def fill(target: Path, text: str) -> None:
    with filling(target) as staging:
        staging.mkdir()
        (staging / "file").write_text(text)


def test_what_another_process_finished_first_stays(tmp_path):
    target = tmp_path / "models" / "one"
    with filling(target) as staging:
        staging.mkdir()
        fill(target, "first")
    assert (target / "file").read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_what_was_finished_and_cannot_be_put_in_the_cache_is_kept(tmp_path):
    target = tmp_path / "models" / "one"
    target.parent.mkdir()
    target.write_text("a file in its place")
    with pytest.raises(InfrastructureError, match=r"one: cannot be written \(Not a directory\); what was") as told:
        fill(target, "finished")
    assert (Path(re.search("lies in (.*): mend", str(told.value))[1]) / "file").read_text() == "finished"


def test_what_was_not_finished_is_not_kept(tmp_path):
    with pytest.raises(ZeroDivisionError), filling(tmp_path / "models" / "one") as staging:
        staging.mkdir()
        raise ZeroDivisionError
    assert not list((tmp_path / "models").iterdir())


def count_sentences(cache: Path) -> str:
    """What a process of its own says, as nltk keeps what it found."""
    told = subprocess.run(
        [sys.executable, "-c", COUNT], env={**os.environ, "SPPO_CACHE": str(cache)}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """The cache of a process that counted sentences."""
    cache = tmp_path_factory.mktemp("counted")
    assert count_sentences(cache) == "[True]\n"
    return cache


def test_sentences_are_counted_with_a_cache_that_an_older_stage_left_open(tmp_path, counted):
    shutil.copytree(counted / "nltk", tmp_path / "nltk")
    for path in (tmp_path / "nltk").rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    assert count_sentences(tmp_path) == "[True]\n"


@AS_ROOT
def test_sentences_are_counted_with_a_cache_of_another_user(tmp_path, counted):
    shutil.copytree(counted / "nltk", tmp_path / "nltk")
    for path in (tmp_path / "nltk").rglob("*"):
        os.chown(path, 12345, 12345)
    told = count_sentences(tmp_path)
    assert "others may write there, and it is not ours to change; a copy in /" in told and told.endswith("[True]\n")
