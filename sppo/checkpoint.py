"""Training checkpoints: weights, optimizer state and position, committed like every other output of a run.

Every worker writes its own part, with torch.distributed.checkpoint in safetensors files, so that a checkpoint can be
resumed by another number of workers: https://docs.pytorch.org/docs/stable/distributed.checkpoint.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
import torch.distributed.checkpoint as dcp

from sppo.errors import ConfigError
from sppo.parallel import Workers
from sppo.store import Store, new_attempt, scratch

_LATEST = "latest.json"
_LOG = "log.json"


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
        with scratch(self.store) as folder:
            output = folder / "output"
            output.mkdir()
            writer = dcp.HuggingFaceStorageWriter(str(output), save_distributed=True)
            dcp.save(state, storage_writer=writer, no_dist=self.group.size == 1)
            if self.group.first:
                (output / _LOG).write_text(json.dumps(log))
            attempt = self.group.gather(new_attempt())[0]
            files = [file for part in self.group.gather(self.store.upload(key, attempt, output)) for file in part]
        if self.group.first:
            self.store.seal(key, attempt, files, self.inputs, {"step": float(step)})
            self.store.write(f"{self.key}/{_LATEST}", json.dumps({"step": step}).encode())
            if before is not None and before != step:
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
        changed = sorted(name for name in self.inputs if manifest.inputs.get(name) != self.inputs[name])
        if changed:
            raise ConfigError(
                f"{self.store.uri}/{key}: the checkpoint was made with another {', '.join(changed)}; "
                f"delete {self.store.uri}/{self.key} to train anew"
            )
        reader = dcp.HuggingFaceStorageReader(str(folder))
        dcp.load(state, storage_reader=reader, no_dist=self.group.size == 1)
        return step, json.loads((folder / _LOG).read_text())

    def clear(self) -> None:
        """Remove all checkpoints: the model is committed."""
        if self.group.first:
            self.store.delete(self.key)

    def _latest(self) -> int | None:
        data = self.store.read(f"{self.key}/{_LATEST}")
        return None if data is None else int(json.loads(data)["step"])

    def _step_key(self, step: int) -> str:
        return f"{self.key}/step-{step:06d}"
