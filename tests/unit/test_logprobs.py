import copy
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from sppo.errors import ConfigError
from sppo.models.network import attention, logprobs, short_attention
from sppo.models.network.lean import fuse
from sppo.models.network.logprobs import ResponseLogprobs, check_model
from sppo.models.network.packing import Group, within_budget

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
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "phi3": Phi3Config(**SIZES),
    "gemma2 with soft caps and a window": Gemma2Config(
        **SIZES, head_dim=8, final_logit_softcapping=2.0, attn_logit_softcapping=1.5, sliding_window=4
    ),
    "gemma3 with a window": Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4),
}
UNKNOWN = {
    "its own scale": CohereConfig(**{**SIZES, "num_key_value_heads": 4}, logit_scale=0.1),
    "attention sinks": GptOssConfig(**SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
}
IDS = st.lists(st.integers(3, 49), min_size=1, max_size=9)


@cache
def build(name: str):
    torch.manual_seed(0)
    attention.register()
    config = {**CONFIGS, **UNKNOWN}[name]
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval()


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request):
    return build(request.param)


def alone(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    """The reference: one sequence without padding through the model's own forward pass and its own attention."""
    model.set_attn_implementation("eager")
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    model.set_attn_implementation(attention.NAME)
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def together(model, groups: list[Group]) -> list[tuple[list[int], list[int], torch.Tensor]]:
    """Prompt, response and log-probabilities of all responses of a packed row."""
    found = ResponseLogprobs(model).of(groups)
    return [
        (list(group.prompt), list(response), values)
        for group, own in zip(groups, found, strict=True)
        for response, values in zip(group.responses, own, strict=True)
    ]


GROUPS = [
    Group([5, 6, 7], [[8, 9, 10, 11, 2], [8, 2]]),
    Group([12], [[13], [14, 15, 16], [2]]),
    Group([14] * 9, [[15, 2]]),
]


@torch.no_grad()
@pytest.mark.parametrize("positions", [1, 3, 2048])
@pytest.mark.parametrize("explicit", [0, 512])
def test_they_are_the_models_own_position_by_position(model, positions, explicit, monkeypatch):
    monkeypatch.setattr(logprobs, "HEAD_POSITIONS", positions)
    monkeypatch.setattr(short_attention, "LONGEST", explicit)
    for prompt, response, values in together(model, GROUPS):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, alone(model, prompt, response), rtol=1e-5, atol=1e-5)


def gradients(model, losses) -> list[torch.Tensor]:
    """The gradient of a sum of losses, each passed backward alone."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("explicit", [0, 512])
def test_the_gradient_is_that_of_one_sequence_at_a_time(model, explicit, monkeypatch):
    """Of a loss that is not linear in them, as ours is not."""
    monkeypatch.setattr(short_attention, "LONGEST", explicit)
    packed = gradients(model, [sum(values.sum().square() for _, _, values in together(model, GROUPS))])
    sequences = [(group.prompt, response) for group in GROUPS for response in group.responses]
    single = gradients(model, (alone(model, *sequence).sum().square() for sequence in sequences))
    for ours, own in zip(packed, single, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5 * float(own.abs().max()))


@torch.no_grad()
@given(st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_a_response_depends_on_nothing_but_its_prompt(rows):
    model = build("mistral with a short window")
    for prompt, response, values in together(model, [Group(*row) for row in rows]):
        torch.testing.assert_close(values, alone(model, prompt, response), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 4])
def test_the_mask_for_gpus_shows_what_the_responses_see(window):
    """FlexAttention's mask, evaluated in full, against one sequence at a time."""
    row = logprobs.pack(GROUPS, torch.device("cpu"))
    length = row.ids.shape[1]
    mask = attention.block_mask(row.groups, window, torch.device("cpu"))
    places = torch.arange(length)
    sees = mask.mask_mod(0, 0, places[:, None], places[None, :])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, length, 8, generator=generator) for _ in range(3))
    scores = (query @ key.transpose(-1, -2) * 8**-0.5).masked_fill(~sees, float("-inf"))
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    found, _ = attention.packed_attention(torch.nn.Identity(), query, key, value, None, row=row, sliding_window=window)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mistral with a short window", "gemma2 with soft caps and a window"])
def test_layers_compiled_as_for_gpus_take_rows_of_all_lengths(name, monkeypatch):
    """In one graph a kind of layer, by FlexAttention, with what the sequences give one at a time."""
    model, counters = copy.deepcopy(build(name)), torch._dynamo.utils.counters
    window = getattr(model.config, "sliding_window", None)
    torch._dynamo.reset()
    counters.clear()
    fuse(model, backend="eager", fullgraph=True)

    def told(row, _config):
        return {"masks": {each: attention.block_mask(row.groups, each, row.ids.device) for each in {None, window}}}

    monkeypatch.setattr(attention, "told", told)
    for groups in ([*GROUPS, Group([3] * 140, [[4] * 90, [5]])], [Group([6], [[7] * 150]), Group([8, 9], [[9] * 170])]):
        for prompt, response, values in together(model, groups):
            torch.testing.assert_close(values, alone(build(name), prompt, response), rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == (2 if name.startswith("gemma2") else 1)


def test_known_architectures_pass_the_check(model):
    assert check_model(model) is None


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_architecture_that_is_not_known_is_refused(name):
    with pytest.raises(ConfigError, match=r"base_model: .*(CohereForCausalLM|GptOss)"):
        check_model(build(name))


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 20))
def test_runs_keep_the_order_and_the_budget(sizes, budget):
    runs = list(within_budget(sizes, lambda size: size, budget))
    assert [size for run in runs for size in run] == sizes
    assert all(sum(run) <= budget or len(run) == 1 for run in runs)
    assert all(sum(run) + following[0] > budget for run, following in pairwise(runs))
