import errno
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sppo.errors import ConfigError, InfrastructureError
from sppo.store.base import MANIFEST, Manifest, describe
from sppo.store.local import LocalStore
from sppo.store.once import run_once
from sppo.store.opening import open_store

INPUTS = {"config": "c1", "model": "m1"}

RACER = """
import sys, time
from pathlib import Path
from sppo.store.once import run_once
from sppo.store.opening import open_store

uri, meeting, name, *inputs = sys.argv[1:]

def work(output):
    (output / "who.txt").write_text(name)
    (Path(meeting) / name).touch()
    while len(list(Path(meeting).iterdir())) < 2:
        time.sleep(0.01)
    return {"made": 1.0}

store = open_store(uri)
run_once(store, "stage", dict(pair.split("=") for pair in inputs), work)
print("has", (store.fetch("stage") / "who.txt").read_text())
"""


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(str(tmp_path / "run"))
    return open_store(request.getfixturevalue("s3").uri)


def fill(output: Path) -> dict[str, float]:
    (output / "sub").mkdir()
    (output / "weights.bin").write_bytes(bytes(range(256)) * 8)
    (output / "sub" / "empty").touch()
    return {"steps": 3.0}


def never(output: Path) -> dict[str, float]:
    raise AssertionError("the work was done again")


def damage(store, name: str, data: bytes | None) -> None:
    """Replace or remove a file of the committed folder `stage`, behind the store's back."""
    if isinstance(store, LocalStore):
        path = store.root / "stage" / name
        path.unlink() if data is None else path.write_bytes(data)
        return
    prefix = store.manifest("stage").prefix
    key = f"{store.prefix}/stage/{name if name == MANIFEST else f'{prefix}/{name}'}"
    if data is None:
        store.client.delete_object(Bucket=store.bucket, Key=key)
    else:
        store.client.put_object(Bucket=store.bucket, Key=key, Body=data)


def test_work_is_done_once_and_comes_back_whole(store, capsys):
    manifest = run_once(store, "stage", INPUTS, fill)
    assert run_once(store, "stage", INPUTS, never) == manifest == store.manifest("stage")
    assert "there already" in capsys.readouterr().out
    folder = store.fetch("stage")
    assert (folder / "weights.bin").read_bytes() == bytes(range(256)) * 8
    assert (folder / "sub" / "empty").read_bytes() == b""
    assert describe(folder) == manifest.files
    assert (manifest.figures, manifest.inputs) == ({"steps": 3.0}, INPUTS)


def test_the_digest_is_of_the_content_and_not_of_the_place(store, tmp_path):
    manifest = run_once(store, "stage", INPUTS, fill)
    other = run_once(open_store(str(tmp_path / "other")), "elsewhere/deep", {}, fill)
    assert manifest.digest() == other.digest()

    def changed(output):
        fill(output)
        (output / "sub" / "empty").rename(output / "sub" / "renamed")
        return {}

    assert run_once(store, "changed", INPUTS, changed).digest() != manifest.digest()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("weights.bin", bytes(range(256)) * 4, "weights.bin: differs from the manifest"),
        ("weights.bin", bytes(range(256)) * 7 + bytes(256), "weights.bin: differs from the manifest"),
        ("sub/empty", b"x", "sub/empty: differs from the manifest"),
    ],
    ids=["truncated", "changed", "longer"],
)
def test_a_damaged_folder_is_refused(store, name, data, message):
    run_once(store, "stage", INPUTS, fill)
    damage(store, name, data)
    with pytest.raises(InfrastructureError, match=re.escape(f"{store.uri}/stage/{message}")):
        store.fetch("stage")


def test_a_lost_file_is_refused(store):
    run_once(store, "stage", INPUTS, fill)
    damage(store, "weights.bin", None)
    with pytest.raises(InfrastructureError, match=re.escape(f"{store.uri}/stage")):
        store.fetch("stage")


