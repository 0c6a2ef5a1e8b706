"""A language model behind an endpoint for chat completions as OpenAI defined it, and as vLLM and many others serve it.

https://platform.openai.com/docs/api-reference/chat: `logprobs` and `top_logprobs` give the most likely first tokens.

The client is urllib3 and not the package `openai`, which sends headers that `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID` and
`OPENAI_CUSTOM_HEADERS` name to whatever endpoint it is given, and takes a second of CPU to import. It also gives up
where a server asks for more than two minutes, and a failure does not tell how many requests it took.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import urllib3

from sppo.config.sections.judge import LlmJudgeConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.judging.llm.hosts import check_key_may_go, is_loopback
from sppo.judging.llm.verdict import Reply, read_letters

T = TypeVar("T")

KEY = "SPPO_JUDGE_KEY"
"""Environment variable with the endpoint's key; without it, none is sent. Where it may go: `sppo.judging.llm.hosts`."""
_FORM = "write openai:MODEL@https://HOST/v1"
_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 300  # seconds that a server may ask to be left alone


class Place(NamedTuple):
    """What `openai:MODEL@URL` names."""

    model: str
    url: str


def parse(uri: str, key: str = "preference_model") -> Place:
    """Take an endpoint's URI apart.

    Args:
        uri: the URI.
        key: the setting that holds it, for messages.

    Raises:
        ConfigError: if it is written in another way, or holds a password.
    """
    match = re.fullmatch(r"openai:(.+?)@(https?://.+)", uri)
    if match is None:
        raise ConfigError(f"{key}: not the URI of an endpoint; {_FORM}")
    parts = urlsplit(match[2])
    if parts.username or parts.password:
        raise ConfigError(f"{key}: the address holds a user or password; give the key as {KEY}")
    if not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{uri}: no address such as https://host/v1; {_FORM}")
    return Place(match[1], match[2].rstrip("/"))


def read_key(url: str, named_by: str = "preference_model") -> str:
    """The key for an endpoint; empty where there is none.

    Args:
        url: where it would go.
        named_by: the setting that holds the address, for messages.

    Raises:
        ConfigError: if it cannot be one, or may not go there.
    """
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY}: holds characters that no key has; set it again")
    if key:
        check_key_may_go(url, named_by, KEY)
    return key


