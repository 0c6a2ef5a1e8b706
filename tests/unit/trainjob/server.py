"""A server that answers those calls of the Kubernetes API that a TrainJob needs, over HTTP, and fails on demand."""

import base64
import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.unit.trainjob.state import JOBS, PODS, Api

_CLAIMS = {"kubernetes.io": {"serviceaccount": {"name": "sppo-runner"}}}
TOKEN = f"e30.{base64.urlsafe_b64encode(json.dumps(_CLAIMS).encode()).decode().rstrip('=')}.secret-signature"
REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 410: "Expired", 422: "Invalid"}
MERGE_PATCH = "application/merge-patch+json"


def status(code: int, message: str, reason: str = "") -> dict:
    """A failure as the API tells it."""
    reason = reason or REASONS.get(code, "InternalError")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def do_PATCH(self) -> None:
        self._do("PATCH")

    def do_DELETE(self) -> None:
        self._do("DELETE")

    def log_message(self, *_: object) -> None:
        pass

    def _do(self, method: str) -> None:
        api, url = self.api, urlsplit(self.path)
        query, body = dict(parse_qsl(url.query)), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = "WATCH" if query.get("watch") in {"true", "True"} else method
        content = json.loads(body) if body else None
        with api.changed:
            request = SimpleNamespace(method=method, path=url.path, query=query, json=content, at=time.monotonic())
            api.requests.append(request)
            line = f"{method} {url.path}"
            fault = next((f for f in api.faults if line.startswith(f["where"]) and f["times"]), None)
            if fault is not None:
                fault["times"] -= 1
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if (scheme.lower(), token) != ("bearer", TOKEN):
            return self._json(401, status(401, "Unauthorized"))
        if fault is not None and fault["late"]:
            self._act(method, url.path, content, {})
        kind = fault["kind"] if fault is not None else None
        if isinstance(kind, threading.Event):
            kind.wait(30)
            kind = "reset" if fault["late"] else None
        if kind == "reset":
            self.close_connection = True
            return None
        if kind is not None:
            return self._json(kind, status(kind, f"injected {kind}"), fault["headers"])
        return self._act(method, url.path, content, query, answer=True)

    def _act(self, method: str, path: str, content: Any, query: dict, answer: bool = False) -> None:
        if path.startswith("/apis") and not self.api.installed:
            self._bytes(404, b"404 page not found\n", "text/plain")
            return
        if method == "WATCH":
            self._watch(path, query)
            return
        if path.endswith("/log"):
            self._log(path.split("/")[-2], query)
            return
        with self.api.changed:
            code, thing = self._answer(method, path, content, query)
        if answer:
            self._json(code, thing)

    def _answer(self, method: str, path: str, content: Any, query: dict) -> tuple[int, dict]:
        api, kind = self.api, JOBS if path.startswith(JOBS) else PODS
        name = path.removeprefix(kind).strip("/")
        held = api.objects[kind]
        if method == "POST":
            name = content["metadata"]["name"]
            if name in held:
                return 409, status(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
            made = api.put(kind, copy.deepcopy(content))
            threading.Thread(target=api.on_create, args=(made,), daemon=True).start()
            return 201, made
        if not name:
            items = [thing for thing in held.values() if chosen(thing, query)]
            return 200, {"kind": "List", "metadata": {"resourceVersion": str(api.version)}, "items": items}
        if name not in held:
            return 404, status(404, f'"{name}" not found')
        if method == "DELETE":
            return self._delete(held[name], content or {})
        if method == "PATCH":
            return self._patch(held[name], content)
        return 200, held[name]

    def _delete(self, job: dict, options: dict) -> tuple[int, dict]:
        wanted, uid = (options.get("preconditions") or {}).get("uid"), job["metadata"]["uid"]
        if wanted not in {None, uid}:
            return conflict(job, f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}")
        self.api.delete(job["metadata"]["name"], foreground=options["propagationPolicy"] == "Foreground")
        return 200, status(200, "deleted")

    def _patch(self, job: dict, change: dict) -> tuple[int, dict]:
        """A merge patch; one that has a resourceVersion is for that version only.

        As pkg/endpoints/handlers/patch.go and pkg/registry/generic/registry/store.go of k8s.io/apiserver 0.34.4 do it.
        """
        if self.headers["Content-Type"] != MERGE_PATCH:
            return 415, status(415, f"the body of the request was in an unknown format - accepted: {MERGE_PATCH}")
        patched = merged(job, change)
        if patched["metadata"]["resourceVersion"] != job["metadata"]["resourceVersion"]:
            again = "please apply your changes to the latest version and try again"
            return conflict(job, f"the object has been modified; {again}")
        return 200, self.api.put(JOBS, patched)

    def _watch(self, path: str, query: dict) -> None:
        api, since = self.api, int(query["resourceVersion"])
        self._begin("application/json")
        if since < api.oldest:
            self._chunk({"type": "ERROR", "object": status(410, "too old resource version")})
            return self._end()
        bookmark = {"metadata": {"resourceVersion": str(since)}}
        self._chunk({"type": "BOOKMARK", "object": bookmark})
        end, cut = time.monotonic() + float(query["timeoutSeconds"]), api.cut
        while time.monotonic() < end and api.cut == cut:
            with api.changed:
                news = [e for e in api.events if e[0] > since and e[1] == path and chosen(e[3], query)]
                if not news:
                    api.changed.wait(0.05)
            for version, _, kind, thing in news:
                self._chunk({"type": kind, "object": thing})
                since = version
        if api.cut == cut:
            return self._end()
        self.wfile.write(b"50\r\n{half of")  # a chunk that is announced longer than it is
        self.close_connection = True
        return None

    def _log(self, pod: str, query: dict) -> None:
        api = self.api
        if pod not in api.logs:
            return self._json(400, status(400, f'container "node" in pod "{pod}" is waiting to start'))
        assert query["container"] == "node"
        if "tailLines" in query:
            lines = [line.partition(" ")[2] for line in api.logs[pod][-int(query["tailLines"]) :]]
            return self._bytes(200, "\n".join(lines).encode(), "text/plain")
        assert query["follow"] == "True" and query["timestamps"] == "True"
        self._begin("text/plain")
        shown, cut = 0, api.cut
        while api.cut == cut:
            with api.changed:
                news, open_ = api.logs[pod][shown:], pod in api.open_logs
                if not news and open_:
                    api.changed.wait(0.05)
            for line in news:
                self._text(line + "\n")
            shown += len(news)
            if not open_ and not news:
                return self._end()
        self.close_connection = True
        return None

    def _begin(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, thing: dict) -> None:
        self._text(json.dumps(thing) + "\n")

    def _text(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, code: int, thing: dict, headers: dict | None = None) -> None:
        self._bytes(code, json.dumps(thing).encode(), "application/json", headers)

    def _bytes(self, code: int, data: bytes, content_type: str, headers: dict | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def conflict(job: dict, why: str) -> tuple[int, dict]:
    """The answer to a request that an object is no longer fit for."""
    name = job["metadata"]["name"]
    told = f'Operation cannot be fulfilled on trainjobs.trainer.kubeflow.org "{name}": {why}'
    return 409, status(409, told, "Conflict")


def merged(thing: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    whole = copy.deepcopy(thing) if isinstance(thing, dict) else {}
    for name, part in change.items():
        if part is None:
            whole.pop(name, None)
        else:
            whole[name] = merged(whole.get(name), part)
    return whole


def chosen(thing: dict, query: dict) -> bool:
    """Whether a selector of a request takes an object."""
    label, _, value = query.get("labelSelector", "").partition("=")
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    metadata = thing["metadata"]
    return (not label or metadata.get("labels", {}).get(label) == value) and name in {"", metadata["name"]}


class Server(ThreadingHTTPServer):
    """Ends its connections when it is closed, as a process that is killed does."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def serve(api: Api, port: int = 0) -> Server:
    """Start a server on what an `Api` holds."""
    server = Server(("127.0.0.1", port), type("Bound", (Handler,), {"api": api}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
