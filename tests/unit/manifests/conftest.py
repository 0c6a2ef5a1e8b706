"""The manifests as kustomize renders them, each overlay as it is and with its optional components put in."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import documents

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
SERVERS = {"Deployment", "StatefulSet"}
Manifest = dict[str, Any]


class Pod(NamedTuple):
    """A pod template and where it comes from."""

    owner: str
    kind: str
    namespace: str
    labels: dict[str, str]
    spec: Manifest
    copies: int

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


class Rendered:
    """The objects of one overlay."""

    def __init__(self, text: str) -> None:
        self.objects: list[Manifest] = documents(text)
        self.runs: str = self.one("ServiceAccount", "sppo-runner")["metadata"]["namespace"]

    def of(self, *kinds: str) -> list[Manifest]:
        return [item for item in self.objects if item["kind"] in kinds]

    def one(self, kind: str, name: str) -> Manifest:
        """The object of a name, which may have got a suffix from its content."""
        found = [item for item in self.of(kind) if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", item["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name}: {len(found)}"
        return found[0]

    def names(self, kind: str) -> set[tuple[str, str]]:
        """Namespace and name of every object of a kind."""
        return {(item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in self.of(kind)}

    def pods(self) -> Iterator[Pod]:
        for item in self.of(*SERVERS, "Job", "CronJob"):
            template = item["spec"].get("jobTemplate", item)["spec"]["template"]
            owner, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
            labels, copies = template["metadata"]["labels"], item["spec"].get("replicas", 1)
            yield Pod(owner, item["kind"], namespace, labels, template["spec"], copies)


def render(folder: Path) -> Rendered:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, to render kustomizations")
    command = ["kubectl", "kustomize", str(folder)]
    return Rendered(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def put_in(path: Path) -> int:
    """Take the # off the entries that a file offers as comments; how many there were."""
    text, count = re.subn(r"^( +)# (- \S)", r"\1\2", path.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    return count


@pytest.fixture(scope="session", params=[f"{name}{more}" for name in OVERLAYS for more in ("", "+optional")])
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """An overlay; "+optional" is what it becomes where somebody puts in all that it offers as a comment."""
    name, _, optional = request.param.partition("+")
    if not optional:
        return render(MANIFESTS / "overlays" / name)
    copy = tmp_path_factory.mktemp(name) / "manifests"
    shutil.copytree(MANIFESTS, copy)
    path = copy / "overlays" / name / "kustomization.yaml"
    assert put_in(path) >= 2
    path.write_text(path.read_text().replace("  - ../../components/pipeline-root\n", ""))
    return render(path.parent)


@pytest.fixture
def overlay(tmp_path: Path) -> Callable[..., Rendered]:
    """Renders one overlay by its name, with the one entry put in that each file named after it offers as a comment."""

    def work(name: str, *files: str) -> Rendered:
        copy = shutil.copytree(MANIFESTS, tmp_path / "manifests")
        assert all(put_in(copy / file) == 1 for file in files)
        return render(copy / "overlays" / name)

    return work


@pytest.fixture(scope="session")
def mlflow() -> Manifest:
    """The pod of the MLflow server, to be spoiled."""
    return next(pod for pod in render(MANIFESTS / "overlays" / "standalone").pods() if pod.owner == "mlflow").spec


@pytest.fixture(scope="session")
def manifests() -> Path:
    return MANIFESTS
