"""A stand-in for the Hugging Face hub: the answers that huggingface_hub 2.4 asks for, as its source reads them.

`HfApi.model_info` and `list_repo_tree`, `hf_hub_download` (HEAD with X-Repo-Commit and ETag, then GET), and ranges for
`parse_safetensors_file_metadata`; what is not there is told by X-Error-Code (`hf_raise_for_status`). Of data sets also
what datasets 5.2 asks for (`load.py`, `HubDatasetModuleFactory`): `HfFileSystem` lists folders, and asks for single
paths with POST (`get_paths_info`).
"""

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote


class Hub(ThreadingHTTPServer):
    """Repositories, each a list of commits from the oldest to the newest, and what was asked of them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Path]] = {}
        self.asked: list[tuple[str, str]] = []
        """Path and range of every GET of a file."""
        self.status = 0
        """With which every request is answered; 0: as it is to be."""
        self.headers: list[str] = []
        """The headers of every request."""
        self.elsewhere = ""
        """Another server that files are at, to which requests are redirected as the hub does for large files."""

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def push(self, repository: str, folder: Path) -> str:
        """Add a commit, which `main` is from now on."""
        commits = self.commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = folder
        return commit


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent)["paths"]
        self._answer(body=True, paths=paths)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool, paths: list[str] | None = None) -> None:
        self.server.headers.append(str(self.headers))
        path = unquote(self.path.partition("?")[0])
        api = re.fullmatch(
            r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(?:revision|tree|paths-info)/([^/]+)(?:/.*)?)?", path
        )
        file = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if self.server.status:
            return self._send(self.server.status, b"", {}, False)
        found = api or file
        repository, revision = (found[1], found[2] or "main") if found else ("", "")
        commits = self.server.commits.get(repository)
        if commits is None:
            return self._refuse("RepoNotFound")
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self._refuse("RevisionNotFound")
        if api:
            files = [path for path in sorted(commits[commit].iterdir()) if path.is_file()]
            tree = [{"type": "file", "path": each.name, "size": each.stat().st_size, "oid": "0"} for each in files]
            told = {"id": repository, "sha": commit, "siblings": [{"rfilename": each.name} for each in files]}
            tree = [each for each in tree if paths is None or each["path"] in paths]
            return self._send(
                200, json.dumps(tree if re.search("/(tree|paths-info)/", path) else told).encode(), {}, body
            )
        place = commits[commit] / file[3]
        if not place.is_file():
            return self._refuse("EntryNotFound")
        content = place.read_bytes()
        told = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if self.server.elsewhere:
            told |= {"X-Linked-ETag": told.pop("ETag"), "X-Linked-Size": str(len(content))}
            return self._send(302, b"", {**told, "Location": f"{self.server.elsewhere}{self.path}"}, body)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if body:
            self.server.asked.append((path, self.headers.get("Range", "")))
        if span:
            first, last = int(span[1]), min(int(span[2]), len(content) - 1)
            told["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], told, body)
        return self._send(200, content, told, body)

    def _refuse(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code}, False)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
