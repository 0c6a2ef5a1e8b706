"""A Kubernetes API that answers what it holds, and a kubeconfig that names it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Cut(str):
    """A text of which the connection breaks before its end."""


class Kubernetes:
    """What it holds by path: JSON or a text; it answers 403 or 404 for what it does not."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.refused: set[str] = set()
        self.requests: list[tuple[str, dict]] = []

    def answer(self, path: str, query: dict, patch: Any = None) -> tuple[int, Any]:
        self.requests.append((path, query))
        status = 403 if path in self.refused else 200 if path in self.held else 404
        return status, self.held[path] if status == 200 else {"kind": "Status", "code": status, "message": "no"}


@contextmanager
def serve(kubeconfig: Path, held: Kubernetes | None = None) -> Iterator[Kubernetes]:
    """Start one, with what it holds, and write the kubeconfig."""
    held = held or Kubernetes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = held.answer(url.path, dict(parse_qsl(url.query)), json.loads(body or b"null"))
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if text is answer else "application/json")
            self.send_header("Content-Length", str(len(text.encode()) + isinstance(answer, Cut)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_PATCH = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    settings = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(json.dumps(settings))
    yield held
    server.shutdown()
    server.server_close()
