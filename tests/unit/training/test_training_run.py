import json
import shutil
import subprocess

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.models.policy import load_policy, save_policy
from sppo.store import keys, tables
from sppo.store.opening import open_store
from sppo.training.train import plan, read_pairs, train
from sppo.training.update import Updater
from tests.conftest import lineage_of
from tests.unit.training.conftest import configure, weights


def interrupt_after(steps: int, monkeypatch):
    """The power fails after some steps; it comes back when the returned function is called."""
    step = Updater.step

    def failing(updater, batch, rate):
        if batch.step == steps:
            raise KeyboardInterrupt
        return step(updater, batch, rate)

    monkeypatch.setattr(Updater, "step", failing)
    return lambda: monkeypatch.setattr(Updater, "step", step)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path, tiny_llama, table, monkeypatch, steps):
    changes = {"train.epochs": 2, "train.schedule_epochs": 2}
    _, manifest = train(configure(tmp_path / "whole", **changes), 1, str(tiny_llama), [table], {})
    config = configure(tmp_path / "cut", **changes)
    mend = interrupt_after(steps, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    mend()
    store = open_store(config.output_uri)
    assert store.manifest(lineage_of(config).model_key(1)) is None
    assert store.read(f"{lineage_of(config).checkpoints_key(1)}/latest.json") is not None
    resumed, again = train(config, 1, str(tiny_llama), [table], {})
    assert again.digest() == manifest.digest(), "weights and log, bit for bit"
    assert (store.fetch(lineage_of(config).model_key(1)) / keys.TRAINING_LOG_FILE).read_text().count("\n") == 6
    assert store.read(f"{lineage_of(config).checkpoints_key(1)}/latest.json") is None
    assert train(config, 1, str(tiny_llama), [table], {}) == (resumed, again)


def test_a_checkpoint_lies_in_many_files_none_of_which_is_a_large_part_of_it(tmp_path, tiny_llama, table, monkeypatch):
    _, manifest = train(configure(tmp_path / "whole"), 1, str(tiny_llama), [table], {})
    monkeypatch.setattr("sppo.training.checkpoint._FILE_BYTES", 2**14)
    config = configure(tmp_path / "cut")
    mend = interrupt_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    checkpoint = tmp_path / "cut" / lineage_of(config).checkpoints_key(1) / "step-000001"
    sizes = [path.stat().st_size for path in checkpoint.rglob("*.safetensors")]
    assert 8 <= len(sizes) <= 33 and max(sizes) < sum(sizes) / 4
    mend()
    assert train(config, 1, str(tiny_llama), [table], {})[1].digest() == manifest.digest()


def test_only_the_newest_checkpoint_is_kept(tmp_path, tiny_llama, table, monkeypatch):
    config = configure(tmp_path / "run", **{"train.global_batch": 2})
    interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    found = {path.name for path in (tmp_path / "run" / lineage_of(config).checkpoints_key(1)).iterdir()}
    assert found == {"latest.json", "step-000003"}


def test_a_training_is_not_resumed_with_another_reference(tmp_path, tiny_llama, table, monkeypatch):
    config = configure(tmp_path / "run")
    mend = interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    mend()
    other = load_policy(tiny_llama, "float32")
    with torch.no_grad():
        next(other.parameters()).add_(0.01)
    save_policy(other, tiny_llama, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"the checkpoint was made with another reference; delete .* to train anew"):
        train(config, 1, str(tmp_path / "other"), [table], {})


def test_a_training_moves_the_log_ratios_to_their_targets(tmp_path, tiny_llama, table):
    config = configure(tmp_path / "run", **{"train.epochs": 8, "train.schedule_epochs": 8, "train.global_batch": 8})
    uri, manifest = train(config, 1, str(tiny_llama), [table], {"rank/saturation": 0.5})
    figures = manifest.figures
    assert figures["rank/saturation"] == 0.5
    assert figures["train/steps"] == 8
    assert figures["train/first_loss"] == pytest.approx(figures["train/loss_at_start"], rel=1e-4)
    assert figures["train/loss"] < figures["train/first_loss"]
    assert figures["train/reference_audit_max_abs"] < 1e-3 and figures["train/reference_recomputed"] == 0
    before, after = weights(tiny_llama), weights(open_store(config.output_uri).fetch(lineage_of(config).model_key(1)))
    assert uri == f"{tmp_path}/run/{lineage_of(config).model_key(1)}"
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_gradient_checkpointing_changes_no_result(tmp_path, tiny_llama, table):
    models = []
    for switch in (False, True):
        config = configure(tmp_path / str(switch), **{"train.gradient_checkpointing": switch})
        train(config, 1, str(tiny_llama), [table], {})
        models.append(weights(tmp_path / str(switch) / lineage_of(config).model_key(1)))
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], rtol=1e-4, atol=1e-5)


