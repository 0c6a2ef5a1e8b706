"""Transformers' own `generate`, for machines where vLLM does not install."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sppo.config.sections.generate import GenerateConfig
from sppo.models.adapters import load_adapted
from sppo.models.fetch import Policy
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import device_for
from sppo.preparing.chat import load_tokenizer
from sppo.sampling.engine import Response, Sampling
from sppo.seeds import derive_seed

_SEQUENCES = 64
"""Sequences decoded together."""


class TransformersEngine:
    """A model loaded with `AutoModelForCausalLM`."""

    def __init__(self, policy: Policy, config: GenerateConfig) -> None:
        from transformers import GenerationConfig

        self.dtype = config.dtype
        self.tokenizer = load_tokenizer(policy.base)
        self.model = load_adapted(policy, config.dtype).to(device_for()).eval()
        self.ends = _as_list(self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id)
        self.pad = self.ends[0] if self.ends else 0  # masked out
        # Whatever else the model's own settings hold, such as a repetition penalty, would sample from another policy.
        # Logits that are no numbers would end the sampling with a traceback; the log-probabilities tell of them.
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.ends or None, pad_token_id=self.pad, remove_invalid_values=True
        )

    def sample(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[list[Response]]:
        """See `Engine.sample`; the whole call is seeded, so its result depends on which prompts go together."""
        import torch

        torch.manual_seed(derive_seed(0, *seeds))
        at_once = max(1, _SEQUENCES // sampling.responses)
        results: list[list[Response]] = []
        for start in range(0, len(prompts), at_once):
            results += self._sample_batch(prompts[start : start + at_once], sampling)
        return results

    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
        """See `Engine.next_logprobs`; prompt by prompt, so that none is padded."""
        import torch

        rows = np.empty((len(prompts), len(tokens)))
        with torch.inference_mode():
            for row, ids in enumerate(prompts):
                inputs = torch.tensor([ids], device=self.model.device)
                logits = self.model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
                rows[row] = logits.float().log_softmax(-1)[list(tokens)].cpu().numpy()
        return rows

    def close(self) -> None:
        """See `Engine.close`."""
        del self.model

    def _sample_batch(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[Response]]:
        import torch

        width = max(len(ids) for ids in prompts)
        inputs = torch.tensor([[self.pad] * (width - len(ids)) + ids for ids in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=self.model.device)
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
        with torch.inference_mode():
            sequences = self.model.generate(
                input_ids=inputs,
                attention_mask=mask,
                do_sample=sampling.temperature > 0,
                num_return_sequences=sampling.responses,
                max_new_tokens=sampling.max_tokens,
                **how,
            )[:, width:].tolist()
            responses = [self._until_end(ids) for ids in sequences]
            grouped = [responses[i : i + sampling.responses] for i in range(0, len(responses), sampling.responses)]
            groups = [Group(prompt, own) for prompt, own in zip(prompts, grouped, strict=True)]
            with attention.packed(self.model):
                logprobs = [own for group in ResponseLogprobs(self.model).of(groups) for own in group]
        flat = [
            Response(
                self.tokenizer.decode(ids, skip_special_tokens=True),
                ids,
                row.tolist(),
                "stop" if ids[-1] in self.ends else "length",
            )
            for ids, row in zip(responses, logprobs, strict=True)
        ]
        return [flat[i : i + sampling.responses] for i in range(0, len(flat), sampling.responses)]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [i for i, token in enumerate(ids) if token in self.ends]
        return ids[: ends[0] + 1] if ends else ids


def _as_list(token: int | list[int] | None) -> list[int]:
    if token is None:
        return []
    return [token] if isinstance(token, int) else list(token)
