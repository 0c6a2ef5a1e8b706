"""Who asks: a bearer token, a cookie, or the token that Kubernetes gives a pod."""

from __future__ import annotations

import os
from pathlib import Path

import requests

from sppo.errors import ConfigError

SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
"""Where a pod finds the token that Kubernetes made for Kubeflow Pipelines, unless KF_PIPELINES_SA_TOKEN_PATH says."""


class Credentials(requests.auth.AuthBase):
    """What identifies the user: from the environment or the pod, never from the command line."""

    def __init__(self) -> None:
        self.token = _one_line("SPPO_KFP_TOKEN")
        self.cookie = _one_line("SPPO_KFP_COOKIE")
        path = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", SERVICE_ACCOUNT_TOKEN))
        self.file = path if not self.token and not self.cookie and path.is_file() else None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """A request with them; also keeps `requests` from taking a password out of a .netrc instead."""
        if self.file is not None:
            self.token = self.file.read_text().strip()  # read each time: Kubernetes renews it
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        if self.cookie:
            request.headers["Cookie"] = self.cookie
        return request

    def given(self) -> bool:
        """Whether there are any."""
        return bool(self.token or self.cookie or self.file)

    def hide(self, text: str) -> str:
        """A text without them: servers and proxies quote what they refuse."""
        parts = [part.partition("=")[2] for part in self.cookie.split(";")]
        for secret in (self.token, self.cookie, *parts):
            text = text.replace(secret, "***") if len(secret) > 3 else text
        return text


def _one_line(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value.isprintable() or not value.isascii():
        raise ConfigError(f"{name}: holds a character that no HTTP header may hold; set it to the bare value")
    return value
