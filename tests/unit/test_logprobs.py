from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

from sppo import logprobs
from sppo.errors import ConfigError
from sppo.logprobs import check_head, response_logprobs

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral with a short window": MistralConfig(**SIZES, sliding_window=4),
    "qwen2": Qwen2Config(**SIZES),
    "gemma2 with a soft cap": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "cohere": CohereConfig(**{**SIZES, "num_key_value_heads": 4}, logit_scale=0.1),
}
IDS = st.lists(st.integers(3, 49), min_size=1, max_size=9)


@cache
def build(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()


@pytest.fixture(scope="module", params=[name for name in CONFIGS if name != "cohere"])
def model(request):
    return build(request.param)


def alone(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    """The reference: one sequence without padding through the model's own forward pass."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


ROWS = [([5, 6, 7], [8, 9, 10, 11, 2]), ([12], [13]), ([14] * 9, [15, 2]), ([16, 17], [18, 19, 20])]


@torch.no_grad()
@pytest.mark.parametrize("positions", [1, 3, 2048])
def test_they_are_the_models_own_whatever_the_padding_and_the_chunks(model, positions, monkeypatch):
    monkeypatch.setattr(logprobs, "HEAD_POSITIONS", positions)
    found = response_logprobs(model, [prompt for prompt, _ in ROWS], [response for _, response in ROWS])
    for (prompt, response), values in zip(ROWS, found, strict=True):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, alone(model, prompt, response), rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_models_own_forward_pass(model):
    prompt, response = ROWS[0]
    grads = []
    for values in (response_logprobs(model, [prompt, [3]], [response, [4]])[0], alone(model, prompt, response)):
        model.zero_grad()
        values.sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for ours, own in zip(*grads, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4))
def test_a_response_does_not_depend_on_its_neighbours(rows):
    model = build("llama")
    found = response_logprobs(model, [prompt for prompt, _ in rows], [response for _, response in rows])
    for (prompt, response), values in zip(rows, found, strict=True):
        torch.testing.assert_close(values, alone(model, prompt, response), rtol=1e-4, atol=1e-4)


def test_known_heads_pass_the_check(model):
    check_head(model)


def test_a_head_that_rescales_is_refused():
    with pytest.raises(ConfigError, match="the output head of CohereForCausalLM is not supported"):
        check_head(build("cohere"))
