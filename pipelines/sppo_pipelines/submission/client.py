"""Kubeflow Pipelines' REST API: sign in, ask, and ask again where the network or the server fails.

The routes and fields are those of https://www.kubeflow.org/docs/components/pipelines/reference/api/. The generated
client, `kfp_server_api`, is not used: where an answer is cut off it returns an empty object instead of an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import requests

from sppo.errors import ConfigError, InfrastructureError
from sppo.training.workers.trainjob.backoff import seconds_to_wait
from sppo_pipelines.submission.credentials import Credentials

VERSION = "v2beta1"
"""The version of the API that has nearly everything."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and to wait for more of an answer."""
ATTEMPTS = 6
"""How often a request is tried."""
TEXT_ATTEMPTS = 2
"""The same of a text, such as a log: what has none answers with a failure of the server's."""
EQUALS, GREATER_THAN, GREATER_THAN_EQUALS = 1, 3, 5
"""Operations of a filter (backend/api/v2beta1/filter.proto)."""
PAGE = "100"
"""Runs that are asked for at once; the server gives 200 at most."""

Json = dict[str, Any]


class Fault(Exception):
    """A request that may succeed when it is sent again, and whose effect is unknown."""

    def __init__(self, message: str, retry_after: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Client:
    """A connection to one Kubeflow Pipelines server."""

    def __init__(self, host: str, namespace: str = "") -> None:
        """Read the credentials; nothing is sent.

        Args:
            host: address of the server, such as https://kubeflow.example.org/pipeline.
            namespace: the user's profile namespace, where Kubeflow has users.

        Raises:
            ConfigError: for an address that is none or holds a password, or a malformed token or cookie.
        """
        try:
            parts = urlsplit(host)
        except ValueError as error:
            raise ConfigError(f"host: {host!r}: {error}; give one such as https://kubeflow.example.org") from None
        if parts.username or parts.password:
            raise ConfigError("host: the address holds a user or password; give those as SPPO_KFP_TOKEN or _COOKIE")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise ConfigError(f"host: {host!r} is no address such as https://kubeflow.example.org/pipeline")
        self.host = host.partition("#")[0].rstrip("/")
        self.namespace = namespace
        self.credentials = Credentials()
        self.session = requests.Session()
        self.session.auth = self.credentials

    def run_url(self, run_id: str) -> str:
        """The page of a run in the UI."""
        return f"{self.host}/#/runs/details/{run_id}"

    def get(self, path: str, params: Json | None = None, attempts: int = 0, version: str = VERSION) -> Json:
        """Ask for something, several times if need be.

        Args:
            path: the route after the version.
            params: parameters of the request.
            attempts: how often it is tried; 0 for `ATTEMPTS`.
            version: the version of the API.

        Raises:
            InfrastructureError: if every try failed, or the server refuses.
            ConfigError: where another command or environment is needed.
        """
        return self._persist(lambda: self.once("GET", path, version, params=params), attempts or ATTEMPTS)

    def text(self, path: str, params: Json | None = None) -> str | None:
        """A text of the server's, or None where it has no such route.

        Args:
            path: the route after the host.
            params: parameters of the request.

        Raises:
            InfrastructureError, ConfigError: as `get`.
        """

        def attempt() -> str | None:
            answer, what = self._send("GET", path, params=params)
            if answer.status_code == 404 or (answer.ok and "html" in answer.headers.get("Content-Type", "")):
                return None
            if answer.status_code != 200:
                self._refuse(answer, what)
            return answer.content.decode(errors="replace")

        text: str | None = self._persist(attempt, TEXT_ATTEMPTS)
        return text

    def ensure(self, find: Callable[[], Json | None], path: str, **content: Any) -> tuple[Json, bool]:
        """What `find` gives, or else what a POST makes; an answer that is lost leads to no second one.

        Returns:
            The thing, and whether this call made it.

        Raises:
            InfrastructureError, ConfigError: as `get`.
        """
        tried = False

        def attempt() -> tuple[Json, bool]:
            nonlocal tried
            found = find()
            if found is not None:
                return found, tried
            tried = True
            return self.once("POST", path, **content), True

        return self._persist(attempt, ATTEMPTS)

    def newest(self, path: str, kind: str, name: str, **params: str) -> Json | None:
        """The newest thing with a display name, or None; asked for once, for `ensure`.

        Args:
            path: the route that lists them.
            kind: the field of the answer that holds them.
            name: the display name.
            params: further parameters of the request.

        Raises:
            Fault: if it may succeed when it is asked for again.
        """
        wanted = {"operation": EQUALS, "key": "display_name", "stringValue": name}
        query = {"filter": json.dumps({"predicates": [wanted]}), "sort_by": "created_at desc", "page_size": "1"}
        found = self.once("GET", path, params=query | params).get(kind) or []
        return found[0] if found else None

    def runs(self, *wanted: Json) -> Iterator[Json]:
        """The runs of the namespace that meet all conditions, page by page, the newest first.

        Args:
            wanted: each an `operation`, a `key` and a value, as a Predicate of the API's filter.

        Raises:
            InfrastructureError, ConfigError: as `get`.
        """
        query = {"filter": json.dumps({"predicates": wanted}), "sort_by": "created_at desc", "page_size": PAGE}
        query |= {"namespace": self.namespace} if self.namespace else {}
        while True:
            page = self.get("runs", query)
            yield from page.get("runs") or []
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    def _persist(self, send: Callable[[], Any], attempts: int) -> Any:
        for tries in range(1, attempts + 1):
            try:
                return send()
            except Fault as fault:
                if tries == attempts:
                    raise InfrastructureError(f"{fault} ({attempts} tries); try again later") from None
                time.sleep(seconds_to_wait(tries, fault.retry_after))
        raise AssertionError("no attempt")

    def once(self, method: str, path: str, version: str = VERSION, **content: Any) -> Json:
        """Send one request.

        Args:
            method: GET or POST.
            path: the route after the version.
            version: the version of the API.
            content: `params`, `json` or `files`, as `requests` takes them.

        Raises:
            Fault: if it may succeed when it is sent again.
            InfrastructureError, ConfigError: as `get`.
        """
        answer, what = self._send(method, f"/apis/{version}/{path}", **content)
        if answer.status_code != 200:
            self._refuse(answer, what)
        if "html" in answer.headers.get("Content-Type", ""):
            raise ConfigError(
                f"{self.host}: answers with a web page, not the API; {self._sign_in()}, or correct --host "
                "(often it ends in /pipeline)"
            )
        try:
            parsed = answer.json() if answer.content.strip() else {}
        except ValueError:
            raise Fault(f"{what}: the answer was cut off") from None
        if not isinstance(parsed, dict):
            raise Fault(f"{what}: the answer is no JSON object")
        return parsed

    def _send(self, method: str, path: str, **content: Any) -> tuple[requests.Response, str]:
        """The answer to one request, and what was asked, for messages."""
        what = f"{self.host}: {method} {path.removeprefix(f'/apis/{VERSION}/').partition('?')[0]}"
        try:
            answer = self.session.request(
                method, f"{self.host}{path}", timeout=TIMEOUT, allow_redirects=False, **content
            )
        except requests.Timeout:
            raise Fault(f"{what}: no answer within {TIMEOUT[1]:g} s") from None
        except requests.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigError(
                    f"{self.host}: its certificate is not trusted; set REQUESTS_CA_BUNDLE to a file with its authority"
                ) from None
            raise Fault(f"{what}: {_cause(error)}") from None
        except OSError as error:  # requests looks for the file of authorities before it connects
            if "CA certificate bundle" not in str(error):
                raise
            raise ConfigError(f"REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE: {error}") from None
        return answer, what

    def _refuse(self, answer: requests.Response, what: str) -> None:
        status = answer.status_code
        told = f"{what}: {status} {self._message(answer)}".rstrip()
        if 300 <= status < 400 or status == 401:
            kind = InfrastructureError if self.credentials.given() else ConfigError
            raise kind(f"{told}; {self._sign_in()}")
        if status == 403:
            place = f"namespace {self.namespace}" if self.namespace else "that namespace (--namespace chooses one)"
            raise InfrastructureError(f"{told}; ask for the edit role in {place}")
        if status == 404:
            raise ConfigError(f"{told}; correct the name, or --host (often it ends in /pipeline)")
        if status in {408, 409, 425, 429} or status >= 500:
            raise Fault(told, answer.headers.get("Retry-After", ""))
        raise ConfigError(told)

    def _message(self, answer: requests.Response) -> str:
        try:
            body = answer.json()
        except ValueError:
            plain = answer.headers.get("Content-Type", "").startswith("text/plain")
            body = {"message": answer.text if plain else answer.reason}
        # An upload is refused with `error_message` (backend/src/apiserver/server/pipeline_upload_server.go:426-435).
        names = ("message", "error_message", "error")
        text = next(filter(None, map(body.get, names)), "") if isinstance(body, dict) else ""
        line = " ".join(str(text or "").split())
        return self.credentials.hide("".join(filter(str.isprintable, line)))[:300]

    def _sign_in(self) -> str:
        if self.credentials.file is not None:
            return f"the token in {self.credentials.file} is not accepted: its audience must be pipelines.kubeflow.org"
        if self.credentials.given():
            return "SPPO_KFP_TOKEN or SPPO_KFP_COOKIE is wrong or has expired: set a new one"
        return "sign in: set SPPO_KFP_TOKEN (a bearer token) or SPPO_KFP_COOKIE (such as authservice_session=…)"


def _cause(error: BaseException) -> str:
    """What the operating system said, or else the kind of failure; the whole text may hold a proxy's password."""
    below: BaseException | None = error
    while below is not None:
        told = getattr(below, "strerror", None)
        if told:
            return str(told)
        below = below.__cause__ or below.__context__
    return "the answer was cut off" if isinstance(error, requests.exceptions.ChunkedEncodingError) else "no connection"
