"""The losses against TRL's own trainer: `sppo_hard`, the case in which preferences are certain, DPO and IPO.

For the first, TRL has no column for probabilities; it takes P(chosen) = 1 and P(rejected) = 0, and leaves out 1/2.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo.algorithm.objectives import dpo, ipo
from sppo.algorithm.objectives.base import Responses
from sppo.algorithm.objectives.sppo import sppo_loss
from sppo.config.sections.train import TrainConfig

PAIRS = [
    {"prompt": "Name a colour.", "chosen": " Blue, as the sky is.", "rejected": " No."},
    {"prompt": "Two and two?", "chosen": " Four", "rejected": " Five, or so they say, and who are we to doubt it?"},
    {"prompt": "Greet me.", "chosen": " Good morning.", "rejected": " Good night, good night."},
]
LOG_RATIOS = st.lists(st.floats(-200, 200, width=32), min_size=2 * len(PAIRS), max_size=2 * len(PAIRS))
ETA = 10.0
LEARNING_RATE = 2.0**-12


def random_llama(tiny_llama, seed):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llama))


def dpo_trainer(tiny_llama, folder):
    """TRL's trainer of a policy against another model as the reference, one step of plain gradient descent."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model=random_llama(tiny_llama, seed=1),
        ref_model=random_llama(tiny_llama, seed=2),
        args=DPOConfig(
            output_dir=str(folder),
            loss_type="sppo_hard",
            beta=1 / ETA,
            per_device_train_batch_size=len(PAIRS),
            max_steps=1,
            optim="sgd",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(tiny_llama),
    )


def log_probabilities(trainer, model):
    """log pi(y|x) of the chosen, then of the rejected responses: nothing of TRL's but the tokens, and no padding."""
    sums = []
    for role in ("chosen_ids", "rejected_ids"):
        for row in trainer.train_dataset:
            ids = torch.tensor(row["prompt_ids"] + row[role])
            each = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])
            sums.append(each[len(row["prompt_ids"]) - 1 :].sum())
    return torch.stack(sums)


def test_a_training_step_of_trl_is_twice_ours(tiny_llama, tmp_path):
    trainer = dpo_trainer(tiny_llama, tmp_path)
    policy = trainer.model
    with torch.no_grad():
        reference = log_probabilities(trainer, trainer.ref_model)
    chosen, rejected = (log_probabilities(trainer, policy) - reference).chunk(2)
    assert torch.cat([chosen, rejected]).abs().min() > 0.5  # the two models differ: the log-ratios count
    one = torch.ones_like(chosen)
    loss = sppo_loss(torch.stack([chosen, rejected], -1), torch.stack([one, 0 * one], -1), ETA).mean()
    gradients = torch.autograd.grad(loss, list(policy.parameters()))
    before = [weight.detach().clone() for weight in policy.parameters()]

    trainer.train()

    # 1e-5: the log-probabilities themselves are float32 sums, here over one response, there over a padded batch.
    assert trainer.state.log_history[0]["loss"] == pytest.approx(2 * loss.item(), rel=1e-5)
    for weight, start, gradient in zip(policy.parameters(), before, gradients, strict=True):
        step = LEARNING_RATE * 2 * gradient
        torch.testing.assert_close(weight, start - step, rtol=2**-22, atol=1e-5 * float(step.abs().max()))


@pytest.fixture(scope="module")
def trainer(tiny_llama, tmp_path_factory):
    """TRL's trainer, told that the batch brings the reference's log-probabilities: any log-ratio can be set."""
    trainer = dpo_trainer(tiny_llama, tmp_path_factory.mktemp("trl"))
    trainer.precompute_ref_logps = True
    return trainer


@pytest.fixture(scope="module")
def batch(trainer):
    """A batch as TRL collates it, and TRL's log-probabilities of the policy on it."""
    batch = next(iter(trainer.get_train_dataloader()))
    return batch, torch.cat(trainer.compute_ref_log_probs(trainer.model, batch))


