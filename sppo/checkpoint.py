"""Training checkpoints: weights, optimizer state and position, committed like every other output of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sppo.errors import ConfigError
from sppo.store import Store, run_once

_LATEST = "latest.json"


class Checkpoints:
    """The checkpoints of one training; only the newest committed one is kept.

    The inputs (digests of the reference model, the pairs and the configuration) go into every manifest, so that a
    training can only be resumed with the reference that it began with.
    """

    def __init__(self, store: Store, key: str, inputs: Mapping[str, str]) -> None:
        self.store, self.key, self.inputs = store, key, dict(inputs)

    def save(
        self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, log: list[dict[str, float]]
    ) -> None:
        """Commit the state after `step` optimizer steps, then forget the one before."""
        before = self._latest()

        def work(folder: Path) -> Mapping[str, float]:
            save_file(_named_weights(model), folder / "weights.safetensors")
            save_file(_named_state(model, optimizer), folder / "optimizer.safetensors")
            (folder / "log.json").write_text(json.dumps(log))
            return {"step": float(step)}

        run_once(self.store, self._step_key(step), self.inputs, work)
        self.store.write(f"{self.key}/{_LATEST}", json.dumps({"step": step}).encode())
        if before is not None and before != step:
            self.store.delete(self._step_key(before))

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, float]]]:
        """Load the newest checkpoint, if there is one, into a model and its optimizer.

        Returns:
            The optimizer steps done, and the log so far; (0, []) where there is no checkpoint.

        Raises:
            ConfigError: if the checkpoint belongs to a training with other inputs.
        """
        step = self._latest()
        if step is None:
            return 0, []
        key = self._step_key(step)
        folder = self.store.fetch(key)
        manifest = self.store.manifest(key)
        assert manifest is not None
        changed = sorted(name for name in self.inputs if manifest.inputs.get(name) != self.inputs[name])
        if changed:
            raise ConfigError(
                f"{self.store.uri}/{key}: the checkpoint was made with another {', '.join(changed)}; "
                f"delete {self.store.uri}/{self.key} to train anew"
            )
        weights = load_file(folder / "weights.safetensors")
        for name, parameter in model.named_parameters():
            parameter.data.copy_(weights[name])
        _load_state(model, optimizer, load_file(folder / "optimizer.safetensors"))
        return step, json.loads((folder / "log.json").read_text())

    def clear(self) -> None:
        """Remove all checkpoints: the model is committed."""
        self.store.delete(self.key)

    def _latest(self) -> int | None:
        data = self.store.read(f"{self.key}/{_LATEST}")
        return None if data is None else int(json.loads(data)["step"])

    def _step_key(self, step: int) -> str:
        return f"{self.key}/step-{step:06d}"


def _named_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def _named_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}//{entry}": value.contiguous()
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state[parameter].items()
    }


def _load_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, torch.Tensor]) -> None:
    by_parameter: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        name, _, entry = key.rpartition("//")
        by_parameter.setdefault(name, {})[entry] = value
    for name, parameter in model.named_parameters():
        if name in by_parameter:
            optimizer.state[parameter].update(
                {
                    entry: value.to(parameter.device) if value.dim() else value
                    for entry, value in by_parameter[name].items()
                }
            )
