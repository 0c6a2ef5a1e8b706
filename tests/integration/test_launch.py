"""`sppo train` on a machine with two accelerators, which are said to be there: its workers compute on the CPU."""

import signal

from mlflow import MlflowClient

from tests.conftest import lineage_of
from tests.integration.distributed import checkpoint, command, end, read_until, start, together

TWO = "import torch\ntorch.accelerator.device_count = lambda: 2\n"


def test_it_starts_a_worker_for_each_and_tracks_once(tiny_llama, tmp_path):
    store = start(str(tmp_path / "run"), tiny_llama)
    code, output = end(command(store.uri, 1, TWO))
    assert code == 0, output
    assert output.count("training with 2 workers, one an accelerator") == 1
    assert output.count("step 3 of 3") == 1, "the first worker alone prints"
    model = lineage_of(store.uri).model_key(1)
    assert f"{model} is there already" in output, "nothing is trained in the process that started them"
    client = MlflowClient(f"sqlite:///{store.root.parent}/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert len(runs) == 2, "the alignment run and its iteration, once"
    other = start(str(tmp_path / "other"), tiny_llama)
    assert together(2, other.uri) == [0, 0]
    assert store.manifest(model).digest() == other.manifest(model).digest()


def test_the_workers_exit_code_is_its_own(tiny_llama, tmp_path):
    store = start(str(tmp_path / "run"), tiny_llama, **{"train.learning_rate": 1e30})
    code, output = end(command(store.uri, 1, TWO))
    assert code == 4, output
    assert "is not finite for the prompts" in output
    assert "Traceback" not in output


def test_a_signal_is_handed_on(tiny_llama, tmp_path):
    store = start(str(tmp_path / "run"), tiny_llama, **{"train.epochs": 60, "train.schedule_epochs": 60})
    process = command(store.uri, 1, TWO)
    read_until(process, "step 1 of 180")
    process.send_signal(signal.SIGTERM)
    code, output = end(process)
    assert code == 143, output
    assert f"told to stop: step {checkpoint(store)} of 180 is kept" in output