class Endpoint:
    """Implements `sppo.judging.llm.verdict.Asker` over HTTP, within the limits of the configuration."""

    def __init__(self, uri: str, settings: LlmJudgeConfig, key: str = "preference_model") -> None:
        """Read the key; nothing is sent.

        Args:
            uri: where it is.
            settings: its limits.
            key: the setting that holds the URI, for messages.

        Raises:
            ConfigError: if the URI is no endpoint's, or the key cannot be one or may not go there.
        """
        self.name, self.settings, self.place, self._named_by = uri, settings, parse(uri, key), key
        self._key = read_key(self.place.url, key)
        self._pool = self._connect()
        self._lock = threading.Lock()
        self._requests = self._retries = 0
        self._cost = self._next = 0.0

    def ask(self, messages: Sequence[str]) -> Iterator[tuple[int, Reply]]:
        """See `Asker.ask`; after a failure nothing more is sent.

        Raises:
            ConfigError: if a limit would be exceeded, or the endpoint refuses the key, the model or a request.
            InfrastructureError: if it cannot be reached, or fails in spite of repetitions.
        """
        bodies = [
            {
                "messages": [{"role": "user", "content": message}],
                "max_tokens": 1,
                "temperature": 1.0,  # the model's own distribution, also where a server samples before it reports
                "logprobs": True,
                "top_logprobs": self.settings.top_logprobs,
            }
            for message in messages
        ]
        return self.complete(bodies, lambda answer: _read(answer, self.place.url))

    def complete(self, bodies: Sequence[Mapping[str, Any]], read: Callable[[Any], T]) -> Iterator[tuple[int, T]]:
        """What is read from the completions that some requests ask for, each with the request's number, in any order.

        Args:
            bodies: the requests, without the model.
            read: takes a completion apart.

        Raises:
            SppoError: as `ask`, or as `read`.
        """
        self._afford(len(bodies))
        failure: BaseException | None = None
        workers = ThreadPoolExecutor(self.settings.concurrency)
        try:
            rows = {workers.submit(self._complete, body, read): row for row, body in enumerate(bodies)}
            for future in as_completed(rows):
                error = None if future.cancelled() else future.exception()
                if error is not None and failure is None:
                    failure = error
                    for other in rows:
                        other.cancel()
                if error is None and not future.cancelled():
                    yield rows[future], future.result()
        finally:
            workers.shutdown(cancel_futures=True)
        if failure is not None:
            raise failure

    def figures(self) -> dict[str, float]:
        """Sums: requests, repetitions among them, and what they cost by the prices of the configuration."""
        return {"requests": float(self._requests), "retries": float(self._retries), "cost": self._cost}

    def _connect(self) -> urllib3.PoolManager:
        wanted = self.settings
        retry = urllib3.Retry(
            total=wanted.retries,
            allowed_methods=None,  # asking twice does no harm but for its cost
            status_forcelist=_AGAIN,
            backoff_factor=1.0,
            backoff_jitter=1.0,
            backoff_max=60.0,
            retry_after_max=_LONGEST_WAIT,
            raise_on_status=False,
            redirect=False,  # which could carry the key elsewhere
        )
        options: dict[str, Any] = {"maxsize": wanted.concurrency, "timeout": wanted.timeout, "retries": retry}
        parts = urlsplit(self.place.url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        # A proxy would be told the key where the address is this machine and the scheme plain http.
        here = is_loopback(urllib3.util.parse_url(self.place.url))
        if proxy is None or here or urllib.request.proxy_bypass(parts.netloc):
            return urllib3.PoolManager(**options)
        return urllib3.ProxyManager(proxy, **options)

    def _afford(self, count: int) -> None:
        """Refuse work that the limits do not allow, before any of it is paid for."""
        limit = self.settings.max_requests
        if self._requests + count > limit:
            raise ConfigError(
                f"judge.llm.max_requests: {count} more requests would make {self._requests + count}, {limit} are "
                "allowed; raise it, or ask for fewer comparisons"
            )
        if 0 < self.settings.max_cost <= self._cost:
            raise ConfigError(
                f"judge.llm.max_cost: {self._cost:.2f} are spent, {self.settings.max_cost:.2f} are allowed; raise it, "
                "or ask for fewer comparisons"
            )

    def _complete(self, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        with self._lock:
            self._afford(1)
            self._requests += 1
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 1 / self.settings.requests_per_second
        time.sleep(turn - now)
        answer = self._post({"model": self.place.model, **body})
        result = read(answer)
        tokens = usage(answer)
        price = self.settings.prompt_price, self.settings.completion_price
        with self._lock:
            self._cost += (tokens[0] * price[0] + tokens[1] * price[1]) / 1e6
        return result

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url = f"{self.place.url}/chat/completions"
        try:
            answer = self._pool.request("POST", url, body=json.dumps(body), headers=headers)
        except urllib3.exceptions.HTTPError as error:
            self._count(self.settings.retries)
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigError(
                    f"{self.place.url}: its certificate is not trusted; set SSL_CERT_FILE to a file with its authority"
                ) from None
            reason = getattr(error, "reason", None) or error
            raise InfrastructureError(
                f"{url}: no answer in {self.settings.retries + 1} tries ({type(reason).__name__}); run again later"
            ) from None
        self._count(len(answer.retries.history) if answer.retries else 0)
        if answer.status != 200:
            self._refuse(answer.status, answer.data)
        try:
            return json.loads(answer.data)
        except ValueError:
            raise InfrastructureError(f"{url}: the answer is not JSON; run again, or correct the address") from None

    def _count(self, retries: int) -> None:
        with self._lock:
            self._requests += retries
            self._retries += retries

    def _refuse(self, status: int, data: bytes) -> None:
        told = f"{self.place.url}: {status}"
        if status in {401, 403}:
            raise ConfigError(f"{told}: refuses the key; set {KEY} to one that may use {self.place.model}")
        said = " ".join(data.decode("utf-8", "replace").split())
        said = "".join(filter(str.isprintable, said.replace(self._key, "***") if self._key else said))[:300]
        if status in _AGAIN or status >= 500:
            raise InfrastructureError(f"{told} in {self.settings.retries + 1} tries ({said}); run again later")
        raise ConfigError(f"{told} for the model {self.place.model!r} ({said}); correct {self._named_by} or judge.llm")


def usage(answer: Any) -> tuple[int, int]:
    """Tokens that a completion says were read and written; 0 where it does not say."""
    told = answer.get("usage") or {}
    return int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)


def text_of(answer: Any, url: str) -> str:
    """What a completion says.

    Args:
        answer: the completion.
        url: where it comes from, for the message.

    Raises:
        InfrastructureError: if it is no completion.
    """
    try:
        return str(answer["choices"][0]["message"]["content"] or "")
    except (LookupError, TypeError) as error:
        raise InfrastructureError(f"{url}: the answer is no chat completion ({error}); run again") from None


def _read(answer: Any, url: str) -> Reply:
    """The first token's distribution and the usage from a completion.

    Raises:
        ConfigError: if the endpoint gives no log-probabilities.
        InfrastructureError: if it is no completion.
    """
    try:
        logprobs = answer["choices"][0].get("logprobs")
        content = logprobs.get("content") if logprobs else None
        # An empty list is a reply that ended before it began.
        if content is None or any(not token.get("top_logprobs") for token in content[:1]):
            raise ConfigError(f"{url}: gives no top_logprobs; choose a model and a server that do")
        listed = content[0]["top_logprobs"] if content else []
        letters, bound = read_letters((str(top["token"]), float(top["logprob"])) for top in listed)
        return Reply(letters, bound, *usage(answer))
    except ConfigError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InfrastructureError(f"{url}: the answer is no chat completion ({error}); run again") from None
