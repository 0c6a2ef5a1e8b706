"""Training checkpoints: weights, optimizer state and position, committed like every other output of a run.

Every worker writes its own part, with torch.distributed.checkpoint in safetensors files, so that a checkpoint can be
resumed by another number of workers: https://docs.pytorch.org/docs/stable/distributed.checkpoint.html.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed.checkpoint as dcp

from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.store.base import Store, new_attempt
from sppo.training.workers.parallel import Workers

_LATEST = "latest.json"
_LOG = "log.json"
_BUDGET = "budget.json"
_FILE_BYTES, _FILES = 2**27, 32
"""A file has about so many bytes, or more where there would be more files: while one is written there are copies."""


class Checkpoints:
    """The checkpoints of one training; only the newest committed one is kept.

    The inputs (digests of the reference model, the pairs and the configuration) go into every manifest, so that a
    training can only be resumed with the reference that it began with.
    """

    def __init__(self, store: Store, key: str, inputs: Mapping[str, str], group: Workers) -> None:
        self.store, self.key, self.inputs, self.group = store, key, dict(inputs), group

    def save(self, step: int, state: dict[str, torch.Tensor], log: list[dict[str, float]]) -> None:
        """Commit the state after `step` optimizer steps, then forget the one before."""
        before = self._latest()
        key = self._step_key(step)
        with self._failure_told(key, before), self.store.scratch() as folder:
            output = folder / "output"
            output.mkdir()
            writer = dcp.HuggingFaceStorageWriter(str(output), _in_files(state), save_distributed=True)
            with _silent():
                dcp.save(state, storage_writer=writer, no_dist=self.group.size == 1)
            if self.group.first:
                (output / _LOG).write_text(json.dumps(log))
            attempt = self.group.gather(new_attempt())[0]
            files = [file for part in self.group.gather(self.store.upload(key, attempt, output)) for file in part]
            if self.group.first:
                self.store.seal(key, attempt, files, self.inputs, {"step": float(step)})
                self.store.write(f"{self.key}/{_LATEST}", json.dumps({"step": step}).encode())
        if self.group.first and before is not None and before != step:
            self.store.delete(self._step_key(before))
        self.group.gather(None)

    def restore(self, state: dict[str, torch.Tensor]) -> tuple[int, list[dict[str, float]]]:
        """Load the newest checkpoint, if there is one, into the tensors of a state.

        Returns:
            The optimizer steps done, and the log so far; (0, []) where there is no checkpoint.

        Raises:
            ConfigError: if the checkpoint belongs to a training with other inputs.
        """
        step = self._latest()
        if step is None:
            return 0, []
        key = self._step_key(step)
        with self.group.first_of_node_goes_ahead():
            folder = self.store.fetch(key)
        manifest = self.store.manifest(key)
        assert manifest is not None
        changed = manifest.changed_inputs(self.inputs)
        if changed:
            raise ConfigError(
                f"{self.store.uri}/{key}: the checkpoint was made with another {', '.join(changed)}; "
                f"delete {self.store.uri}/{self.key} to train anew"
            )
        reader = dcp.HuggingFaceStorageReader(str(folder))
        with _silent():
            dcp.load(state, storage_reader=reader, no_dist=self.group.size == 1)
        return step, json.loads((folder / _LOG).read_text())

    def keep_budget(self, config: TrainConfig, budget: int) -> None:
        """Keep, until the checkpoints are cleared, the tokens of a pass that there seems to be memory for."""
        kept = {"asked": self._asked(config), "budget": budget}
        self.store.write(f"{self.key}/{_BUDGET}", json.dumps(kept).encode())

    def budget(self, config: TrainConfig) -> int:
        """Tokens of a pass: what an attempt with these settings found there is memory for, else what they ask for."""
        data = self.store.read(f"{self.key}/{_BUDGET}")
        kept = json.loads(data) if data else {}
        budget = kept["budget"] if kept.get("asked") == self._asked(config) else config.micro_tokens
        return self.group.gather(budget)[0]

    def clear(self) -> None:
        """Remove all checkpoints: the model is committed."""
        if self.group.first:
            self.store.delete(self.key)

    def _asked(self, config: TrainConfig) -> list[int]:
        return [config.micro_tokens, int(config.gradient_checkpointing), self.group.size]

    @contextmanager
    def _failure_told(self, key: str, before: int | None) -> Iterator[None]:
        try:
            yield
        except (OSError, InfrastructureError, dcp.api.CheckpointException) as error:
            failed = error.failures.values() if isinstance(error, dcp.api.CheckpointException) else [(error, None)]
            kept = "no earlier one exists" if before is None else f"that of step {before} is intact"
            raise InfrastructureError(
                f"{self.store.uri}/{key}: the checkpoint cannot be written ({next(iter(failed))[0]}); {kept}: "
                "free or mend that place and resume"
            ) from error

    def _latest(self) -> int | None:
        data = self.store.read(f"{self.key}/{_LATEST}")
        return None if data is None else int(json.loads(data)["step"])

    def _step_key(self, step: int) -> str:
        return f"{self.key}/step-{step:06d}"


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warning that one process is enough for what torch.distributed.checkpoint is asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
        yield


def _in_files(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The number of the file, from 1, in which each tensor of a state is written."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in state.items()}
    most = max(_FILE_BYTES, -(-sum(sizes.values()) // _FILES))
    files, file, filled = {}, 1, 0
    for name, size in sizes.items():
        if filled and filled + size > most:
            file, filled = file + 1, 0
        files[name] = file
        filled += size
    return files