def test_a_folder_without_a_manifest_does_not_exist(store):
    run_once(store, "stage", INPUTS, fill)
    damage(store, MANIFEST, None)
    assert store.manifest("stage") is None
    with pytest.raises(InfrastructureError, match="nothing is committed there"):
        store.fetch("stage")


def test_other_inputs_are_refused_by_name(store):
    run_once(store, "stage", INPUTS, fill)
    for inputs, names in [
        ({**INPUTS, "config": "c2"}, "config"),
        ({"config": "c2"}, "config, model"),
        ({}, "config, model"),
    ]:
        with pytest.raises(
            ConfigError, match=re.escape(f"{store.uri}/stage: made from another {names}, under the same name;")
        ):
            run_once(store, "stage", inputs, never)


def test_the_time_of_the_work_is_kept_and_changes_no_digest(store):
    def slow(output: Path) -> dict[str, float]:
        time.sleep(0.2)
        return fill(output)

    kept = run_once(store, "slow", INPUTS, slow)
    quick = run_once(store, "quick", INPUTS, fill)
    assert 0.2 <= kept.seconds < 30 and quick.seconds < kept.seconds
    assert run_once(store, "slow", INPUTS, never).seconds == store.manifest("slow").seconds == kept.seconds
    assert kept.digest() == quick.digest()


def test_a_manifest_without_a_time_is_read():
    assert Manifest.model_validate_json('{"inputs": {}, "figures": {}, "files": []}').seconds is None


def test_work_that_fails_commits_nothing(store):
    def fails(output):
        fill(output)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_once(store, "stage", INPUTS, fails)
    assert store.manifest("stage") is None
    if isinstance(store, LocalStore):
        assert not store.root.exists()
    run_once(store, "stage", INPUTS, fill)


def test_small_objects_are_replaced_and_deleted(store):
    assert store.read("a/latest.json") is None
    store.write("a/latest.json", b"1")
    store.write("a/latest.json", b"22")
    assert store.read("a/latest.json") == b"22"
    store.delete("a")
    assert store.read("a/latest.json") is None
    store.delete("a")


def test_deleting_forgets_one_folder_only(store):
    for key in ("stage", "stage-2"):
        run_once(store, key, INPUTS, fill)
    store.delete("stage")
    assert store.manifest("stage") is None
    store.fetch("stage-2")
    run_once(store, "stage", {"other": "inputs"}, fill)


def race(store, meeting: Path, *inputs: list[str]) -> list[tuple[int, str, str]]:
    meeting.mkdir()
    command = [sys.executable, "-c", RACER, store.uri, str(meeting)]
    racers = [
        subprocess.Popen([*command, name, *pairs], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, pairs in zip("ab", inputs, strict=True)
    ]
    outcomes = [racer.communicate(timeout=60) for racer in racers]
    return [(racer.returncode, *outcome) for racer, outcome in zip(racers, outcomes, strict=True)]


def test_of_two_attempts_at_once_one_wins_and_both_go_on_with_it(store, tmp_path):
    outcomes = race(store, tmp_path / "meeting", ["config=c1"], ["config=c1"])
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert outcomes[0][1] == outcomes[1][1]
    winner = (store.fetch("stage") / "who.txt").read_text()
    assert outcomes[0][1] == f"has {winner}\n"
    if isinstance(store, LocalStore):
        assert sorted(path.name for path in store.root.rglob("*")) == [MANIFEST, "stage", "who.txt"]
    else:
        assert len(store.entries("stage")) == 2


def test_an_attempt_with_other_inputs_does_not_take_the_winners_work_for_its_own(store, tmp_path):
    outcomes = race(store, tmp_path / "meeting", ["config=c1"], ["config=c2"])
    assert sorted(code for code, _, _ in outcomes) == [0, 1]
    assert any("made from another config, under" in errors for _, _, errors in outcomes)


def test_figures_that_are_not_finite_come_back(store):
    run_once(store, "stage", INPUTS, lambda output: {"nan": math.nan, "inf": -math.inf})
    figures = store.manifest("stage").figures
    assert math.isnan(figures["nan"]) and figures["inf"] == -math.inf


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4})?", fullmatch=True), st.binary(max_size=30), max_size=4))
def test_any_files_survive(tmp_path_factory, contents):
    contents = {name: data for name, data in contents.items() if not any(n.startswith(f"{name}/") for n in contents)}

    def work(output):
        for name, data in contents.items():
            (output / name).parent.mkdir(exist_ok=True)
            (output / name).write_bytes(data)
        return {}

    store = open_store(str(tmp_path_factory.mktemp("store")))
    manifest = run_once(store, "stage", {}, work)
    assert {entry.path: entry.bytes for entry in manifest.files} == {name: len(data) for name, data in contents.items()}
    folder = store.fetch("stage")
    assert {name: (folder / name).read_bytes() for name in contents} == contents


