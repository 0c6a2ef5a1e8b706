"""How many tokens a pass of a judge holds."""

import pytest
import torch
from transformers import DebertaV2Config, Qwen3Config

from sppo.config.run import resolve
from sppo.errors import ConfigError
from sppo.judging.batching import bytes_of_a_token, tokens_of_a_pass, tokens_that_fit

GIB = 2**30
LARGE = DebertaV2Config(hidden_size=1024, intermediate_size=4096, num_attention_heads=16)
"""deberta-v3-large's layers, of which PairRM is made."""


@pytest.mark.parametrize(
    ("memory", "element", "tokens"),
    [(139, 2, 32768), (80, 2, 32768), (24, 2, 16384), (24, 4, 8192), (0.3, 2, 512), (-1, 2, 512)],
)
def test_pairrms_passes_by_memory(memory, element, tokens):
    needed = bytes_of_a_token(LARGE, element, 1224 + 2 * 412)
    found = tokens_that_fit(int(memory * GIB), needed)
    assert found == tokens
    assert found == 512 or found * needed <= memory * GIB / 2


def test_fused_attention_needs_no_room_for_scores():
    config = Qwen3Config(hidden_size=1024, intermediate_size=3072, num_attention_heads=16)
    assert bytes_of_a_token(config, 2) == 2 * (8 * 1024 + 2 * 3072)


def test_on_a_cpu_a_pass_is_small_and_a_number_is_kept_to():
    model, cpu = torch.nn.Linear(1, 1), torch.device("cpu")
    assert tokens_of_a_pass(0, model, 10**9, cpu) == 2048
    assert tokens_of_a_pass(600, model, 10**9, cpu) == tokens_of_a_pass(600, model, 10**9, torch.device("cuda")) == 600
    with pytest.raises(ConfigError, match="batch_tokens: 100 is less than 512; 0 goes by the device's memory"):
        resolve({"judge.batch_tokens": 100})


@pytest.mark.parametrize("preset", ["paper", "official", "strong"])
def test_presets_for_gpus_judge_in_bfloat16_by_memory(preset):
    judge = resolve({"preset": preset}).judge
    assert (judge.dtype, judge.batch_tokens) == ("bfloat16", 0)
