import json
import shutil
import subprocess

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.objective import loss_at_start
from sppo.config.run import resolve
from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import load_policy, save_policy
from sppo.store import keys, tables
from sppo.store.opening import open_store
from sppo.training.audit import audit_reference
from sppo.training.optimizer import RMSProp
from sppo.training.train import plan, read_pairs, train
from sppo.training.update import (
    Batch,
    Updater,
    divide,
    group_of,
    reference_of,
    targets_of,
)
from sppo.training.workers.parallel import Workers
from tests.conftest import NO_OTHERS

SETTINGS = {
    "train.dtype": "float32",
    "train.learning_rate": 1e-3,
    "train.global_batch": 3,
    "train.micro_tokens": 40,
    "train.checkpoint_every": 1,
    "train.audit_fraction": 1.0,
}


ALONE = Workers(0, 1, torch.device("cpu"))


def scorer_of(folder) -> ResponseLogprobs:
    attention.register()
    return ResponseLogprobs(load_policy(folder, "float32", attention.NAME))


@pytest.fixture(scope="module")
def sampled(tiny_llama):
    """Eight pairs of random responses with the model's own log-probabilities."""
    scorer, generator = scorer_of(tiny_llama), torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=generator).tolist()

    pairs = []
    for i in range(8):
        ids = {"prompt_ids": tokens(5), "chosen_ids": tokens(3 + i), "rejected_ids": tokens(9 - i)}
        with torch.no_grad():
            group = Group(ids["prompt_ids"], [ids["chosen_ids"], ids["rejected_ids"]])
            ((chosen, rejected),) = scorer.of([group])
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
                **NO_OTHERS,
            }
        )
    return pairs


@pytest.fixture
def pairs(sampled):
    return [dict(pair) for pair in sampled]


@pytest.fixture
def of_many(sampled, tiny_llama):
    """The same with up to three further responses a prompt, as `rank.selection=all` gives."""
    scorer, generator = scorer_of(tiny_llama), torch.Generator().manual_seed(1)
    rows = []
    for number, pair in enumerate(sampled):
        others = [torch.randint(0, 256, (4 + i,), generator=generator).tolist() for i in range(number % 4)]
        with torch.no_grad():
            (logprobs,) = scorer.of([Group(pair["prompt_ids"], others)]) if others else ([],)
        rows.append(
            pair
            | {
                "other_indices": list(range(2, 2 + len(others))),
                "p_others": [0.45 + 0.02 * i for i in range(len(others))],
                "other_ids": others,
                "other_logprobs": [each.tolist() for each in logprobs],
            }
        )
    return rows


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
    assert store.manifest(keys.model(1)) is None
    assert store.read(f"{keys.checkpoints(1)}/latest.json") is not None
    resumed, again = train(config, 1, str(tiny_llama), [table], {})
    assert again.digest() == manifest.digest(), "weights and log, bit for bit"
    assert (store.fetch(keys.model(1)) / keys.TRAINING_LOG_FILE).read_text().count("\n") == 6
    assert store.read(f"{keys.checkpoints(1)}/latest.json") is None
    assert train(config, 1, str(tiny_llama), [table], {}) == (resumed, again)


def test_only_the_newest_checkpoint_is_kept(tmp_path, tiny_llama, table, monkeypatch):
    config = configure(tmp_path / "run", **{"train.global_batch": 2})
    interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, str(tiny_llama), [table], {})
    found = {path.name for path in (tmp_path / "run" / keys.checkpoints(1)).iterdir()}
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
    before, after = weights(tiny_llama), weights(open_store(config.output_uri).fetch(keys.model(1)))
    assert uri == f"{tmp_path}/run/{keys.model(1)}"
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_gradient_checkpointing_changes_no_result(tmp_path, tiny_llama, table):
    models = []
    for switch in (False, True):
        config = configure(tmp_path / str(switch), **{"train.gradient_checkpointing": switch})
        train(config, 1, str(tiny_llama), [table], {})
        models.append(weights(tmp_path / str(switch) / keys.model(1)))
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], rtol=1e-4, atol=1e-5)


def updater_of(folder, **changes) -> Updater:
    scorer = scorer_of(folder)
    settings = configure(folder, **changes).train
    return Updater(scorer, RMSProp(scorer, getattr(torch, settings.dtype), ALONE), ALONE, settings)


def step(folder, pairs, budget: int):
    """The gradient of one optimizer step, its log row, and the weights after it."""
    updater, gradients = updater_of(folder, **{"train.micro_tokens": budget}), {}
    move = updater.optimizer.step

    def keeping(*arguments):
        gradients.update((name, gradient.clone()) for name, gradient in updater.optimizer._gradients())
        move(*arguments)

    updater.optimizer.step = keeping
    row = updater.step(Batch(0, pairs), 1e-3)
    return gradients, row, dict(updater.optimizer.weights)


