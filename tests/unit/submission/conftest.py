"""A server that speaks those routes of Kubeflow Pipelines' API that are used, and fails on demand.

What it answers is what version 2.17 does, by its source; paths in the docstrings are under backend/src/apiserver/.
"""

import functools
import json
import operator
import threading
import time
from datetime import UTC, datetime
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml
from sppo_pipelines.submission import client, run
from sppo_pipelines.submission import package as packages
from sppo_pipelines.submission.progress import ENDED

from sppo.training.workers.trainjob import backoff

from . import argo, kubernetes_api

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TOKEN = "eyJhbGciOi.very-secret-token.c2lnbmF0dXJl"
compile_once = functools.cache(packages.compile_package)
SLOW = 0.4
"""Seconds that a slow answer takes; the client waits for half of it."""
NEVER = "1970-01-01T00:00:00Z"
"""When a run ended that has not (server/api_converter.go, toApiRun)."""
COMPARE = {1: operator.eq, 3: operator.gt, 5: operator.ge}
"""Operations of a filter (backend/api/v2beta1/filter.proto)."""
FIELDS = {"display_name", "created_at", "finished_at", "state"}
"""Of those that a filter may name, what is used (model/run.go, runAPIToModelFieldMap)."""


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
        self.later: list[list[dict]] = []
        self.after_terminate: list[dict] = []
        self.pod_logs: dict[str, str] = {}
        self.archived_logs: dict[str, str] = {}
        self.behind_ui = False
        self.multi_user = False
        self.granted = {"create", "get", "list", "retry"}
        self.used: set[str] = set()
        self.accepted: dict[str, str] = {}
        self.address = ""

    def fail(
        self,
        where: str,
        kind: Any = 500,
        *,
        times: int = 1,
        late: bool = False,
        headers: dict | None = None,
        answer: Any = None,
    ):
        """Let the next requests whose "METHOD path" begins with `where` fail.

        `kind` is a status, "slow", "truncated" (fewer bytes than announced), "cut" (half of the JSON), "reset"
        (the connection ends without an answer) or "page" (HTML); `late` ones take effect nevertheless. `answer` is what
        is said with a status.
        """
        given = {"headers": headers or {}, "answer": answer}
        self.faults.append({"where": where, "kind": kind, "times": times, "late": late, **given})

    def sent(self, where: str) -> list[SimpleNamespace]:
        """The requests whose "METHOD path" is this."""
        return [request for request in self.requests if request.line == where]

    def answer(self, method: str, path: str, query: dict, body: bytes, content_type: str) -> tuple[int, Any]:
        """The status, and JSON or a text; where there are users, runs are for who has the verb (common/const.go)."""
        verb = _verb(method, path)
        if self.multi_user and verb:
            self.used.add(verb)
            if verb not in self.granted:
                return 403, {"error": "PermissionDenied", "code": 7, "message": f"not authorized to {verb} runs"}
        if path.startswith("v1alpha1/") and not self.behind_ui:
            _, _, run_id, _, node, _ = path.split("/")
            return self._log(run_id, node)
        if path == "/k8s/pod/logs" and self.behind_ui:
            return self._log_of_the_ui(query)
        if path.startswith("v1beta1/runs/"):
            return self._detail(path.rpartition("/")[2])
        if path == "healthz":
            return 200, {"multi_user": self.multi_user}
        if path == "pipelines/upload_version":
            return self._upload(query, body, content_type)
        parts = path.split("/")
        if parts[0] == "runs" and len(parts) == 2:
            return self._run(method, *parts[1].split(":"))
        if method == "GET" and parts[0] == "pipelines" and len(parts) == 4:
            return self._version(parts[3])
        kind = "versions" if parts[-1] == "versions" else parts[0]
        if kind not in {"experiments", "pipelines", "versions", "runs"} or len(parts) not in {1, 3}:
            return 404, {"error": "Not Found", "code": 5, "message": "Not Found"}
        held = getattr(self, kind)
        if method == "GET":
            if kind == "runs" and self.multi_user and not {"namespace", "experiment_id"} & query.keys():
                return 400, {"error": "InvalidArgument", "code": 3, "message": "A run cannot have an empty namespace"}
            return 200, self._listed(kind, held, query)
        return self._create(kind, held, json.loads(body))

    def _listed(self, kind: str, held: list[dict], query: dict) -> dict:
        """A page of what a filter lets through (filter/filter.go, list/list.go); a run as `_run` tells it."""
        assert query["sort_by"] == "created_at desc"
        predicates = json.loads(query["filter"])["predicates"]
        found = [thing for thing in held if all(_meets(thing, predicate) for predicate in predicates)]
        found.sort(key=lambda thing: thing.get("created_at", ""), reverse=True)
        begin = int(query.get("page_token", 0))
        end = begin + int(query["page_size"])
        page = {("pipeline_versions" if kind == "versions" else kind): [_told(thing) for thing in found[begin:end]]}
        return _told({**page, "next_page_token": str(end) if end < len(found) else ""})

    def _create(self, kind: str, held: list[dict], thing: dict) -> tuple[int, dict]:
        if kind != "runs" and any(other["display_name"] == thing["display_name"] for other in held):
            return 409, {"error": "exists", "code": 6, "message": f"{thing['display_name']} already exists"}
        if kind == "runs":
            self.script = self.later.pop(0) if self.runs and self.later else self.script
            thing = {**thing, "created_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **_first(self.script)}
        held.append({**thing, f"{kind[:-1]}_id": f"{kind[:-1]}-{len(held)}"})
        return 200, _told(held[-1])

    def _upload(self, query: dict, body: bytes, content_type: str) -> tuple[int, dict]:
        message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        (part,) = message.get_payload()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        if any(version["display_name"] == query["name"] for version in self.versions):
            return 409, refused("Failed to create a pipeline version")
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

    def _version(self, version: str) -> tuple[int, dict]:
        """A version with its package (server/api_util.go, YAMLStringToPipelineSpecStruct)."""
        index = [each["pipeline_version_id"] for each in self.versions].index(version)
        documents = list(yaml.load_all(self.packages[index], Loader=_Loader))
        spec = dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True)) if documents[1:] else documents[0]
        return 200, {**self.versions[index], "pipeline_spec": spec}

    def _run(self, method: str, run_id: str, verb: str = "") -> tuple[int, dict]:
        """A run in v2beta1, without what is empty (common/utils.go:153); a retry of one that has not failed is 409.

        To terminate one that has ended is refused (storage/run_store.go, TerminateRun).
        """
        found = [run for run in self.runs if run["run_id"] == run_id]
        if not found:
            return 404, {"error": "Not Found", "code": 5, "message": f"Run {run_id} not found"}
        if verb == "retry":
            if found[0]["state"] != "FAILED":
                return 409, {"error": "Aborted", "code": 10, "message": "Workflow must be Failed/Error to retry"}
            self.script = self.later.pop(0) if self.later else self.after_retry
            found[0].update(_first(self.script))
            return 200, {}
        if verb == "terminate":
            if found[0]["state"] in ENDED:
                return 400, {"code": 3, "message": f"Failed to terminate a run {run_id}. Row not found"}
            self.script = self.after_terminate
        elif len(self.script) > 1:
            self.script = self.script[1:]
        found[0].update(*self.script[:1])
        return 200, ({} if verb else _told(found[0]))

    def _detail(self, run_id: str) -> tuple[int, dict]:
        """A run in v1beta1 (server/api_converter.go, toApiRunDetailV1), as the answer before in v2beta1 has it."""
        found = [run for run in self.runs if run["run_id"] == run_id]
        if not found:
            return 404, {"error": "Not Found", "code": 5, "message": f"Run {run_id} not found"}
        workflow = found[0].get("workflow")
        text = workflow if isinstance(workflow, str) else json.dumps(workflow)
        runtime = {"pipeline_manifest": "{}", **({"workflow_manifest": text} if workflow else {})}
        return 200, {"run": {"id": run_id, "name": found[0]["display_name"]}, "pipeline_runtime": runtime}

    def _log(self, run_id: str, node: str) -> tuple[int, str]:
        """A log (server/run_log_server.go): 200 is sent before it is looked for, so a failure is told in the text.

        resource/resource_manager.go, ReadLog: first that of the pod of that name, but without users in no namespace,
        which Kubernetes refuses; then the archived one, by what the manifest says of the node unless it is compressed.
        """
        (run,) = (run for run in self.runs if run["run_id"] == run_id)
        logs = self.pod_logs if self.multi_user else {}
        if not ((run.get("workflow") or {}).get("status") or {}).get("compressedNodes"):
            logs = self.archived_logs | logs
        if node in logs:
            return 200, logs[node]
        failure = f"Failed to read logs for run {run_id}: Failed to read logs from archive {node}: no such key"
        return 200, json.dumps(refused(failure))

    def _log_of_the_ui(self, query: dict) -> tuple[int, Any]:
        """A log of the web UI's (frontend/server/handlers/pod-logs.ts)."""
        assert query["createdat"] == "2026-01-01"
        if query["podnamespace"] != argo.NAMESPACE:
            return 403, "Access denied to namespace"
        if query["podname"] not in self.pod_logs:
            return 500, "Could not get main container logs: Error: no such pod"
        return 200, self.pod_logs[query["podname"]]