def test_a_foreign_folder_in_the_way_is_named_and_kept(tmp_path, capsys):
    store = open_store(str(tmp_path))
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "thesis.tex").write_text("mine")
    with pytest.raises(InfrastructureError, match=re.escape(f"{tmp_path}/stage: cannot be written")):
        run_once(store, "stage", INPUTS, fill)
    assert (tmp_path / "stage" / "thesis.tex").read_text() == "mine"
    (kept,) = tmp_path.glob(".stage.tmp-*")
    with store.only_user("1a2b3c4d"):
        assert str(kept) in capsys.readouterr().out
    shutil.rmtree(tmp_path / "stage")
    kept.rename(tmp_path / "stage")
    run_once(store, "stage", INPUTS, never)
    store.fetch("stage")


def test_a_finished_folder_that_cannot_be_renamed_is_kept_and_named(tmp_path, monkeypatch, capsys):
    def refused(self, target):
        raise OSError(errno.EIO, "Input/output error", str(self))

    store = open_store(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(InfrastructureError, match=r"stage: cannot be written \(Input/output error\)") as told:
            run_once(store, "stage", INPUTS, fill)
    kept = Path(re.search("lies in (.*): mend", str(told.value))[1])
    with store.only_user("1a2b3c4d"):
        assert f"{kept} was finished" in capsys.readouterr().out
    kept.rename(tmp_path / "stage")
    run_once(store, "stage", INPUTS, never)
    assert (store.fetch("stage") / "weights.bin").read_bytes() == bytes(range(256)) * 8


def test_what_is_not_in_its_place_yet_is_not_committed(tmp_path, monkeypatch):
    store, seen = LocalStore(tmp_path), []
    monkeypatch.setattr("sppo.store.local.put_in_place", lambda *_: seen.append(store.committed("some")) or True)
    (tmp_path / "work").mkdir()
    store.commit("some/one", tmp_path / "work", {}, {})
    assert list((tmp_path / "some").glob(f".one.tmp-*/{MANIFEST}")) and seen == [set()]


def test_what_an_attempt_did_not_finish_is_cleared_away(tmp_path):
    store = open_store(str(tmp_path))
    (tmp_path / ".stage.tmp-0badcafe").mkdir(parents=True)
    (tmp_path / ".stage.tmp-0badcafe" / "weights.bin").write_bytes(b"half")
    with store.only_user("1a2b3c4d"):
        assert [path.name for path in sorted(tmp_path.iterdir())] == [".lock", ".lock-1a2b3c4d"]


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x"])
def test_other_schemes_are_refused(uri):
    with pytest.raises(ConfigError, match="give a folder or s3://bucket/prefix"):
        open_store(uri)


@pytest.mark.parametrize("prefix", ["", "file:", "file://"])
def test_a_folder_may_be_written_as_a_file_uri(tmp_path, prefix):
    assert open_store(f"{prefix}{tmp_path}").uri == str(tmp_path)


def test_what_is_committed_in_a_folder_is_listed(store):
    for key in ("some/one", "some/two", "some/two/deeper/three", "other/four"):
        run_once(store, key, INPUTS, fill)
    store.write("some/note.json", b"{}")
    assert store.committed("some") == {"some/one", "some/two"}
    assert store.committed("none") == set()
