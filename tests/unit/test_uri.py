"""Every URI of ours: what it names, whatever the characters of a name, and one line for what names nothing."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow import MlflowClient
from sqlalchemy import make_url

from sppo.errors import ConfigError
from sppo.models.fetch import fetch_model
from sppo.reporting.tracking.database import artifacts_uri, database_path, tracking_uri
from sppo.store.local import LocalStore
from sppo.store.opening import fetch_file, open_store
from sppo.store.s3 import S3Store, s3_file
from sppo.store.uri import S3, Foreign, Hub, Local, Package, parse

ODD = "exp #2? 100%41 ü;&=+'@:"
NAMES = st.text("a?%#&+;:=@ '\"\\ü漢~.", min_size=1, max_size=9) | st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=50
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: Path("/", *names))


@pytest.fixture(scope="module", autouse=True)
def _no_server_of_mlflow():
    """MLflow leaves the address that a test has set in the environment, where it would be the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@given(PATHS)
@example(Path("/tmp", ODD))
def test_a_path_is_the_same_after_every_way_through_a_url(path):
    assert parse(str(path)) == parse(path.as_uri()) == Local(path)
    assert parse(path.as_uri().replace("file://", "file://localhost")) == Local(path)
    store = LocalStore(path)
    assert Path(open_store(store.uri).uri) == path
    database = make_url(tracking_uri(store))
    ((name,), options) = database.get_dialect()().create_connect_args(database)
    opened = parse(name).path if options.get("uri") else Path(name)
    assert opened == database_path(tracking_uri(store)) == store.root.parent / "mlflow.db"
    assert parse(artifacts_uri(tracking_uri(store))) == Local(store.root.parent / "mlflow-artifacts")


@given(NAMES.filter(lambda name: not name.startswith(("~", "file:", "s3:", "hf:", "package:"))))
def test_a_relative_path_stays_one(name):
    assert parse(name) == Local(Path(name))


@given(st.lists(NAMES, max_size=4).map("/".join))
@example("run #2?x=1%20&y")
def test_a_key_in_s3_is_what_is_written(key):
    place = parse(f"s3://bucket/{key}")
    assert place == S3("bucket", key) == parse(place.uri) == parse(f"{place.uri}/")


@given(st.text() | st.text("s3hf:/package@%#?.~\0 \ud800") | st.builds("{}:{}".format, NAMES, st.text()))
@example("file://%ff")
@example("~nobody-of-this-name/x")
@example("x" * 300)
@example("a/" * 3000)
def test_anything_is_a_place_or_one_line(text):
    try:
        place = parse(text)
    except ConfigError as error:
        assert "\n" not in str(error).replace(text, "").replace(text[:60], "")
    else:
        assert isinstance(place, Local | S3 | Hub | Package | Foreign)
        if isinstance(place, Local):
            assert place.path.exists() in {True, False}


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("file:///a%20b/c%23d", Local(Path("/a b/c#d"))),
        ("file:///a#b?c", Local(Path("/a#b?c"))),
        ("file:/a", Local(Path("/a"))),
        ("/a://b", Local(Path("/a://b"))),
        ("~/x", Local(Path.home() / "x")),
        ("s3://b", S3("b", "")),
        ("s3://b//x//y/", S3("b", "x//y")),
        ("hf://org/name", Hub("org/name", "")),
        ("hf://org/name@v1", Hub("org/name", "v1")),
        ("package:sppo", Package("sppo")),
        ("package:sppo/second", Package("sppo", "second")),
        ("gs://b/x", Foreign("gs")),
    ],
)
def test_what_a_uri_names(uri, place):
    assert parse(uri) == place


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "'': not the name of a place"),
        ("a\0b", "not the name of a place"),
        ("a\udcffb", r"'a\udcffb': not the name of a place; write a path in Unicode"),
        ("file://host/a", "file://host/a: host would be another machine; write file:///"),
        ("file:///100%", "in a file: URI a % begins an escape such as %20; write %25"),
        ("file:///%ff", "its escapes are not UTF-8"),
        ("file://", "names no file or folder"),
        ("s3://", "name a bucket, as in s3://bucket/prefix"),
        ("s3://a?b/c", "name a bucket, as in s3://bucket/prefix"),
        ("s3:/b/x", "write s3:// with two slashes"),
        ("hf:org/name", "write hf:// with two slashes"),
        ("hf://org/name@", "no repository of a hub is named so"),
        ("hf://a b", "no repository of a hub is named so"),
    ],
)
def test_what_names_nothing_is_one_line(uri, message):
    with pytest.raises(ConfigError) as caught:
        parse(uri)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_and_a_model_lie_where_their_uri_says(tmp_path, tiny_llama):
    folder = tmp_path / ODD
    shutil.copytree(tiny_llama, folder)
    for uri in (str(folder), folder.as_uri()):
        assert fetch_model(uri) == folder
        assert fetch_file(f"{uri}/config.json", "absent") == folder / "config.json"


def test_mlflow_keeps_its_database_in_the_folder_of_the_runs(tmp_path, empty_database, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore(Path(ODD, "run"))
    store.root.mkdir(parents=True)
    (store.root.parent / "mlflow.db").write_bytes(empty_database)
    client = MlflowClient(tracking_uri(store))
    experiment = client.create_experiment("mine", artifact_location=artifacts_uri(tracking_uri(store)))
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "a.txt")
    assert [file.path for file in client.list_artifacts(run)] == ["a.txt"]
    assert os.listdir(tmp_path) == [ODD]
    assert sorted(os.listdir(tmp_path / ODD)) == ["mlflow-artifacts", "mlflow.db", "run"]
    assert os.listdir(store.root) == []


def test_two_runs_in_s3_whose_names_differ_behind_a_mark_are_two(s3):
    one, other = (S3Store(f"{s3.uri}/exp {mark}") for mark in ("#1?%41", "#2"))
    one.write("x", b"1")
    other.write("x", b"2")
    assert (one.read("x"), other.read("x")) == (b"1", b"2")
    assert one.entries("").keys() == other.entries("").keys() == {"x"}
    assert s3_file(f"{one.uri}/x").read_bytes() == b"1"
    with pytest.raises(ConfigError, match="names no object"):
        s3_file(f"{s3.uri}/..")
