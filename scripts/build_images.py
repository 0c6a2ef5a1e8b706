"""Build the container images with docker or buildah, and write which digests were pushed.

`make images` runs this. What `--push` writes is what `sppo compile --images` reads: the image of each stage by digest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "components"))  # run as a script, before anything is installed
from sppo_components.images import REGISTRY, image

ROOT = Path(__file__).parents[1]
STAGES = ("prepare", "generate", "rank", "train", "evaluate", "publish")
NAMES = (*STAGES, "cpu")
"""One image a stage, and one that plays every stage without a GPU."""


def find_engine() -> str:
    """The program that builds: docker where its daemon answers, else buildah.

    Raises:
        SystemExit: if there is neither.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return "docker"
    if shutil.which("buildah"):
        return "buildah"
    raise SystemExit("error: neither a docker daemon nor buildah is here; start one, or apt-get install buildah")


def source_revision() -> str:
    """The commit that is checked out, marked where the working tree differs from it; "unknown" outside a checkout."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def build_command(engine: str, name: str, tag: str, revision: str, base: str | None) -> list[str]:
    """The command that builds one image from the repository's root."""
    # docker's own layer cache is always on; the docker format keeps both engines' images alike.
    command = [engine, "build", *(["--layers", "--format", "docker"] if engine == "buildah" else [])]
    command += ["--file", f"images/{name}/Dockerfile", "--tag", tag, "--build-arg", f"REVISION={revision}"]
    if base:
        command += ["--build-arg", f"PYTHON_IMAGE={base}"]
    return [*command, "."]


def push(engine: str, tag: str) -> str:
    """Push an image and give its name by digest."""
    repository = tag.rpartition(":")[0]
    if engine == "docker":
        subprocess.run(["docker", "push", tag], check=True)
        shown = subprocess.run(["docker", "image", "inspect", tag], check=True, capture_output=True, text=True).stdout
        return f"{repository}@{digest_of(repository, json.loads(shown)[0]['RepoDigests'])}"
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as digest:
        subprocess.run(["buildah", "push", "--digestfile", digest.name, tag], check=True)
        return f"{repository}@{digest.read().strip()}"


def digest_of(repository: str, names: Iterable[str]) -> str:
    """The digest of a pushed image, of its names by digest; docker leaves out its own registry's name there."""
    known = {repository, repository.removeprefix("docker.io/").removeprefix("library/")}
    return next(digest for name, _, digest in (each.partition("@") for each in names) if name in known)


def merged(path: Path, images: Mapping[str, str], registry: str) -> dict[str, str]:
    """The images of a registry that an images file names, with those that were pushed now in the place of theirs."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = (line.split(": ", 1) for line in lines if ": " in line)
    return {**{stage: image for stage, image in named if image.startswith(f"{registry}/")}, **images}


def stage_maps(pushed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Images files by name: every stage in its own image, and every stage in the one without a GPU."""
    own = {stage: pushed[stage] for stage in STAGES if stage in pushed}
    without_gpu = {stage: pushed["cpu"] for stage in STAGES if "cpu" in pushed}
    return {name: images for name, images in {"images.yaml": own, "images-cpu.yaml": without_gpu}.items() if images}


def main() -> None:
    """Build, and where asked push and write the images files."""
    parser = argparse.ArgumentParser(description="Build the container images with docker or buildah.")
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=f"which: {', '.join(NAMES)}")
    parser.add_argument("--registry", default=REGISTRY, help="registry and organisation; default: %(default)s")
    parser.add_argument("--base", help="base image with Python 3.11, instead of the Dockerfiles' own")
    parser.add_argument("--revision", default=source_revision(), help="the commit that the images are labelled with")
    parser.add_argument("--push", action="store_true", help="push them, and write their digests")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder of the images files")
    wanted = parser.parse_args()
    engine = find_engine()
    tags = {name: image(name, wanted.registry) for name in wanted.names}
    for name, tag in tags.items():
        print(f"building {tag} with {engine}", flush=True)
        subprocess.run(build_command(engine, name, tag, wanted.revision, wanted.base), cwd=ROOT, check=True)
    if not wanted.push:
        print("Built. A digest exists once an image is pushed: PUSH=1 pushes them and writes the images files.")
        return
    maps = stage_maps({name: push(engine, tag) for name, tag in tags.items()})
    wanted.output.mkdir(parents=True, exist_ok=True)
    for file, images in maps.items():
        named = merged(wanted.output / file, images, wanted.registry)
        text = "".join(f"{stage}: {image}\n" for stage, image in named.items())
        (wanted.output / file).write_text(text, encoding="utf-8")
        print(f"wrote {wanted.output / file}; sppo compile --images {wanted.output / file} uses it")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:  # it has said why
        raise SystemExit(f"error: {' '.join(failed.cmd[:2])} ended with {failed.returncode}") from None