@pytest.mark.parametrize("budget", [1, 40, 60])
def test_the_tokens_of_a_pass_do_not_change_the_update(tiny_llama, pairs, budget):
    whole, row, after = step(tiny_llama, pairs, 10_000)
    parts, other, moved = step(tiny_llama, pairs, budget)
    assert other == pytest.approx(row, rel=1e-5, abs=1e-4)
    for name, own in whole.items():
        torch.testing.assert_close(parts[name], own, rtol=1e-4, atol=1e-5 * float(own.abs().max()))
    # RMSProp's first step is as large for a gradient of 1e-9 as for one of 1: compare it where rounding cannot turn it.
    differing = sum((~torch.isclose(moved[n], after[n], rtol=1e-3, atol=1e-5)).sum().item() for n in after)
    assert differing < 0.001 * sum(weight.numel() for weight in after.values())


def test_out_of_memory_halves_the_passes_and_keeps_the_update(tiny_llama, pairs, monkeypatch, capsys):
    _, row, _ = step(tiny_llama, pairs, 10_000)
    forward = ResponseLogprobs.forward

    def limited(scorer, packed):
        if packed.ids.shape[1] > 70:
            raise torch.OutOfMemoryError("no room")
        return forward(scorer, packed)

    monkeypatch.setattr(ResponseLogprobs, "forward", limited)
    updater = updater_of(tiny_llama, **{"train.micro_tokens": 400})
    assert updater.step(Batch(0, pairs), 1e-3) == pytest.approx(row, rel=1e-5, abs=1e-4)
    assert updater.budget == 50
    assert capsys.readouterr().out.count("out of memory") == 3
    monkeypatch.setattr(ResponseLogprobs, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    before = {name: weight.clone() for name, weight in updater.optimizer.weights.items()}
    with pytest.raises(InfrastructureError, match=r"step 1: out of memory with passes of \d+ tokens; set a smaller"):
        updater.step(Batch(1, pairs), 1e-3)
    for name, weight in updater.optimizer.weights.items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("spoiled", ["p_chosen", "rejected_logprobs"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_a_loss_that_is_not_finite_names_its_prompt_and_changes_nothing(tiny_llama, pairs, spoiled, wrong, budget):
    pairs[1][spoiled] = wrong if spoiled == "p_chosen" else [wrong]
    updater = updater_of(tiny_llama, **{"train.micro_tokens": budget})
    with pytest.raises(RunFailedError, match=r"step 7: the loss is not finite for the prompts prompt-1$"):
        updater.step(Batch(7, pairs), 1.0)
    for name, weight in weights(tiny_llama).items():
        if f"model.{name}" in updater.optimizer.weights:
            torch.testing.assert_close(updater.optimizer.weights[f"model.{name}"], weight, rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_names_the_prompts(tiny_llama, pairs):
    updater = updater_of(tiny_llama)
    next(iter(updater.optimizer.parameters.values())).register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(RunFailedError, match=r"step 0: the gradient is not finite for the prompts prompt-0, prompt-1$"):
        updater.step(Batch(0, pairs[:2]), 1.0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 5), st.integers(1, 60))
def test_workers_share_a_batch(sizes, workers, budget):
    pairs = [
        {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3] * size, "id": i, **NO_OTHERS}
        for i, size in enumerate(sizes)
    ]
    shares = divide(pairs, workers, budget)
    assert sorted(pair["id"] for share in shares for run in share for pair in run) == list(range(len(pairs)))
    assert len({len(share) for share in shares}) == 1, "as many passes for each"
    loads = [sum(group_of(pair).tokens for run in share for pair in run) for share in shares]
    assert max(loads) - min(loads) <= max(group_of(pair).tokens for pair in pairs)
    assert shares == divide(pairs, workers, budget)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_optimizer_is_pytorchs(dtype, monkeypatch):
    monkeypatch.setattr("sppo.training.optimizer._BLOCK", 7)
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    optimizer, reference = RMSProp(ours, dtype, ALONE), torch.optim.RMSprop(theirs.parameters(), lr=1e-2)
    for _ in range(4):
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.grad = torch.randn(own.shape).to(dtype)
            other.grad = own.grad.float().clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.5)
        assert optimizer.gradient_norm() == pytest.approx(float(norm), rel=1e-5)
        optimizer.step(1e-2, optimizer.gradient_norm(), 1.5)
        reference.step()
    for name, other in theirs.named_parameters():
        torch.testing.assert_close(optimizer.weights[name], other.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(ours.get_parameter(name), optimizer.weights[name].to(dtype))


def test_the_first_loss_is_the_closed_form(tiny_llama, pairs):
    _, row, _ = step(tiny_llama, pairs, 100)
    assert row["loss"] == pytest.approx(loss_at_start(map(targets_of, pairs), 1000.0), rel=1e-4)
    assert row["mean_abs_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert row["learning_rate"] == 1e-3


def test_the_audit_replaces_log_probabilities_that_are_not_the_models(tiny_llama, pairs, sampled):
    for pair in pairs:
        pair["chosen_logprobs"] = [value - 0.5 for value in pair["chosen_logprobs"]]
    figures = audit_reference(scorer_of(tiny_llama), pairs, TrainConfig(dtype="float32", audit_fraction=0.1), 0, ALONE)
    assert figures["train/reference_recomputed"] == 1
    assert figures["train/reference_audit_max_abs"] == pytest.approx(0.5, abs=1e-3)
    for pair, true in zip(pairs, sampled, strict=True):
        for name in ("chosen_logprobs", "rejected_logprobs"):
            assert pair[name] == pytest.approx(true[name], abs=1e-4)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_training_on_many_responses_is_training_on_one_sequence_after_the_other(tiny_llama, of_many, budget):
    """The loss is the mean over prompts of the mean over a prompt's responses, whatever shares a pass with whatever."""
    for pair in of_many:  # another reference than the policy, so that the log-ratios count
        shifted = [[value - 0.01 * i for value in own] for i, own in enumerate(reference_of(pair), start=1)]
        pair |= {"chosen_logprobs": shifted[0], "rejected_logprobs": shifted[1], "other_logprobs": shifted[2:]}
    gradients, row, _ = step(tiny_llama, of_many, budget)

    model, losses, ratios = load_policy(tiny_llama, "float32"), [], []
    for pair in of_many:
        of_pair = []
        for ids, stored in zip(group_of(pair).responses, reference_of(pair), strict=True):
            logits = model(torch.tensor([[*pair["prompt_ids"], *ids]])).logits[0, len(pair["prompt_ids"]) - 1 : -1]
            of_pair.append(logits.log_softmax(-1)[range(len(ids)), ids].sum() - sum(stored))
        ratios.append(torch.stack(of_pair))
        losses.append((ratios[-1] - 1000.0 * (targets_of(pair) - 0.5)).square().mean())
    loss = torch.stack(losses).mean()
    loss.backward()

    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["mean_log_ratio"] == pytest.approx(sum(r.mean().item() for r in ratios) / len(ratios), abs=1e-4)
    assert row["mean_abs_log_ratio"] == pytest.approx(
        sum(r.abs().mean().item() for r in ratios) / len(ratios), abs=1e-4
    )
    expected = {f"model.{name}": weight.grad for name, weight in model.named_parameters()}
    assert gradients.keys() <= expected.keys() and len(gradients) > 10
    for name, own in gradients.items():
        torch.testing.assert_close(own, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))


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
    folder = open_store(config.output_uri).fetch(keys.model(1))
    assert json.loads((folder / keys.DISTRIBUTION_FILE).read_text()) == counts


def test_the_audit_covers_further_responses(tiny_llama, of_many):
    true = [reference_of(pair) for pair in of_many]
    spoiled = next(pair for pair in of_many if pair["other_logprobs"])
    spoiled["other_logprobs"] = [[value - 100.0 for value in own] for own in spoiled["other_logprobs"]]
    figures = audit_reference(
        scorer_of(tiny_llama), of_many, TrainConfig(dtype="float32", audit_fraction=1.0), 0, ALONE
    )
    assert figures["train/reference_recomputed"] == 1
    assert figures["train/reference_audit_max_abs"] == pytest.approx(100, rel=1e-3)
    for pair, expected in zip(of_many, true, strict=True):
        for own, other in zip(reference_of(pair), expected, strict=True):
            assert own == pytest.approx(other, abs=1e-4)


def test_the_audit_leaves_small_differences_alone(tiny_llama, pairs):
    for pair in pairs:
        pair["chosen_logprobs"] = [value - 0.05 for value in pair["chosen_logprobs"]]
    before = [dict(pair) for pair in pairs]
    figures = audit_reference(scorer_of(tiny_llama), pairs, TrainConfig(dtype="float32", audit_fraction=1.0), 0, ALONE)
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
    checkpoints = tmp_path / "run" / keys.checkpoints(1)
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
        checkpoints = place / "run" / keys.checkpoints(1)
        assert {path.name for path in checkpoints.iterdir()} == {"latest.json", "step-000001"}
        assert [path.name for path in (place / "run").iterdir()] == ["iteration-1"]
        subprocess.run(["mount", "-o", "remount,size=10m", place], check=True)
        _, manifest = train(config, 1, str(tiny_llama), [table], {})
    finally:
        subprocess.run(["umount", place], check=True)
    whole = configure(tmp_path / "whole", **{"train.global_batch": 2})
    assert manifest.digest() == train(whole, 1, str(tiny_llama), [table], {})[1].digest()
    assert not [str(warning.message) for warning in recwarn if "torch.distributed" in str(warning.message)]
