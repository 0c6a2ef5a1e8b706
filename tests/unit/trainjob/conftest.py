"""A server of the Kubernetes API, and a client that waits milliseconds instead of seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sppo.training.workers.trainjob import backoff, client, follow, pods
from tests.unit.trainjob.server import TOKEN, serve
from tests.unit.trainjob.state import NAMESPACE, Api


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server with nothing in it, which KUBECONFIG names; the client waits milliseconds instead of seconds."""
    held = Api()
    server = serve(held)
    held.port = server.server_port
    held.server = server
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for module, name, value in [
        (backoff, "FIRST_WAIT", 0.01),
        (backoff, "LONGEST_WAIT", 0.05),
        (client, "PATIENCE", 5.0),
        (client, "WATCH", 1),
        (follow, "FIRST_PAUSE", 0.01),
        (follow, "LONGEST_PAUSE", 0.05),
        (follow, "INTERVAL", 0.02),
        (pods, "PAUSE", 0.02),
        (pods, "DRAIN", 5.0),
    ]:
        monkeypatch.setattr(module, name, value)
    yield held
    held.server.shutdown()
    held.server.server_close()
