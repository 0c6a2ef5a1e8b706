import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config

from sppo.models.network.lean import GatedProducts, make_lean
from sppo.models.network.logprobs import HEAD_POSITIONS, HeadLogprobs
from sppo.models.network.short_attention import ShortAttention

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def model(kind, dtype=torch.float32, **more):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(kind(**SIZES, **more), dtype=dtype)
    for parameter in made.parameters():  # norms begin as ones, which would hide what is done with them
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def gradients(policy, ids):
    policy.zero_grad()
    logits = policy(input_ids=ids).logits.float()
    logits.log_softmax(-1).square().sum().backward()
    return logits.detach(), {name: p.grad.float() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("rows", [7, 300])
def test_a_lean_model_computes_what_its_own_layers_do(kind, rows):
    policy = model(kind)
    ids = torch.randint(0, 64, (1, rows))
    logits, expected = gradients(policy, ids)
    make_lean(policy)
    assert "forward" in vars(policy.model.norm) and "forward" in vars(policy.model.layers[0].mlp)
    lean, found = gradients(policy, ids)
    torch.testing.assert_close(lean, logits, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_in_bfloat16_it_rounds_as_they_do():
    policy = model(LlamaConfig, torch.bfloat16)
    ids = torch.randint(0, 64, (1, 40))
    exact = gradients(model(LlamaConfig).eval(), ids)[0]
    own = (gradients(policy, ids)[0] - exact).abs().mean()
    make_lean(policy)
    assert (gradients(policy, ids)[0] - exact).abs().mean() < 1.1 * own


def test_layers_that_are_not_known_stay_as_they_are():
    policy = model(Gemma2Config)
    make_lean(policy)
    biased = model(LlamaConfig, mlp_bias=True)
    make_lean(biased)
    other = model(LlamaConfig, hidden_act="gelu")
    make_lean(other)
    checkpointed = model(LlamaConfig)
    checkpointed.gradient_checkpointing_enable()
    make_lean(checkpointed)
    changed = ["forward" in vars(each.model.layers[0].mlp) for each in (policy, biased, other, checkpointed)]
    assert changed == [False] * 4 and "forward" not in vars(policy.model.norm)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.lists(st.integers(1, 3), max_size=3)), min_size=1, max_size=2),
    st.sampled_from([None, 2]),
)
def test_attention_has_the_gradient_of_its_output(groups, window):
    groups = tuple((prompt, tuple(responses)) for prompt, responses in groups)
    length = sum(prompt + sum(responses) for prompt, responses in groups)
    tensors = [torch.randn(1, heads, length, 2, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    assert gradcheck(lambda *qkv: ShortAttention.apply(*qkv, groups, 0.7, window), tensors)


def test_the_gate_has_the_gradient_of_its_output():
    shapes = ((1, 5, 4), (6, 4), (6, 4))
    assert gradcheck(GatedProducts.apply, [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes])


@pytest.mark.parametrize("positions", [3, HEAD_POSITIONS + 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_the_head_is_log_softmax_of_capped_logits(positions, bias, cap):
    torch.manual_seed(0)
    hidden, weight = torch.randn(positions, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    offset = torch.randn(9, requires_grad=True) if bias else None
    targets, upstream = torch.randint(0, 9, (positions,)), torch.randn(positions)
    inputs = [each for each in (hidden, weight, offset) if each is not None]
    logits = torch.nn.functional.linear(hidden, weight, offset)
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    own = logits.log_softmax(-1)[torch.arange(positions), targets]
    ours = HeadLogprobs.apply(hidden, weight, offset, targets, cap)
    torch.testing.assert_close(ours, own)
    for found, expected in zip(*(torch.autograd.grad(y, inputs, upstream) for y in (ours, own)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
