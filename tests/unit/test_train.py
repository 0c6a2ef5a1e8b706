import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo import layout, tables
from sppo import train as training
from sppo.audit import audit_reference
from sppo.config import TrainConfig, resolve
from sppo.errors import ConfigError, RunFailedError
from sppo.logprobs import response_logprobs
from sppo.objective import loss_at_start
from sppo.policy import load_policy, save_policy
from sppo.store import open_store
from sppo.train import Batch, optimizer_step, plan, read_pairs, train

SETTINGS = {
    "train.dtype": "float32",
    "train.learning_rate": 1e-3,
    "train.global_batch": 3,
    "train.micro_batch": 2,
    "train.checkpoint_every": 1,
    "train.audit_fraction": 1.0,
}


@pytest.fixture(scope="module")
def sampled(tiny_llama):
    """Eight pairs of random responses with the model's own log-probabilities."""
    model, generator = load_policy(tiny_llama, "float32"), torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=generator).tolist()

    pairs = []
    for i in range(8):
        ids = {"prompt_ids": tokens(5), "chosen_ids": tokens(3 + i), "rejected_ids": tokens(9 - i)}
        with torch.no_grad():
            responses = [ids["chosen_ids"], ids["rejected_ids"]]
            chosen, rejected = response_logprobs(model, [ids["prompt_ids"]] * 2, responses)
        pairs.append(
            {
                "prompt_id": f"prompt-{i}",
                "prompt": "?",
                "chosen": "",
                "rejected": "",
                "chosen_index": 0,
                "rejected_index": 1,
                "p_chosen": 0.5 + 0.05 * i,
                "p_rejected": 0.5 - 0.06 * i,
                "chosen_logprobs": chosen.tolist(),
                "rejected_logprobs": rejected.tolist(),
                **ids,
            }
        )
    return pairs


@pytest.fixture
def pairs(sampled):
    return [dict(pair) for pair in sampled]


@pytest.fixture
def table(tmp_path, sampled):
    path = tmp_path / "pairs.parquet"
    tables.write(path, tables.PAIRS, sampled)
    return path


def configure(folder, **changes):
    return resolve({"output_uri": str(folder), **SETTINGS, **changes})


def weights(folder):
    return load_policy(folder, "float32").state_dict()


def interrupt_after(steps: int, monkeypatch):
    """The power fails after some steps; it comes back when the context ends."""
    step = training.optimizer_step

    def failing(model, optimizer, batch, config, rate):
        if batch.step == steps:
            raise KeyboardInterrupt
        return step(model, optimizer, batch, config, rate)

    monkeypatch.setattr(training, "optimizer_step", failing)
    return lambda: monkeypatch.setattr(training, "optimizer_step", step)


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
    assert store.manifest(layout.model(1)) is None
    assert store.read(f"{layout.checkpoints(1)}/latest.json") is not None
    resumed, again = train(config, 1, str(tiny_llama), [table], {})
    assert again.digest() == manifest.digest(), "weights and log, bit for bit"
    assert (store.fetch(layout.model(1)) / layout.TRAINING_LOG_FILE).read_text().count("\n") == 6
    assert store.read(f"{layout.checkpoints(1)}/latest.json") is None
    assert train(config, 1, str(tiny_llama), [table], {}) == (resumed, again)


def test_only_the_newest_checkpoint_is_kept(tmp_path, tiny_llama, table, monkeypatch):
    config = configure(tmp_path / "run", **{"train.global_batch": 2})
    interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    found = {path.name for path in (tmp_path / "run" / layout.checkpoints(1)).iterdir()}
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
    before, after = weights(tiny_llama), weights(open_store(config.output_uri).fetch(layout.model(1)))
    assert uri == f"{tmp_path}/run/{layout.model(1)}"
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_gradient_checkpointing_changes_no_result(tmp_path, tiny_llama, table):
    models = []
    for switch in (False, True):
        config = configure(tmp_path / str(switch), **{"train.gradient_checkpointing": switch})
        train(config, 1, str(tiny_llama), [table], {})
        models.append(weights(tmp_path / str(switch) / layout.model(1)))
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], rtol=1e-4, atol=1e-5)


