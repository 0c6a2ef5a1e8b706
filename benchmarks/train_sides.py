"""The processes of `train.py`: each loads a policy and pairs, then takes one optimizer step a line of its input."""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sppo.config.sections.train import TrainConfig
from sppo.models.fetch import fetch_model
from sppo.models.network import attention, short_attention
from sppo.models.network.lean import fuse, make_lean
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group, pack
from sppo.models.policy import device_for, load_policy
from sppo.preparing.recorded import recorded_config
from sppo.store import keys, tables
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store
from sppo.training import update
from sppo.training.optimizer import RMSProp
from sppo.training.update import Batch, Pair, Updater, group_of
from sppo.training.workers.parallel import Workers

SHAPES = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
"""Llamas with random weights: those of TinyLlama and of Llama 2 7B."""


def tell(**facts: float) -> None:
    """One line to whoever measures."""
    print(json.dumps(facts), flush=True)


def read_pairs(run: str, joined: int) -> list[Pair]:
    """The pairs of a run's first iteration, as long as so many of them one after the other."""
    lineage = Lineage(recorded_config(run), open_store(run))
    paths = sorted(Path(run, keys.preferences(1, lineage.rank(1))).glob(f"*/{keys.PAIRS_FILE}"))
    if not paths:
        raise SystemExit(f"{run}: no pairs of a first iteration; play one with `sppo run output_uri={run}`")
    pairs = [row for path in paths for row in tables.read(path, tables.PAIRS)]
    columns = [f"{part}_ids" for part in ("prompt", "chosen", "rejected")] + ["chosen_logprobs", "rejected_logprobs"]
    following = [[pairs[(row + step) % len(pairs)] for step in range(joined)] for row in range(len(pairs))]
    return [rows[0] | {name: [each for row in rows for each in row[name]] for name in columns} for rows in following]


def base_folder(run: str, weights: bool) -> Path:
    """The folder of a run's first policy."""
    return fetch_model(recorded_config(run).base_model, weights=weights)


def read_policy(run: str, shape: str, how: str) -> Any:
    """The run's first policy, or one with its vocabulary and random weights, of its own shape or of another."""
    folder = base_folder(run, weights=shape == "run")
    if shape == "run":
        return load_policy(folder, "float32", how)
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    config = AutoConfig.from_pretrained(folder)
    if shape != "random":
        config = LlamaConfig(vocab_size=config.vocab_size, **SHAPES[shape])
    with torch.device(device_for()):
        return AutoModelForCausalLM.from_config(config, attn_implementation=how)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the product of two matrices of 4096 × 4096, the best of three."""
    one, other = (torch.randn(4096, 4096, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(3):
        wait(device)
        start = time.perf_counter()
        one @ other
        wait(device)
        best = max(best, 2 * 4096**3 / (time.perf_counter() - start))
    return best


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def peak_gib(device: torch.device) -> float:
    """Peak memory of this process: the GPU's, or all of it on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ours(
    pairs: list[Pair],
    policy: Any,
    dtype: str,
    batch: int,
    rate: bool = False,
    share: bool = True,
    short: int = short_attention.LONGEST,
    fused: bool = True,
    micro_tokens: int = 0,
    checkpointing: bool = False,
    lean: bool = True,
) -> None:
    """This project's step, or what it is without one of its ideas."""
    device = device_for()
    short_attention.LONGEST = short
    if not share:
        update.pack = lambda groups, device: pack([Group(g.prompt, [r]) for g in groups for r in g.responses], device)
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    if lean and device.type == "cpu":
        make_lean(policy)
    elif lean:
        fuse(policy)
    group = Workers(0, 1, device)
    scorer = ResponseLogprobs(policy).to(device).train()
    config = TrainConfig(
        dtype=dtype, global_batch=batch, micro_tokens=micro_tokens or (16384 if device.type == "cuda" else 4096)
    )
    optimizer = (RMSProp if fused else LibraryRMSProp)(scorer, getattr(torch, dtype), group)
    updater = Updater(scorer, optimizer, group, config)
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    tell(parameters=parameters)
    for step, taken in enumerate(batches(pairs, batch)):
        before = matrix_rate(device, getattr(torch, dtype)) if rate else 0.0
        start = time.perf_counter()
        updater.step(Batch(step, taken), 1e-6)
        wait(device)
        seconds = time.perf_counter() - start
        after = matrix_rate(device, getattr(torch, dtype)) if rate else 0.0
        tokens = sum(group_of(pair).tokens for pair in taken)
        tell(seconds=seconds, tokens=tokens, flops=6.0 * parameters * tokens, rate=(before + after) / 2)
    tell(peak_gib=peak_gib(device))