@settings(max_examples=20)
@given(LOG_RATIOS, st.floats(1, 1e4), st.sampled_from([(1.0, 0.0), (0.0, 1.0)]))
def test_half_of_sppo_hard_and_of_its_gradient_by_the_log_ratios(trainer, batch, wanted, eta, winners):
    inputs, policy = batch
    reference = policy - torch.tensor(wanted)
    log_ratios = (policy - reference).requires_grad_()
    ours = sppo_loss(torch.stack(log_ratios.chunk(2), -1), torch.tensor(winners), eta).mean()
    (our_gradient,) = torch.autograd.grad(ours, log_ratios)

    # TRL's chosen response is the one that wins.
    shift = 0 if winners[0] else len(PAIRS)
    roles = [each.requires_grad_() for each in reference.roll(shift).chunk(2)]
    inputs = {name: value.roll(shift, 0) for name, value in inputs.items()}
    inputs |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), roles, strict=True))
    trainer.beta = 1 / eta
    theirs = trainer.compute_loss(trainer.model, inputs)
    their_gradient = -torch.cat(torch.autograd.grad(theirs, roles)).roll(shift)

    # 1e-6, and where a log-ratio all but cancels against eta/2, the rounding of these two in float32.
    allowance = 2 * torch.finfo(torch.float32).eps * (log_ratios.detach().abs() + eta / 2)
    assert ((2 * our_gradient - their_gradient).abs() <= 1e-6 * their_gradient.abs() + 2 * allowance / len(PAIRS)).all()
    residual = our_gradient.abs() * len(PAIRS)
    of_square = (2 * residual * allowance + allowance**2).sum() / len(PAIRS)
    assert (2 * ours - theirs).abs() <= 1e-6 * theirs + of_square


@pytest.mark.parametrize("objective,loss_type", [(dpo, "sigmoid"), (ipo, "ipo")])
@settings(max_examples=20)
@given(LOG_RATIOS, st.floats(1, 1e4))
def test_dpo_and_ipo_and_their_gradients_by_the_log_ratios(trainer, batch, objective, loss_type, wanted, eta):
    """TRL's IPO divides a log-ratio by the response's tokens, as the paper does not: it is given so many times more."""
    inputs, policy = batch
    tokens = inputs["completion_mask"].sum(dim=1) if loss_type == "ipo" else torch.ones(len(policy))
    reference = policy - torch.tensor(wanted) * tokens
    log_ratios = ((policy - reference) / tokens).requires_grad_()
    pairs = torch.stack(log_ratios.chunk(2), -1)
    ours = objective.loss(Responses(pairs, torch.tensor([1.0, 0.0])), TrainConfig(eta=eta)).mean()
    (our_gradient,) = torch.autograd.grad(ours, log_ratios)

    roles = [each.requires_grad_() for each in reference.chunk(2)]
    given_roles = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), roles, strict=True))
    trainer.beta, trainer.loss_types = 1 / eta, [loss_type]
    theirs = trainer.compute_loss(trainer.model, inputs | given_roles)
    trainer.loss_types = ["sppo_hard"]
    their_gradient = -torch.cat(torch.autograd.grad(theirs, roles)) * tokens

    # 1e-6, and what rounding in float32 leaves of a difference of the log-ratios, and of that less eta/2.
    size = log_ratios.detach().abs().sum() + (eta / 2 if loss_type == "ipo" else 0)
    slope = 2 * (size + eta / 2) if loss_type == "ipo" else 1 / eta
    rounding = 8 * torch.finfo(torch.float32).eps * size
    assert abs(float(ours - theirs)) <= 1e-6 * float(theirs) + float(rounding * slope)
    curvature = 2 if loss_type == "ipo" else 1 / eta**2
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-6, atol=float(rounding) * curvature + 1e-7 / eta)