def step(folder, pairs, micro: int):
    """The gradient of one optimizer step, its log row, and the weights after it."""
    settings = configure(folder, **{"train.micro_batch": micro}).train
    model = load_policy(folder, "float32")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1.0)
    row = optimizer_step(model, optimizer, Batch(0, pairs), settings, 1e-3)
    return [parameter.grad for parameter in model.parameters()], row, model.state_dict()


@pytest.mark.parametrize("micro", [1, 3, 5])
def test_the_size_of_micro_batches_does_not_change_the_update(tiny_llama, pairs, micro):
    whole, row, after = step(tiny_llama, pairs, 8)
    parts, other, moved = step(tiny_llama, pairs, micro)
    assert other == pytest.approx(row, rel=1e-4, abs=1e-4)
    for ours, own in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-3, atol=1e-6)
    # RMSProp's first step is as large for a gradient of 1e-9 as for one of 1: compare it where rounding cannot turn it.
    differing = sum((~torch.isclose(moved[n], after[n], rtol=1e-3, atol=1e-5)).sum().item() for n in after)
    assert differing < 0.001 * sum(weight.numel() for weight in after.values())


@pytest.mark.parametrize("spoiled", ["p_chosen", "rejected_logprobs"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_prompts_and_changes_nothing(tiny_llama, pairs, spoiled, wrong):
    pairs[1][spoiled] = wrong if spoiled == "p_chosen" else [wrong]
    model = load_policy(tiny_llama, "float32")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1.0)
    with pytest.raises(
        RunFailedError, match=r"step 7: the loss or its gradient is not finite for .* prompt-0, prompt-1"
    ):
        optimizer_step(model, optimizer, Batch(7, pairs[:2]), TrainConfig(dtype="float32"), 1.0)
    for name, weight in weights(tiny_llama).items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0)


def test_the_first_loss_is_the_closed_form(tiny_llama, pairs):
    _, row, _ = step(tiny_llama, pairs, 4)
    chosen, rejected = (torch.tensor([pair[name] for pair in pairs]) for name in ("p_chosen", "p_rejected"))
    assert row["loss"] == pytest.approx(loss_at_start(chosen, rejected, 1000.0), rel=1e-4)
    assert row["mean_abs_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert row["learning_rate"] == 1e-3


def test_the_audit_replaces_log_probabilities_that_are_not_the_models(tiny_llama, pairs, sampled):
    for pair in pairs:
        pair["chosen_logprobs"] = [value - 0.5 for value in pair["chosen_logprobs"]]
    model = load_policy(tiny_llama, "float32")
    figures = audit_reference(model, pairs, TrainConfig(dtype="float32", audit_fraction=0.1), seed=0)
    assert figures["train/reference_recomputed"] == 1
    assert figures["train/reference_audit_max_abs"] == pytest.approx(0.5, abs=1e-3)
    for pair, true in zip(pairs, sampled, strict=True):
        for name in ("chosen_logprobs", "rejected_logprobs"):
            assert pair[name] == pytest.approx(true[name], abs=1e-4)


def test_the_audit_leaves_small_differences_alone(tiny_llama, pairs):
    for pair in pairs:
        pair["chosen_logprobs"] = [value - 0.05 for value in pair["chosen_logprobs"]]
    before = [dict(pair) for pair in pairs]
    figures = audit_reference(
        load_policy(tiny_llama, "float32"), pairs, TrainConfig(dtype="float32", audit_fraction=1.0), seed=0
    )
    assert figures["train/reference_recomputed"] == 0
    assert 0.02 < figures["train/reference_audit_mean_abs"] < 0.05
    assert pairs == before


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
    checkpoints = tmp_path / "run" / layout.checkpoints(1)
    shutil.copytree(checkpoints / "step-000002", checkpoints / ".step-000003.tmp-0")
    (checkpoints / ".step-000003.tmp-0" / "weights.safetensors").write_bytes(b"half")
    _, manifest = train(config, 1, str(tiny_llama), [table], {})
    assert manifest.digest() == train(configure(tmp_path / "whole"), 1, str(tiny_llama), [table], {})[1].digest()
