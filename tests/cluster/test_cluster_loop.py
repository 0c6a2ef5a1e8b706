"""Two iterations of two shards, and a pod that is deleted meanwhile: what it costs Argo, and that it comes back."""

import pytest
from sppo_pipelines import size
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.profile import load_profile
from sppo_pipelines.submission.progress import tasks

from tests.backend import nodes as expected
from tests.backend.expected import Course
from tests.backend.package import load
from tests.backend.player import Run, play
from tests.cluster.measure import drivers_between, size_of
from tests.conftest import lineage_of

BACK = 120
"""Seconds within which a deleted pod is back."""
PAIRS = [("prepare", "generate"), ("generate", "rank"), ("rank", "train"), ("train", "evaluate")]
PAIRS += [("evaluate", "generate"), ("evaluate", "keep"), ("keep", "publish")]


@pytest.fixture(scope="session")
def foreseen(settings, tmp_path_factory) -> Run:
    """The same run, played by the backend's rules without a cluster."""
    path = tmp_path_factory.mktemp("package") / "sppo.yaml"
    compile_pipeline(path, 3, str(settings.profile))
    return play(load(path), {"output_uri": "s3://runs/a"}, Course(iterations=2, shards=2).outputs())


def test_two_iterations_of_two_shards_end_with_0(disturbed, runs, stored, seen):
    assert disturbed.result.code == 0
    played = tasks(runs.look(disturbed.run.run_id).workflow)
    sharded = [(task.key.name, task.key.iteration, task.key.shard) for task in played if task.key.shard is not None]
    assert sharded == [(name, t, shard) for t in (1, 2) for name in ("generate", "rank") for shard in (0, 1)]
    place = disturbed.run.output_uri
    assert stored.manifest(place, lineage_of(place).model_key(2)) is not None
    first, last = min(task.started for task in played), max(task.ended for task in played)
    seen(f"{(last - first).total_seconds() / 60:.0f} minutes from the first stage to the last")


def test_a_pod_that_is_deleted_in_train_is_back_within_two_minutes(disturbed, seen):
    assert disturbed.back <= BACK
    assert disturbed.result.code == 0
    seen(f"{disturbed.back:.0f} s from the deletion until the next attempt ran")


def test_the_workflow_is_of_the_size_that_was_foreseen(disturbed, foreseen, runs, settings, seen):
    found = size_of(runs.look(disturbed.run.run_id).workflow)
    assert found.nodes - found.again == len(foreseen.nodes)
    assert found.packed <= found.nodes * size.NODE_BYTES
    assert found.whole < load_profile(str(settings.profile)).workflow_bytes
    seen(
        f"{found.nodes} nodes ({found.again} further attempts); specification {found.specification / 1024:.0f} KiB, "
        f"nodes {found.packed / 1024:.0f} KiB compressed, {found.packed / found.nodes:.0f} bytes each"
    )


def test_the_drivers_in_a_row_are_those_that_were_foreseen(disturbed, foreseen, runs, seen):
    workflow = runs.look(disturbed.run.run_id).workflow
    found = {pair: drivers_between(workflow, *pair) for pair in PAIRS}
    assert found == {pair: expected.drivers_between(foreseen, *pair) for pair in PAIRS}
    seen(", ".join(f"{earlier} to {later} {row}" for (earlier, later), row in found.items()))