class LibraryRMSProp(RMSProp):
    """The same update with PyTorch's optimizer and clipping."""

    def step(self, rate: float, norm: float, max_norm: float) -> None:
        """See `RMSProp.step`."""
        if not hasattr(self, "library"):
            self.masters = [torch.nn.Parameter(weight) for weight in self.weights.values()]
            self.library = torch.optim.RMSprop(self.masters, foreach=True)
        for master, (_, gradient) in zip(self.masters, self._gradients(), strict=True):
            master.grad = gradient.float()
        torch.nn.utils.clip_grad_norm_(self.masters, max_norm)
        self.library.param_groups[0]["lr"] = rate
        self.library.step()
        for parameter, master in zip(self.parameters.values(), self.masters, strict=True):
            parameter.data.copy_(master.data)
        self.library.zero_grad()
        self.forget()


def batches(pairs: list[Pair], size: int) -> Iterator[list[Pair]]:
    """Endless batches, one a line of the input."""
    pool = itertools.cycle(pairs)
    for _ in sys.stdin:
        yield list(itertools.islice(pool, size))


def trl(pairs: list[Pair], policy: Any, dtype: str, batch: int) -> None:
    """TRL's own training loop, held before each of its steps until it is told to go on."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not sys.stdin.readline():
                tell(peak_gib=peak_gib(device_for()))
                sys.exit()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device_for())
            tell(seconds=time.perf_counter() - self.start)

    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=policy,
            args=DPOConfig(
                output_dir=folder,
                loss_type="sppo_hard",
                beta=1e-3,
                per_device_train_batch_size=min(batch // 2, 16),
                gradient_accumulation_steps=max(2, batch // 16),
                max_steps=10_000,
                optim="rmsprop",
                learning_rate=1e-6,
                bf16=dtype == "bfloat16",
                gradient_checkpointing=False,
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_num_workers=0,
            ),
            train_dataset=Dataset.from_list([{"prompt": "?", "chosen": " yes", "rejected": " no"}] * 2),
            processing_class=AutoTokenizer.from_pretrained(base_folder(sys.argv[2], weights=False)),
            callbacks=[Turns()],
        )
        # The same tokens as ours, in the columns that TRL's own tokenization makes.
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        trainer.train_dataset = Dataset.from_list([{name: pair[name] for name in names} for pair in pairs])
        tell(parameters=sum(parameter.numel() for parameter in policy.parameters()))
        trainer.train()


def main() -> None:
    """Play the side that is named: SIDE RUN SHAPE JOINED DTYPE MICRO_TOKENS OPTIONS."""
    side, run, shape, joined, dtype, micro_tokens, options = sys.argv[1:]
    attention.register()
    sides: dict[str, Callable[..., None]] = {"ours": ours, "trl": trl}
    policy = read_policy(run, shape, attention.NAME if side == "ours" else "sdpa")
    own = {"micro_tokens": int(micro_tokens)} if side == "ours" else {}
    sides[side](read_pairs(run, int(joined)), policy, dtype, **own | json.loads(options))


if __name__ == "__main__":
    main()
