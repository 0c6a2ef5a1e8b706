import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.objectives import sppo
from sppo.algorithm.objectives.base import loss_at_start
from sppo.config.sections.train import TrainConfig
from sppo.errors import InfrastructureError, RunFailedError
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.policy import load_policy
from sppo.training.audit import Audit
from sppo.training.optimizer import RMSProp
from sppo.training.update import Batch, Updater, divide, group_of, reference_of, targets_of
from tests.conftest import NO_OTHERS
from tests.unit.training.conftest import ALONE, configure, scorer_of, weights


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
    told = r"step 1: out of memory with passes of \d+ tokens, which hold a single pair; set"
    with pytest.raises(InfrastructureError, match=told):
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
    assert row["loss"] == pytest.approx(loss_at_start(sppo, map(targets_of, pairs), TrainConfig(eta=1000.0)), rel=1e-4)
    assert row["mean_abs_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert row["learning_rate"] == 1e-3


def audited(folder, pairs):
    return Audit(pairs, TrainConfig(dtype="float32", audit_fraction=1.0), 0).reference(scorer_of(folder), ALONE)


def test_the_audit_replaces_log_probabilities_that_are_not_the_models(tiny_llama, pairs, sampled):
    for pair in pairs:
        pair["chosen_logprobs"] = [value - 0.5 for value in pair["chosen_logprobs"]]
    figures = audited(tiny_llama, pairs)
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


def test_the_audit_covers_further_responses(tiny_llama, of_many):
    true = [reference_of(pair) for pair in of_many]
    spoiled = next(pair for pair in of_many if pair["other_logprobs"])
    spoiled["other_logprobs"] = [[value - 100.0 for value in own] for own in spoiled["other_logprobs"]]
    figures = audited(tiny_llama, of_many)
    assert figures["train/reference_recomputed"] == 1
    assert figures["train/reference_audit_max_abs"] == pytest.approx(100, rel=1e-3)
    for pair, expected in zip(of_many, true, strict=True):
        for own, other in zip(reference_of(pair), expected, strict=True):
            assert own == pytest.approx(other, abs=1e-4)


def test_the_audit_fails_where_a_stored_value_is_no_number(tiny_llama, pairs, sampled):
    pairs[3]["chosen_logprobs"] = [float("nan"), *sampled[3]["chosen_logprobs"][1:]]
    figures = audited(tiny_llama, pairs)
    assert figures["train/reference_recomputed"] == 1
    assert pairs[3]["chosen_logprobs"] == pytest.approx(sampled[3]["chosen_logprobs"], abs=1e-4)


def test_the_audit_leaves_small_differences_alone(tiny_llama, pairs):
    for pair in pairs:
        pair["chosen_logprobs"] = [value - 0.05 for value in pair["chosen_logprobs"]]
    before = [dict(pair) for pair in pairs]
    figures = audited(tiny_llama, pairs)
    assert figures["train/reference_recomputed"] == 0
    assert 0.02 < figures["train/reference_audit_mean_abs"] < 0.05
    assert pairs == before
