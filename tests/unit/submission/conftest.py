"""A server that speaks those routes of Kubeflow Pipelines' API that are used, and fails on demand."""

import functools
import json
import threading
import time
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from pipelines.submission import client, follow
from pipelines.submission import package as packages

TOKEN = "eyJhbGciOi.very-secret-token.c2lnbmF0dXJl"
compile_once = functools.cache(packages.compile_package)
SLOW = 0.4
"""Seconds that a slow answer takes; the client waits for half of it."""


class Kubeflow:
    """What the server holds, which requests it got, and how it fails."""

    def __init__(self) -> None:
        self.experiments: list[dict] = []
        self.pipelines: list[dict] = []
        self.versions: list[dict] = []
        self.runs: list[dict] = []
        self.packages: list[bytes] = []
        self.requests: list[SimpleNamespace] = []
        self.faults: list[dict] = []
        self.script: list[dict] = [{"state": "RUNNING"}]
        self.after_retry: list[dict] = []
        self.multi_user = False
        self.accepted: dict[str, str] = {}
        self.address = ""

    def fail(self, where: str, kind: Any = 500, *, times: int = 1, late: bool = False, headers: dict | None = None):
        """Let the next requests whose "METHOD path" begins with `where` fail.

        `kind` is a status, "slow", "truncated" (fewer bytes than announced), "cut" (half of the JSON), "reset"
        (the connection ends without an answer) or "page" (HTML); `late` ones take effect nevertheless.
        """
        self.faults.append({"where": where, "kind": kind, "times": times, "late": late, "headers": headers or {}})

    def sent(self, where: str) -> list[SimpleNamespace]:
        """The requests whose "METHOD path" is this."""
        return [request for request in self.requests if request.line == where]

    def answer(self, method: str, path: str, query: dict, body: bytes, content_type: str) -> tuple[int, dict]:
        if path == "healthz":
            return 200, {"multi_user": self.multi_user}
        if path == "pipelines/upload_version":
            return self._upload(query, body, content_type)
        parts = path.split("/")
        if parts[0] == "runs" and len(parts) == 2:
            return self._run(method, *parts[1].split(":"))
        kind = "versions" if parts[-1] == "versions" else parts[0]
        if kind not in {"experiments", "pipelines", "versions", "runs"} or len(parts) not in {1, 3}:
            return 404, {"error": "Not Found", "code": 5, "message": "Not Found"}
        held = getattr(self, kind)
        if method == "GET":
            return 200, self._listed(kind, held, query)
        return self._create(kind, held, json.loads(body))

    def _listed(self, kind: str, held: list[dict], query: dict) -> dict:
        (predicate,) = json.loads(query["filter"])["predicates"]
        assert (predicate["operation"], predicate["key"]) == (1, "display_name")
        found = [thing for thing in held if thing["display_name"] == predicate["stringValue"]]
        return {("pipeline_versions" if kind == "versions" else kind): found} if found else {}

    def _create(self, kind: str, held: list[dict], thing: dict) -> tuple[int, dict]:
        if kind != "runs" and any(other["display_name"] == thing["display_name"] for other in held):
            return 409, {"error": "exists", "code": 6, "message": f"{thing['display_name']} already exists"}
        if kind == "runs":
            thing = {**thing, **self.script[0]}
        held.append({**thing, f"{kind[:-1]}_id": f"{kind[:-1]}-{len(held)}"})
        return 200, held[-1]

    def _upload(self, query: dict, body: bytes, content_type: str) -> tuple[int, dict]:
        message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        (part,) = message.get_payload()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        if any(version["display_name"] == query["name"] for version in self.versions):
            return 409, {"message": f"{query['name']} already exists"}
        assert query["pipelineid"] in {pipeline["pipeline_id"] for pipeline in self.pipelines}
        self.packages.append(part.get_payload(decode=True))
        self.versions.append(
            {
                "pipeline_id": query["pipelineid"],
                "pipeline_version_id": f"version-{len(self.versions)}",
                "display_name": query["name"],
                "description": query["description"],
            }
        )
        return 200, self.versions[-1]

    def _run(self, method: str, run_id: str, verb: str = "") -> tuple[int, dict]:
        found = [run for run in self.runs if run["run_id"] == run_id]
        if not found:
            return 404, {"message": f"Run {run_id} not found"}
        if verb == "retry":
            if found[0]["state"] != "FAILED":
                return 400, {"message": "Workflow must be Failed/Error to retry"}
            self.script = self.after_retry
        elif len(self.script) > 1:
            self.script = self.script[1:]
        found[0].update(self.script[0])
        return 200, ({} if verb else found[0])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kubeflow: Kubeflow

    def do_GET(self):
        self._do("GET")

    def do_POST(self):
        self._do("POST")

    def log_message(self, *_):
        pass

    def _do(self, method: str) -> None:
        kubeflow = self.kubeflow
        url = urlsplit(self.path)
        path, query = url.path.removeprefix("/apis/v2beta1/"), dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{method} {path}"
        content_type = self.headers.get("Content-Type", "")
        content = json.loads(body) if content_type.startswith("application/json") and body else None
        kubeflow.requests.append(
            SimpleNamespace(
                line=line, url=url.path, query=query, json=content, authorization=self.headers.get("Authorization")
            )
        )
        fault = next((f for f in kubeflow.faults if line.startswith(f["where"]) and f["times"]), None)
        status, answer, headers = 401, {"message": f"who is {dict(self.headers)}?"}, {}
        if all(self.headers.get(name) == value for name, value in kubeflow.accepted.items()):
            status, answer = 200, {}
            if method == "GET" or fault is None or fault["late"]:
                status, answer = kubeflow.answer(method, path, query, body, content_type)
        if fault is not None:
            fault["times"] -= 1
            headers = fault["headers"]
            if isinstance(fault["kind"], int):
                status, answer = fault["kind"], {"message": f"injected, {self.headers.get('Authorization')}"}
        self._send(status, json.dumps(answer).encode(), headers, None if fault is None else fault["kind"])

    def _send(self, status: int, data: bytes, headers: dict, kind: Any) -> None:
        if kind == "slow":
            time.sleep(SLOW)
        if kind == "reset":
            self.close_connection = True
            return
        if kind == "cut":
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if kind == "page" else "application/json")
        self.send_header("Content-Length", str(len(data) + (100 if kind == "truncated" else 0)))
        for name, value in headers.items():
            self.send_header(name, value)
        if kind == "truncated":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def kubeflow(monkeypatch):
    """A server, and a client that waits for it milliseconds instead of minutes."""
    held = Kubeflow()

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):  # a client that gave up is no error of the server's
            pass

    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"kubeflow": held}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(client, "TIMEOUT", (1, SLOW / 2))
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(packages, "compile_package", compile_once)
    monkeypatch.setattr(follow, "INTERVAL", 0.001)
    monkeypatch.setattr(follow, "PATIENCE", 4)
    monkeypatch.setenv("SPPO_KFP_TOKEN", TOKEN)
    for name in ("SPPO_KFP_COOKIE", "KF_PIPELINES_SA_TOKEN_PATH", "MLFLOW_TRACKING_URI", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sppo(run_sppo):
    """Runs `sppo` here in this process; in all that it says there must be no token."""

    def run(*arguments: str) -> Any:
        result = run_sppo(*arguments)
        assert TOKEN not in result.out + result.err
        return result

    return run


@pytest.fixture
def submit(sppo, kubeflow):
    """Runs `sppo submit` against the server; flags come before overrides."""

    def run(*arguments: str) -> SimpleNamespace:
        small = ("--max-iterations", "1", *arguments, "output_uri=s3://bucket/run", "iterations=1")
        return sppo("submit", "--host", kubeflow.address, *small)

    return run


def task(name: str, state: str = "SUCCEEDED", start: int = 0, end: int = 0) -> dict:
    """A task as the API tells it, with seconds after a full hour."""
    return {
        "display_name": name,
        "state": state,
        "start_time": f"2026-01-01T00:{start // 60:02}:{start % 60:02}Z",
        "end_time": f"2026-01-01T00:{end // 60:02}:{end % 60:02}Z" if end else "1970-01-01T00:00:00Z",
    }


def snapshot(state: str, *tasks: dict, **fields: Any) -> dict:
    """A run as the API tells it."""
    return {"state": state, "run_details": {"task_details": list(tasks)}, **fields}


@pytest.fixture
def api() -> SimpleNamespace:
    """How the API tells a task and a run."""
    return SimpleNamespace(task=task, snapshot=snapshot)
