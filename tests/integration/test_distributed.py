"""Several workers train what one trains, also when they are killed, told to stop or out of memory."""

import json
import signal
import time

import pytest
import torch

from sppo.models.policy import load_policy, save_policy
from tests.conftest import lineage_of
from tests.integration.distributed import (
    PAIRS,
    checkpoint,
    command,
    end,
    read_until,
    start,
    together,
    trained,
    wait_for,
)

STEPS = 3
STEP = "from sppo.training.update import Updater\nstep = Updater.step\n"
SLOWLY = STEP + "import time\nUpdater.step = lambda *a: (time.sleep(0.4), step(*a))[1]\n"
DYING = (
    STEP
    + """import os
def dying(updater, batch, rate):
    if batch.step == 2 and updater.group.rank == 1:
        from sppo.training import update
        update.pair_losses = lambda *_: os.kill(os.getpid(), 9)
    return step(updater, batch, rate)
Updater.step = dying
"""
)
TOLD = """
def told(updater, batch, rate):
    if batch.step == 2 and updater.group.rank == 0:
        os.kill(os.getpid(), 15)
    return dying(updater, batch, rate)
Updater.step = told
"""
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
    assert together(2, store.uri, INTERRUPTED) == [9, 9]
    assert checkpoint(store) == 2
    assert together(2, store.uri) == [0, 0]
    same(trained(store), alone)
    assert not [key for key in s3.keys() if "checkpoints" in key]  # noqa: SIM118 - no dict


def test_with_a_head_of_its_own(tiny_llama, tmp_path):
    model = load_policy(tiny_llama, "float32")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
    save_policy(model, tiny_llama, tmp_path / "untied")
    found = []
    for workers in (1, 2):
        store = start(str(tmp_path / f"run-{workers}"), tmp_path / "untied")
        assert together(workers, store.uri) == [0] * workers
        found.append(trained(store))
    assert not torch.equal(found[0][1]["lm_head.weight"], found[0][1]["model.embed_tokens.weight"])
    same(found[1], found[0])


def test_in_bfloat16_workers_differ_by_rounding_alone(tiny_llama, tmp_path):
    """Two ways to cut the same batches differ for one process as well, by the rounding of other sums."""
    found = []
    for name, workers, tokens in (("alone", 1, 40), ("other-passes", 1, 400), ("two", 2, 40)):
        store = start(str(tmp_path / name), tiny_llama, **{"train.dtype": "bfloat16", "train.micro_tokens": tokens})
        assert together(workers, store.uri) == [0] * workers
        found.append(trained(store))
    (rows, weights), (_, other), (their_rows, theirs) = found
    assert their_rows[0]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5), "before any update"
    assert their_rows[0]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-2)

    def distance(one, two):
        return sum(float((one[name] - two[name]).square().sum()) for name in one) ** 0.5

    rounding = distance(weights, other)
    assert 0 < distance(weights, theirs) < 2 * rounding
    assert rounding < 0.2 * distance(weights, load_policy(tiny_llama, "float32").state_dict())


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_another_number_of_workers_resumes(tiny_llama, alone, tmp_path, before, after):
    store = start(str(tmp_path / "run"), tiny_llama)
    assert set(together(before, store.uri, INTERRUPTED)) == {9}
    assert checkpoint(store) == 2
    assert together(after, store.uri) == [0] * after
    same(trained(store), alone)


@pytest.mark.parametrize("told_first", [False, True])
def test_a_killed_worker_ends_the_job_and_the_resume_is_exact(tiny_llama, tmp_path, told_first):
    """Also where the other worker notices that it is told to end before it notices that its peer is gone."""
    whole = start(str(tmp_path / "whole"), tiny_llama)
    assert together(2, whole.uri) == [0, 0]
    store = start(str(tmp_path / "run"), tiny_llama)
    process = command(store.uri, 2, DYING + TOLD * told_first)
    wait_for(lambda: checkpoint(store) == 2, process)
    begun = time.monotonic()
    code, output = end(process)
    seconds = time.monotonic() - begun
    assert code != 0
    assert "exitcode  : -9" in output and "lost" not in output
    assert seconds < 20
    print(f"the job ended {seconds:.1f} s after its last checkpoint, in whose next step a worker was killed")
    model = lineage_of(store.uri).model_key(1)
    assert store.manifest(model) is None
    assert together(2, store.uri) == [0, 0]
    assert store.manifest(model).digest() == whole.manifest(model).digest(), "bit for bit"


