"""vLLM's offline engine, in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sppo.config.sections.generate import GenerateConfig
from sppo.errors import ConfigError
from sppo.models.fetch import Policy
from sppo.models.weights import check_weights
from sppo.sampling.engine import Response, Sampling
from sppo.sampling.vllm_memory import cache_options, memory_reported
from sppo.seeds import derive_seed

# The engine runs in this process, so that seeding torch here seeds the sampler; vLLM reads these when it is imported.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def set_environment() -> None:
    """Tell vLLM what it reads when it is imported; call this before anything imports it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def options_here(folder: Path, config: GenerateConfig, context: int, sequences: int | None = None) -> dict[str, Any]:
    """What `vllm.LLM` must be told on this hardware; call it before anything imports vLLM.

    Args:
        folder: of the model.
        config: dtype, and the share of a GPU's memory.
        context: tokens of the longest prompt and response together.
        sequences: that are sampled at once; None if unknown.
    """
    set_environment()
    import torch
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {"gpu_memory_utilization": config.memory_fraction}
    # Compiling costs more than it saves in the minutes that a CPU run lasts, and asks for a C++ compiler. vLLM compiles
    # its sampler even if it is told to be eager.
    torch.compiler.set_stance("force_eager")
    from sppo.sampling.vllm_norms import PRIORITY

    cache = cache_options(folder, config.dtype, context, sequences)
    return {"enforce_eager": True, "ir_op_priority": PRIORITY, **cache}


def adapter_options(rank: int) -> dict[str, Any]:
    """What `vllm.LLM` must be told to have room for an adapter; it knows some ranks only. Nothing for rank 0."""
    if not rank:
        return {}
    from vllm.config.lora import MaxLoRARanks
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from sppo.sampling.vllm_one_adapter import use_one_adapter

        use_one_adapter()
    room = min(known for known in get_args(MaxLoRARanks) if known >= rank)
    return {"enable_lora": True, "max_lora_rank": room}


class VllmEngine:
    """A model loaded in vLLM (docs.vllm.ai, "Offline inference")."""

    def __init__(self, policy: Policy, config: GenerateConfig, context: int, sequences: int | None = None) -> None:
        folder = policy.base
        options = options_here(folder, config, context, sequences) | adapter_options(policy.rank)
        check_weights(str(folder), folder)  # vLLM samples from memory that nobody wrote where a tensor is missing
        from vllm import LLM
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform

        self.on_cpu = current_platform.is_cpu()
        if self.on_cpu:
            from sppo.sampling.vllm_ranks import leave_ranks_out

            leave_ranks_out()
        self.adapter = LoRARequest("policy", 1, str(policy.adapter)) if policy.adapter else None
        try:
            with memory_reported(folder, self.on_cpu):
                self.llm = LLM(
                    str(folder),
                    dtype=config.dtype,
                    max_model_len=context,
                    seed=0,
                    disable_log_stats=True,
                    logprobs_mode="raw_logprobs",  # before temperature and top-p: they are the reference's
                    **options,
                )
        except ValueError as error:
            if "does not support LoRA" not in str(error):
                raise
            raise ConfigError(
                f"train.lora: vLLM has no adapters for this kind of model ({error}); set generate.engine=transformers"
            ) from error

    def sample(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[list[Response]]:
        """See `Engine.sample`.

        On a GPU every prompt has a generator of its own, so that a response does not depend on its batch. vLLM's CPU
        backend has no per-request generators ("CPU Generator does not use offset"), so there the whole call is
        seeded: its result depends on which prompts are sampled together.
        """
        import torch
        from vllm import SamplingParams

        if self.on_cpu:
            torch.manual_seed(derive_seed(0, *seeds))
        parameters = [
            SamplingParams(
                n=sampling.responses,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                logprobs=0,
                seed=None if self.on_cpu or sampling.temperature == 0 else seed,
            )
            for seed in seeds
        ]
        outputs = self._outputs(prompts, parameters, lora_request=self.adapter)
        return [[_response(completion) for completion in output.outputs] for output in outputs]

    def next_logprobs(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
        """See `Engine.next_logprobs`."""
        from vllm import SamplingParams

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, logprobs=len(tokens), logprob_token_ids=list(tokens), detokenize=False
        )
        outputs = self._outputs(prompts, parameters)
        steps = [output.outputs[0].logprobs[0] for output in outputs]
        return np.array([[step[token].logprob for token in tokens] for step in steps]).reshape(-1, len(tokens))

    def _outputs(self, prompts: Sequence[list[int]], parameters: Any, **options: Any) -> list[Any]:
        """vLLM's outputs; what an earlier call left in its cache is forgotten, because it would round otherwise."""
        self.llm.reset_prefix_cache()
        return self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False, **options)

    def close(self) -> None:
        """See `Engine.close`."""
        from vllm.distributed import cleanup_dist_env_and_memory

        del self.llm
        cleanup_dist_env_and_memory()


def _response(completion: Any) -> Response:
    ids = list(completion.token_ids)
    logprobs = [float(step[token].logprob) for step, token in zip(completion.logprobs, ids, strict=True)]
    return Response(completion.text, ids, logprobs, str(completion.finish_reason))
