"""Work that is done once: what is committed is not made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sppo.errors import ConfigError
from sppo.store.base import Manifest, Store


def check_made_from(store: Store, key: str, names: Iterable[str], digest: str, uri: str) -> None:
    """Refuse a model that is not the one which an earlier stage had, whatever its own manifest says.

    Args:
        store: the run's.
        key: what the earlier stage committed; where there is nothing, nothing is refused.
        names: the inputs under which that may have the model.
        digest: the model's now.
        uri: the model's.

    Raises:
        ConfigError: if it is another one.
    """
    manifest = store.manifest(key)
    if manifest is not None and digest not in {manifest.inputs.get(name) for name in names}:
        raise ConfigError(f"{uri}: is another model than {key} was made from; put its files back, or start a new run")


def run_once(
    store: Store, key: str, inputs: Mapping[str, str], work: Callable[[Path], Mapping[str, float]]
) -> Manifest:
    """Do a stage's work and commit it as `key`, unless that is done already.

    `work` fills the folder that it is given and returns its figures; how long that took goes into the manifest. A
    retry that finds the work done leaves that time as it is.

    Raises:
        ConfigError: if `key` is committed but was made from other inputs.
    """
    done = committed = store.manifest(key)
    if committed is None:
        with store.scratch() as folder:
            output = folder / "output"
            output.mkdir()
            start = time.monotonic()
            figures = work(output)
            committed = store.commit(key, output, inputs, figures, time.monotonic() - start)
    changed = committed.changed_inputs(inputs)
    if changed:
        raise ConfigError(
            f"{store.uri}/{key}: made from another {', '.join(changed)}, under the same name; put that back, or choose "
            "another output_uri"
        )
    if done is not None:
        print(f"{key} is there already", flush=True)
    return committed