def test_the_first_worker_alone_loads_the_model(tiny_llama, alone, tmp_path):
    alone_loads = """
import os
from sppo.training import train
def refused(*_):
    raise SystemExit(7)
if os.environ["RANK"] != "0":
    train.load_policy = train.check_model = refused
"""
    store = start(str(tmp_path / "run"), tiny_llama)
    assert together(2, store.uri, alone_loads) == [0, 0]
    same(trained(store), alone)


def test_a_model_that_is_refused_ends_all_workers_with_its_exit_code(tiny_llama, tmp_path):
    refusing = """
from sppo.training import train
from sppo.errors import ConfigError
def refuse(model):
    raise ConfigError("base_model: unknown here")
train.check_model = refuse
"""
    store = start(str(tmp_path / "run"), tiny_llama)
    code, output = end(command(store.uri, 2, refusing))
    assert code == 1 and "error: base_model: unknown here" in output
    assert "exitcode  : 2" in output.partition("Root Cause")[2]


def test_out_of_memory_is_remembered_by_the_retry(tiny_llama, alone, tmp_path):
    crowded = """
import torch
from sppo.models.network.logprobs import ResponseLogprobs
forward = ResponseLogprobs.forward
def limited(scorer, row):
    if row.ids.shape[1] > 30 and torch.is_grad_enabled() and torch.distributed.get_rank() == 1:
        raise torch.OutOfMemoryError("no room")
    return forward(scorer, row)
ResponseLogprobs.forward = limited
"""
    store = start(str(tmp_path / "run"), tiny_llama)
    assert together(2, store.uri, crowded)[1] == 3
    budget = f"{lineage_of(store.uri).checkpoints_key(1)}/budget.json"
    assert json.loads(store.read(budget)) == {"asked": [40, 0, 2], "budget": 20}
    assert together(2, store.uri, crowded) == [0, 0]
    same(trained(store), alone)
    assert store.read(budget) is None


PLAIN = """
from sppo import cli
cli.train(sys.argv[-1])
raise SystemExit
"""
"""As a component runs the stage: without the handlers of the command line."""


@pytest.mark.parametrize(
    ("workers", "patch", "number", "code"),
    [
        (1, "", signal.SIGTERM, 143),
        (1, PLAIN, signal.SIGINT, 130),
        (2, "", signal.SIGTERM, 1),  # torchrun itself ends with 1 whatever its workers end with
    ],
    ids=["command", "component", "torchrun"],
)
def test_a_signal_lets_the_step_end_and_keeps_it(tiny_llama, alone, tmp_path, workers, patch, number, code):
    store = start(str(tmp_path / "run"), tiny_llama, **{"train.checkpoint_every": 100})
    process = command(store.uri, workers, SLOWLY + patch)
    said = read_until(process, "step 1 of 3")
    process.send_signal(number)
    ended, output = end(process)
    assert ended == code, output
    assert f"told to stop: step {checkpoint(store)} of 3 is kept" in said + output
    assert checkpoint(store) in {1, 2}
    assert store.manifest(lineage_of(store.uri).model_key(1)) is None
    assert together(workers, store.uri) == [0] * workers
    same(trained(store), alone)


def test_a_second_signal_ends_at_once(tiny_llama, tmp_path):
    store = start(str(tmp_path / "run"), tiny_llama)
    process = command(store.uri, 1, SLOWLY.replace("0.4", "60"))
    read_until(process, "reference audit")
    time.sleep(0.5)
    process.terminate()
    time.sleep(1.5)
    assert process.poll() is None, "it finishes its step"
    process.terminate()
    assert end(process)[0] == 143
    assert checkpoint(store) is None
