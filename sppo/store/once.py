"""Work that is done once: what is committed is not made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sppo.errors import ConfigError
from sppo.store.base import Manifest, Store


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
            f"{store.uri}/{key}: already made from another {', '.join(changed)}; choose another output_uri"
        )
    if done is not None:
        print(f"{key}: already done, nothing to do", flush=True)
    return committed
