"""A model whose dropped weights are needed again: it is trained again, and must become what it was."""

from __future__ import annotations

from pathlib import Path

from sppo.errors import RunFailedError
from sppo.store import keys
from sppo.store.base import MANIFEST, Manifest, describe
from sppo.store.lineage import Lineage


def forget(lineage: Lineage, iteration: int) -> None:
    """Let a model whose weights were dropped be trained again: note what it was, and take its manifest away."""
    key, store = lineage.model_key(iteration), lineage.store
    before = store.read(f"{key}/{MANIFEST}")
    if before is not None:
        store.write(keys.model_before(iteration, lineage.train(iteration)), before)
        store.uncommit(key)


def check_as_before(lineage: Lineage, iteration: int, output: Path) -> None:
    """Make room for a model that was trained again, or refuse it if it is another one: later stages used the first.

    What was left of the first one is then as it was before, so that reports and comparisons still find it.

    Args:
        lineage: of the run.
        iteration: t, from 1.
        output: the folder that is about to be committed.

    Raises:
        RunFailedError: if a file is not what it was.
    """
    key, store = lineage.model_key(iteration), lineage.store
    noted = store.read(keys.model_before(iteration, lineage.train(iteration)))
    if noted is None:
        return
    before, now = Manifest.model_validate_json(noted), Manifest(inputs={}, figures={}, files=describe(output))
    if before.digest() == now.digest():
        store.delete(key)
        return
    store.write(f"{key}/{MANIFEST}", noted)
    raise RunFailedError(
        f"{store.uri}/{key}: its weights were dropped, and trained again they are others, as on another kind of "
        "machine, by another version, or with other workers, train.micro_tokens or train.gradient_checkpointing; later "
        "stages were made from the first ones: put that back, or choose another output_uri"
    )