def _told(thing: dict) -> dict:
    return {key: value for key, value in thing.items() if key != "workflow" and value}


def _first(script: list[dict]) -> dict:
    """How a run stands that was submitted or retried."""
    return script[0] if script else {"state": "PENDING", "finished_at": NEVER}


def _meets(thing: dict, predicate: dict) -> bool:
    key = predicate["key"]
    assert key in FIELDS
    value = predicate["timestampValue" if key.endswith("_at") else "stringValue"]
    return COMPARE[predicate["operation"]](thing.get(key, ""), value)


def _verb(method: str, path: str) -> str:
    """The verb on `runs` that a request needs (server/run_server.go:155,189,228,477); logs need none."""
    *_, first, last = ("", *path.removeprefix("v1beta1/").split("/"))
    if last == "runs":
        return {"GET": "list", "POST": "create"}[method]
    return ("retry" if last.endswith(":retry") else "get") if first == "runs" else ""


def refused(message: str) -> dict:
    """An upload or a log that is refused (server/pipeline_upload_server.go:426-435, server/run_log_server.go:70)."""
    return {"error_message": message, "error_details": f"{message}\ngithub.com/kubeflow/pipelines/backend/..."}


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
        path = url.path.removeprefix("/apis/").removeprefix("v2beta1/")
        query = dict(parse_qsl(url.query))
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
                answer = fault["answer"] or answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        kind = None if fault is None else fault["kind"]
        told = "text/plain; charset=utf-8" if isinstance(answer, str) else "application/json"
        if kubeflow.behind_ui and status == 404:
            told = "text/html"
        self._send(status, text.encode(), headers, kind, told)

    def _send(self, status: int, data: bytes, headers: dict, kind: Any, told: str) -> None:
        if kind == "slow":
            time.sleep(SLOW)
        if kind == "reset":
            self.close_connection = True
            return
        if kind == "cut":
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if kind == "page" else told)
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
    monkeypatch.setattr(backoff, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(packages, "compile_package", compile_once)
    monkeypatch.setattr(run, "INTERVAL", 0.001)
    monkeypatch.setattr(run, "PATIENCE", 4)
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    monkeypatch.setenv("SPPO_KFP_TOKEN", TOKEN)
    for name in ("SPPO_KFP_COOKIE", "KF_PIPELINES_SA_TOKEN_PATH", "MLFLOW_TRACKING_URI", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def kubernetes(kubeflow, monkeypatch, tmp_path):
    """A cluster that the kubeconfig names."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with kubernetes_api.serve(tmp_path / "kubeconfig") as held:
        yield held


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


def snapshot(state: str, *tasks: argo.Task, finished_at: str = "", **workflow: Any) -> dict:
    """A run at one moment: what v2beta1 tells of it, and its workflow; see `argo.manifest` for that."""
    return {
        "state": state,
        "finished_at": finished_at,
        "workflow": argo.manifest(*tasks, **workflow) if tasks or workflow else None,
    }
