"""The launch step as a pod runs it: component, TrainJob, real training by its command, and what that commits."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kfp import dsl
from sppo_components.launch import launch
from sppo_components.prepare import prepare

from sppo.config.run import PreparedConfig, resolve
from sppo.models.fetch import model_digest
from sppo.preparing.recorded import record
from sppo.store import keys, tables
from sppo.store.once import run_once
from sppo.store.opening import open_store
from sppo.training.workers.trainjob.spec import job_name
from tests.conftest import COUNTED, NO_OTHERS, lineage_of
from tests.unit.trainjob.jobs import until
from tests.unit.trainjob.state import JOBS, PODS, terminated

SHARDS = 2


@pytest.fixture
def run(s3, tiny_llama, tmp_path, monkeypatch):
    """A run in S3 that has come to its first training: the inputs of the component."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    values = {"output_uri": s3.uri, "base_model": str(tiny_llama), "iterations": 1, "train.checkpoint_every": 1,
              "train.global_batch": 2, "train.micro_tokens": 64, "train.dtype": "float32"}  # fmt: skip
    store = open_store(s3.uri)
    config = PreparedConfig(**resolve({**values, "output_uri": store.uri}).asked())

    def prepared(folder: Path) -> dict:
        rows = [{"prompt_id": f"p{i}", "prompt": "?", "prompt_ids": [63]} for i in range(2 * SHARDS)]
        tables.write(folder / keys.prompts_file(1), tables.PROMPTS, rows)
        return {}

    run_once(store, lineage_of(config).prepared_key, {}, prepared)
    record(config, store, {})
    lineage = lineage_of(config)
    pairs = []
    for shard in range(SHARDS):
        rows = [pair(2 * shard + i) for i in range(2)]
        path = tmp_path / f"pairs-{shard}.parquet"
        tables.write(path, tables.PAIRS, rows)
        pairs.append(SimpleNamespace(path=str(path)))

        def ranked(folder: Path, rows=rows) -> dict:
            tables.write(folder / keys.PAIRS_FILE, tables.PAIRS, rows)
            return dict.fromkeys(COUNTED, 1.0)

        run_once(store, lineage.preferences_key(1, shard, SHARDS), {"model": model_digest(tiny_llama)}, ranked)
    folder, resolved = store.fetch(lineage.prepared_key), tmp_path / "config.json"
    resolved.write_text(config.model_dump_json())
    inputs = {
        "run_config": SimpleNamespace(path=str(resolved)),
        "prompt_tables": SimpleNamespace(path=str(folder)),
        "pairs": pairs,
        "model_uri": str(tiny_llama),
        "iteration": 1,
    }
    name = job_name(store.uri, 1, lineage.model_key(1))
    return SimpleNamespace(store=store, inputs=inputs, name=name, lineage=lineage)


def pair(number: int) -> dict:
    generator = torch.Generator().manual_seed(number)
    ids = {side: torch.randint(0, 256, (4,), generator=generator).tolist() for side in ("chosen", "rejected")}
    return {
        "prompt_id": f"p{number}", "prompt": "?", "prompt_ids": [63], "chosen": "", "rejected": "",
        "chosen_index": 0, "rejected_index": 1, "p_chosen": 0.9, "p_rejected": 0.2,
        **{f"{side}_ids": tokens for side, tokens in ids.items()},
        **{f"{side}_logprobs": [-5.0] * 4 for side in ids},
        **NO_OTHERS,
    }  # fmt: skip


def step(run, nodes=2.0):
    """What the pod of the step does; it gets whole numbers as floats."""
    figures = {}
    metrics = SimpleNamespace(log_metric=lambda name, value: figures.update({name: value}))
    config = dsl.TaskConfig(resources={"limits": {"nvidia.com/gpu": "1"}}, env=[{"name": "A", "value": "b"}])
    more = {"trainer_image": "train:1", "queue": "", "shared_memory": "", "hours": 24.0}
    uri = launch.python_func(**run.inputs, nodes=nodes, **more, task_config=config, metrics=metrics)
    return uri, figures


