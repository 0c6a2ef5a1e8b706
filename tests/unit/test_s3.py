import errno
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from sppo.config.run import resolve
from sppo.config.sections.prepare import PrepareConfig
from sppo.errors import ConfigError, InfrastructureError, SppoError
from sppo.models.fetch import fetch_model, model_digest
from sppo.models.weights import check_weights
from sppo.preparing.prepare import prepare
from sppo.preparing.prompts import Row, read_prompts
from sppo.store.base import MANIFEST
from sppo.store.once import run_once
from sppo.store.s3 import S3Store, s3_file


@pytest.fixture
def store(s3, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # botocore waits between its attempts
    return S3Store(s3.uri)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.txt").write_text("other")
    return tmp_path / "folder"


def fill(output):
    (output / "a.txt").write_text("content")
    return {}


@pytest.mark.parametrize("path", ["a.txt", MANIFEST])
def test_a_busy_server_is_asked_again(s3, store, path):
    s3.fail("PUT", path, times=3)
    run_once(store, "stage", {}, fill)
    s3.fail("GET", path, times=3)
    assert (store.fetch("stage") / "a.txt").read_text() == "content"


def test_a_server_that_stays_busy_is_an_infrastructure_error(s3, store):
    s3.fail("PUT", "a.txt", times=100)
    with pytest.raises(InfrastructureError, match=re.escape(f"{s3.uri}/stage: ")) as caught:
        run_once(store, "stage", {}, fill)
    assert caught.value.exit_code == 3 and "SlowDown" in str(caught.value)
    assert s3.keys() == []


def test_a_manifest_whose_answer_was_lost_is_known_as_ones_own(s3, store):
    """The first request is written but answered with an error; the second is refused, because the first took effect."""
    s3.fail("PUT", MANIFEST, late=True, status=500, code="InternalError")
    run_once(store, "stage", {}, fill)
    assert s3.requests.count(f"PUT /{store.bucket}/some/run/stage/{MANIFEST}") == 2
    assert (store.fetch("stage") / "a.txt").read_text() == "content"


def test_a_conflict_means_that_another_attempt_writes(s3, store, monkeypatch, folder):
    """S3 answers 409 while another conditional write is under way: here of one that is done when we look."""
    put = store._put_if_absent

    def overtaken(key, data):
        S3Store(s3.uri).commit("stage", folder, {}, {"other": 1.0})
        s3.fail("PUT", MANIFEST, status=409, code="ConditionalRequestConflict")
        return put(key, data)

    monkeypatch.setattr(store, "_put_if_absent", overtaken)
    assert run_once(store, "stage", {}, fill).figures == {"other": 1.0}
    assert (store.fetch("stage") / "b.txt").read_text() == "other"
    assert len(s3.keys()) == 2, "the loser's files are removed"


def test_what_killed_attempts_left_is_removed_by_the_one_that_wins(s3, store):
    prefix = store.prefix
    for name in ("stage/0badcafe/a.txt", "stage-2/0badcafe/a.txt"):
        store.write(name, b"half")
    store.client.create_multipart_upload(Bucket=store.bucket, Key=f"{prefix}/stage/0badcafe/b.txt")
    store.client.create_multipart_upload(Bucket=store.bucket, Key=f"{prefix}/stage-2/0badcafe/b.txt")
    manifest = run_once(store, "stage", {}, fill)
    assert set(store.entries("")) == {
        f"stage/{MANIFEST}",
        f"stage/{manifest.prefix}/a.txt",
        "stage-2/0badcafe/a.txt",
    }
    uploads = store.client.list_multipart_uploads(Bucket=store.bucket)["Uploads"]
    assert [upload["Key"] for upload in uploads] == [f"{prefix}/stage-2/0badcafe/b.txt"]


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_that_passes_is_no_loss(s3, store, code):
    """S3 asks to try again: what was in flight may have failed."""
    s3.fail("PUT", MANIFEST, status=409, code=code, times=3)
    manifest = run_once(store, "stage", {}, fill)
    assert manifest == store.manifest("stage")
    assert (store.fetch("stage") / "a.txt").read_text() == "content"


def test_a_conflict_without_an_end_ends_and_loses_nothing(s3, store):
    s3.fail("PUT", MANIFEST, status=409, code="ConditionalRequestConflict", times=100)
    with pytest.raises(InfrastructureError, match="ConditionalRequestConflict"):
        run_once(store, "stage", {}, fill)
    assert s3.requests.count(f"PUT /{store.bucket}/some/run/stage/{MANIFEST}") == 6
    assert [key.rpartition("/")[2] for key in sorted(s3.keys())] == ["a.txt"]
    s3.faults.clear()
    manifest = run_once(store, "stage", {}, fill)
    assert set(store.entries("stage")) == {MANIFEST, f"{manifest.prefix}/a.txt"}


def test_the_answer_to_the_put_is_not_believed(s3, store, monkeypatch, folder):
    """A server that answers 200 to both: whoever reads another's manifest removes its own files, and those alone."""
    s3.conditional = False
    read = store.read

    def overtaken(key):
        if key.endswith(MANIFEST) and "a.txt" in str(store.entries("stage")):
            S3Store(s3.uri).write(key, other)
        return read(key)

    winner = S3Store(s3.uri).commit("stage", folder, {}, {"other": 1.0})
    other = read(f"stage/{MANIFEST}")
    store._delete(f"stage/{MANIFEST}")
    monkeypatch.setattr(store, "read", overtaken)
    assert run_once(store, "stage", {}, fill) == winner
    assert (store.fetch("stage") / "b.txt").read_text() == "other"
    assert set(store.entries("stage")) == {MANIFEST, f"{winner.prefix}/b.txt"}


def test_a_server_that_ignores_the_condition_is_refused(s3, store):
    store.probe()
    assert s3.keys() == []
    s3.conditional = False
    with pytest.raises(ConfigError, match=r"at http://127\.0\.0\.1:\d+ ignores If-None-Match.*use Amazon S3") as caught:
        store.probe()
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert s3.keys() == []


def test_a_server_that_does_not_know_the_condition_is_refused(s3, store):
    s3.fail("PUT", ".probe-", status=501, code="NotImplemented")
    with pytest.raises(ConfigError, match="ignores If-None-Match"):
        store.probe()


@pytest.mark.parametrize("late", [True, False])
def test_a_probe_whose_answer_was_lost_proves_the_same(s3, store, late):
    s3.fail("PUT", ".probe-", status=500, code="InternalError", late=late)
    store.probe()


def test_a_probe_that_gets_no_answer_is_an_infrastructure_error(s3, store):
    s3.fail("PUT", ".probe-", status=403, code="AccessDenied")
    with pytest.raises(InfrastructureError, match="AccessDenied"):
        store.probe()


def test_prepare_probes_the_server_before_anything_else(s3, store):
    s3.conditional = False
    with pytest.raises(ConfigError, match="ignores If-None-Match"):
        prepare(resolve({"output_uri": s3.uri, "prompts": "nowhere.jsonl"}), lambda _: None, lambda *_: None)
    assert s3.keys() == []


def test_benchmarks_of_a_model_probe_the_server_too(s3, run_sppo):
    s3.conditional = False
    ended = run_sppo("bench", "hf://org/name", f"output_uri={s3.uri}", "--benchmarks", "leaderboard")
    assert ended.code == 2 and "ignores If-None-Match" in ended.err


def test_a_download_that_cannot_be_put_in_the_cache_is_kept(s3, store, tmp_path, monkeypatch):
    run_once(store, "stage", {}, fill)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(
        InfrastructureError, match=r"cannot be written \(Input/output error\).* lies in (.*): mend"
    ) as told:
        store.fetch("stage")
    kept = Path(re.search(r"lies in (.*): mend", str(told.value))[1])
    assert (kept / "a.txt").read_text() == "content"
    monkeypatch.undo()


def refused(self, target):
    raise OSError(errno.EIO, "Input/output error", str(self))


def test_what_is_fetched_once_is_not_downloaded_again(s3, store):
    run_once(store, "stage", {}, fill)
    folder = store.fetch("stage")
    s3.requests.clear()
    assert store.fetch("stage") == folder
    assert [request for request in s3.requests if "a.txt" in request] == []
    (folder / "a.txt").write_text("changed")
    with pytest.raises(InfrastructureError, match="differs from the manifest"):
        store.fetch("stage")


def test_a_bucket_that_is_not_there_is_named(store, folder):
    with pytest.raises(InfrastructureError, match=r"s3://nowhere-at-all/x.*NoSuchBucket"):
        S3Store("s3://nowhere-at-all/x").commit("stage", folder, {}, {})


def test_a_uri_without_a_bucket_is_refused():
    with pytest.raises(ConfigError, match="name a bucket"):
        S3Store("s3://")


def upload(s3, folder, prefix):
    import boto3

    client = boto3.client("s3")
    for path in folder.iterdir():
        client.upload_file(str(path), s3.uri.split("/")[2], f"{prefix}/{path.name}")
    return f"s3://{s3.uri.split('/')[2]}/{prefix}"


def test_a_committed_model_is_fetched_by_its_uri(s3, store, tiny_llama):
    """As train hands it to the next stage: the manifest's own prefix must not show."""
    run_once(
        store, "iteration-1/model", {}, lambda output: shutil.copytree(tiny_llama, output, dirs_exist_ok=True) and {}
    )
    folder = fetch_model(f"{s3.uri}/iteration-1/model")
    assert model_digest(folder) == model_digest(tiny_llama)


def test_a_model_that_another_tool_uploaded_is_fetched_once(s3, store, tiny_llama):
    uri = upload(s3, tiny_llama, "models/tiny")
    store.client.put_object(Bucket=store.bucket, Key="models/tiny/", Body=b"")
    folder = fetch_model(uri)
    assert model_digest(folder) == model_digest(tiny_llama)
    s3.requests.clear()
    assert fetch_model(uri) == folder
    assert not any("safetensors" in request for request in s3.requests)
    store.client.put_object(Bucket=store.bucket, Key="models/tiny/config.json", Body=b'{"changed": 1}')
    assert model_digest(fetch_model(uri)) != model_digest(tiny_llama)


@pytest.mark.parametrize("committed", [True, False])
def test_weights_are_looked_at_by_their_headers_alone(s3, store, tiny_llama, committed):
    if committed:
        run_once(store, "model", {}, lambda output: shutil.copytree(tiny_llama, output, dirs_exist_ok=True) and {})
        uri = f"{s3.uri}/model"
    else:
        uri = upload(s3, tiny_llama, "models/tiny")
    s3.ranges.clear()
    folder = fetch_model(uri, weights=False)
    assert (folder / "config.json").is_file() and not list(folder.glob("*.safetensors"))
    check_weights(uri, folder)
    spans = [span for path, span in s3.ranges if path.endswith(".safetensors")]
    assert len(spans) == 2 and all(spans)
    whole = fetch_model(uri)
    assert model_digest(whole) == model_digest(tiny_llama)


@pytest.mark.parametrize("fault", ["truncated", "no weights", "no header", "another shape"])
def test_damaged_weights_are_refused_before_they_are_downloaded(s3, store, tiny_llama, fault, tmp_path):
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    weights, message = (
        source / "model.safetensors",
        r"model\.safetensors is truncated or damaged; upload the model again",
    )
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif fault == "no header":
        weights.write_bytes(b"not that")
    elif fault == "no weights":
        weights.unlink()
        message = r"no \*\.safetensors in that folder"
    else:
        settings = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**settings, "vocab_size": settings["vocab_size"] + 1}))
        message = "have another shape at model.embed_tokens.weight"
    uri = upload(s3, source, "models/tiny")
    with pytest.raises(ConfigError, match=message):
        check_weights(uri, fetch_model(uri, weights=False))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_empty_place_is_no_model(s3):
    with pytest.raises(ConfigError, match="no object lies under that prefix"):
        fetch_model(f"{s3.uri}/nothing")