def test_many_responses_are_trained_on_and_audited(tmp_path, tiny_llama, of_many):
    path = tmp_path / "pairs.parquet"
    tables.write(path, tables.PAIRS, of_many)
    config = configure(tmp_path / "run", **{"train.global_batch": 8, "train.epochs": 4, "train.schedule_epochs": 4})
    counts = [1.0, 2.0]
    _, manifest = train(config, 1, str(tiny_llama), [path], {}, counts)
    figures = manifest.figures
    assert figures["train/first_loss"] == pytest.approx(figures["train/loss_at_start"], rel=1e-4)
    assert figures["train/loss"] < figures["train/first_loss"]
    assert figures["train/reference_audit_max_abs"] < 1e-3
    folder = open_store(config.output_uri).fetch(lineage_of(config).model_key(1))
    assert json.loads((folder / keys.DISTRIBUTION_FILE).read_text()) == counts


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3), st.integers(0, 1000))
def test_every_epoch_uses_every_pair_once(count, size, epochs, seed):
    pairs = [{"prompt_id": str(i)} for i in range(count)]
    config = TrainConfig(global_batch=size, epochs=epochs, schedule_epochs=epochs)
    batches = plan(pairs, config, seed)
    assert [batch.step for batch in batches] == list(range(len(batches)))
    assert batches == plan(pairs, config, seed)
    an_epoch = len(batches) // epochs
    for epoch in range(epochs):
        used = [pair["prompt_id"] for b in batches[epoch * an_epoch : (epoch + 1) * an_epoch] for pair in b.pairs]
        assert sorted(used) == sorted(pair["prompt_id"] for pair in pairs)


@pytest.mark.parametrize("parts", [[slice(0, 8)], [slice(5, 8), slice(0, 2), slice(2, 5)]])
def test_the_number_of_shards_does_not_change_the_pairs(tmp_path, sampled, parts):
    paths = [tmp_path / f"{i}.parquet" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        tables.write(path, tables.PAIRS, sampled[part])
    assert [pair["prompt_id"] for pair in read_pairs(paths)] == [f"prompt-{i}" for i in range(8)]


def test_no_pair_at_all_is_told(tmp_path):
    tables.write(tmp_path / "none.parquet", tables.PAIRS, [])
    with pytest.raises(ConfigError, match="pairs: no prompt has two responses of different preference"):
        read_pairs([tmp_path / "none.parquet"])


def test_an_interrupted_checkpoint_is_not_half_read(tmp_path, tiny_llama, table, monkeypatch):
    """A checkpoint that was never committed is as if it had not been made."""
    config = configure(tmp_path / "run")
    mend = interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    mend()
    checkpoints = tmp_path / "run" / lineage_of(config).checkpoints_key(1)
    shutil.copytree(checkpoints / "step-000002", checkpoints / ".step-000003.tmp-0")
    (checkpoints / ".step-000003.tmp-0" / "weights.safetensors").write_bytes(b"half")
    _, manifest = train(config, 1, str(tiny_llama), [table], {})
    assert manifest.digest() == train(configure(tmp_path / "whole"), 1, str(tiny_llama), [table], {})[1].digest()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, tiny_llama, table, recwarn):
    """A file system with room for one checkpoint, and no more."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=350k", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system of its own cannot be mounted here: {mounted.stderr.strip()}")
    try:
        config = configure(place / "run", **{"train.global_batch": 2})
        with pytest.raises(
            InfrastructureError,
            match=r"step-000002: the checkpoint cannot be written \(.*No space left on device.*\); "
            "that of step 1 is intact: free or mend that place and resume$",
        ):
            train(config, 1, str(tiny_llama), [table], {})
        checkpoints = place / "run" / lineage_of(config).checkpoints_key(1)
        assert {path.name for path in checkpoints.iterdir()} == {"latest.json", "step-000001"}
        assert [path.name for path in (place / "run").iterdir()] == ["iteration-1"]
        subprocess.run(["mount", "-o", "remount,size=10m", place], check=True)
        _, manifest = train(config, 1, str(tiny_llama), [table], {})
    finally:
        subprocess.run(["umount", place], check=True)
    whole = configure(tmp_path / "whole", **{"train.global_batch": 2})
    assert manifest.digest() == train(whole, 1, str(tiny_llama), [table], {})[1].digest()
    assert not [str(warning.message) for warning in recwarn if "torch.distributed" in str(warning.message)]