def play(api, job):
    """What a cluster does with a job, as one node: it runs the command with the variables of Kubeflow Trainer."""
    trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
    pod = api.pod(name, 0)
    bin_folder = Path(sys.executable).parent
    peers = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]), "PET_NODE_RANK": "0",
             "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "29511"}  # fmt: skip
    environment = {**os.environ, **peers, "PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    done = subprocess.run(trainer["command"], env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT)
    api.write(pod, *done.stdout.splitlines(), end=True)
    # torchrun ends with 1 whatever its processes end with.
    api.pod(name, 0, state=terminated(done.returncode, "Error" if done.returncode else "Completed"))
    api.end(name, "Failed" if done.returncode else "Complete")


def test_pods_train_with_their_command_and_the_step_hands_their_model_on(api, run, capsys, monkeypatch):
    monkeypatch.setenv("KFP_POD_NAME", "launch-1")
    monkeypatch.setenv("KFP_POD_UID", "5d1f")
    api.on_create = lambda job: play(api, job)
    uri, figures = step(run)
    assert uri == f"{run.store.uri}/{run.lineage.model_key(1)}"
    manifest = run.store.manifest(run.lineage.model_key(1))
    assert manifest is not None and figures == manifest.figures
    assert "train/loss" in figures
    out = capsys.readouterr().out
    assert "loss" in out, "the log of rank 0"
    assert "is there already" in out, "nothing is trained in the step's own pod"
    job = api.objects[JOBS][run.name]
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "launch-1", "5d1f")
    made = job["spec"]["trainer"]
    assert (made["numNodes"], made["numProcPerNode"], made["env"]) == (2, 1, [{"name": "A", "value": "b"}])

    requests = len(api.requests)
    assert step(run) == (uri, figures), "a retry of a step that is done"
    assert len(api.requests) == requests, "asks nothing of the cluster"


def test_an_error_of_the_pods_is_the_error_of_the_step(api, run, capsys):
    """The real torchrun, whose summary tells the exit code of what it ran."""
    run.store.delete(run.lineage.preferences_key(1, 1, SHARDS))
    api.on_create = lambda job: play(api, job)
    with pytest.raises(SystemExit) as ended:
        step(run)
    assert ended.value.code == 3, "the pairs of a shard are not in the store"
    assert f"{run.lineage.preferences_key(1, 1, SHARDS)}: nothing is committed there" in capsys.readouterr().err


def test_a_job_that_commits_nothing_is_not_taken_for_a_success(api, run, capsys):
    api.on_create = lambda job: api.end(run.name, "Complete")
    with pytest.raises(SystemExit) as ended:
        step(run)
    assert ended.value.code == 4
    assert f"complete, but {run.store.uri}/{run.lineage.model_key(1)} is not committed" in capsys.readouterr().err
    assert run.name not in api.objects[JOBS], "so that a retry makes a new one"


def test_a_job_that_commits_nothing_and_is_gone_is_told_too(api, run, capsys):
    looking = api.hold(f"GET {PODS}")

    def play(job):
        api.end(run.name, "Complete")
        until(lambda: len(api.sent(f"GET {PODS}")) == 2)  # by the watch, and by the look at the end
        api.remove(JOBS, run.name)
        looking.set()

    api.on_create = play
    with pytest.raises(SystemExit) as ended:
        step(run)
    assert ended.value.code == 4
    assert f"complete, but {run.store.uri}/{run.lineage.model_key(1)} is not committed" in capsys.readouterr().err


def test_other_pairs_are_another_training(api, run, capsys):
    api.on_create = lambda job: api.end(run.name, "Failed")
    with pytest.raises(SystemExit):
        step(run)
    rows = tables.read(Path(run.inputs["pairs"][0].path), tables.PAIRS)
    rows[0]["p_chosen"] = 0.5
    tables.write(Path(run.inputs["pairs"][0].path), tables.PAIRS, rows)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        step(run)
    assert ended.value.code == 2
    assert "made from other inputs" in capsys.readouterr().err


def test_on_this_machine_it_says_that_there_is_no_cluster(run, monkeypatch, tmp_path, capsys):
    """Under the local runner, where TaskConfig is empty."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as ended:
        step(run)
    assert ended.value.code == 2
    assert "training_nodes: more than one needs a cluster" in capsys.readouterr().err


def test_prepare_refuses_nodes_that_the_package_cannot_play(capsys):
    with pytest.raises(SystemExit) as ended:
        prepare.python_func(
            **dict.fromkeys(("output_uri", "preset", "base_model", "prompts", "preference_model", "experiment"), ""),
            **dict.fromkeys(("generation_gpus", "ranking_gpus", "training_gpus"), "0"),
            **dict.fromkeys(("iterations", "shards", "shard_iterations"), 0.0),
            **{"config": {}, "max_iterations": 3.0, "training_nodes": 2.0, "several_nodes": False},
            **{"run_config": SimpleNamespace(path=""), "prompt_tables": SimpleNamespace(path="")},
        )
    assert ended.value.code == 2
    assert "training_nodes: 2, but this pipeline was compiled to train in one pod" in capsys.readouterr().err