def test_an_object_name_cannot_lead_out_of_the_cache(s3, store, tmp_path):
    store.client.put_object(Bucket=store.bucket, Key="models/evil/../../../escaped.txt", Body=b"x")
    with pytest.raises(ConfigError, match="leads out of the folder"):
        fetch_model(f"s3://{store.bucket}/models/evil")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_prompts_may_lie_in_s3(s3, store):
    store.write("prompts.jsonl", b'{"prompt": "Why?"}\n')
    assert read_prompts(f"{s3.uri}/prompts.jsonl", PrepareConfig()) == [Row("Why?")]
    with pytest.raises(ConfigError, match="no such object"):
        read_prompts(f"{s3.uri}/other.jsonl", PrepareConfig())


@pytest.mark.parametrize(
    ("name", "value", "code", "message"),
    [
        ("AWS_PROFILE", "none", 2, "The config profile (none) could not be found; mend AWS_ENDPOINT_URL, AWS_PROFILE"),
        ("AWS_DEFAULT_REGION", "us east", 2, "Provided region_name 'us east' doesn't match"),
        ("AWS_ENDPOINT_URL", "localhost:9000", 2, "Invalid endpoint: localhost:9000; mend AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "http://user:secret@[bad", 2, "mend AWS_ENDPOINT_URL"),
        (
            "AWS_ENDPOINT_URL",
            "ftp://host",
            2,
            "Custom endpoint `ftp://host` was not a valid URI; mend AWS_ENDPOINT_URL",
        ),
        ("AWS_SECRET_ACCESS_KEY", None, 2, "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY"),
        ("AWS_CONFIG_FILE", __file__, 2, "Unable to parse config file"),
        ("AWS_ACCESS_KEY_ID", None, 3, "Unable to locate credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_wrong_settings_are_one_line(s3, monkeypatch, tmp_path, name, value, code, message):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with pytest.raises(SppoError, match=re.escape(message)) as caught:
        S3Store(s3.uri).read("key")
    assert caught.value.exit_code == code
    assert s3.uri in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_bucket_that_no_bucket_is_named_like_is_a_mistake(s3):
    with pytest.raises(ConfigError, match="s3://No bucket!/run: name a bucket, as in"):
        S3Store("s3://No bucket!/run").read("key")


def test_a_user_who_may_not_list_uploads_has_committed_nevertheless(s3, store, capsys):
    s3.fail("GET", "", query="uploads", status=403, code="AccessDenied", times=9)
    made = run_once(store, "some/folder", {"stage": "s"}, lambda output: {"figure": 1.0})
    assert made.figures == {"figure": 1.0}
    assert "warning: what other attempts left beside some/folder stays there: " in capsys.readouterr().out
    s3.fail("GET", "", query="list-type", status=403, code="AccessDenied", times=9)
    assert run_once(store, "some/folder", {"stage": "s"}, lambda output: {}) == made


def test_a_file_of_the_cache_is_never_seen_half_written(s3, store, monkeypatch):
    store.write("prompts.jsonl", data := b'{"prompt": "Why?"}\n')
    first = s3_file(f"{s3.uri}/prompts.jsonl")
    same = first.stat().st_ino
    assert s3_file(f"{s3.uri}/prompts.jsonl") == first and first.stat().st_ino == same
    first.write_bytes(data[:5])  # as an older version left it that was killed
    seen, write = [], Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, given: (seen.append(path), write(path, given))[1])
    assert s3_file(f"{s3.uri}/prompts.jsonl").read_bytes() == data
    assert seen and first not in seen and [path.name for path in first.parent.iterdir()] == [first.name]
