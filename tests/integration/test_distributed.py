"""Several workers train what one trains, also when they are killed, told to stop or out of memory."""

import pytest
import torch

from tests.integration.distributed import PAIRS, checkpoint, start, together, trained

STEPS = 3
STEP = "from sppo.update import Updater\nstep = Updater.step\n"
SLOWLY = STEP + "import time\nUpdater.step = lambda *a: (time.sleep(0.4), step(*a))[1]\n"
DYING = (
    STEP
    + """import os
def dying(updater, batch, rate):
    if batch.step == 2 and updater.group.rank == 1:
        from sppo import update
        update.pair_losses = lambda *_: os.kill(os.getpid(), 9)
    return step(updater, batch, rate)
Updater.step = dying
"""
)
INTERRUPTED = (
    STEP
    + """
def interrupted(updater, batch, rate):
    if batch.step == 2:
        raise SystemExit(9)
    return step(updater, batch, rate)
Updater.step = interrupted
"""
)


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch):
    """MLflow takes its time; that the first worker tracks is tested where it is asked for."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def alone(tiny_llama, tmp_path_factory):
    """What one process trains in float32."""
    store = start(str(tmp_path_factory.mktemp("alone") / "run"), tiny_llama)
    assert together(1, store.uri) == [0]
    return trained(store)


def same(found, expected, atol=1e-4):
    """Log rows and weights are equal but for rounding."""
    rows, weights = found
    assert len(rows) == len(expected[0]) == STEPS
    for row, other in zip(rows, expected[0], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-4)
    assert weights.keys() == expected[1].keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[1][name], rtol=0, atol=atol)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_train_what_one_does(tiny_llama, alone, tmp_path, workers):
    store = start(str(tmp_path / "run"), tiny_llama)
    assert workers > PAIRS % 4, "the last batch has fewer pairs than there are workers"
    assert together(workers, store.uri) == [0] * workers
    same(trained(store), alone)
    assert checkpoint(store) is None


def test_in_s3_with_gradient_checkpointing(tiny_llama, alone, s3):
    store = start(s3.uri, tiny_llama, **{"train.gradient_checkpointing": True})
    assert together(2, store.uri, INTERRUPTED) != [0, 0]
    assert checkpoint(store) == 2
    assert together(2, store.uri) == [0, 0]
    same(trained(store), alone)
    assert not [key for key in s3.keys() if "checkpoints" in key]  # noqa: SIM118 - no dict
