"""Removing what no stage of a run's current configuration refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sppo.config.run import PreparedConfig, RunConfig
from sppo.errors import ConfigError
from sppo.models.fetch import policy_digest
from sppo.preparing.recorded import configurations, place_of, run_name
from sppo.store import keys
from sppo.store.base import MANIFEST, Store
from sppo.store.lineage import Lineage

ROLES = ("new", "previous", "base")
"""The models that an evaluation compares, as its manifest names them."""
_FOLDER = re.compile(
    r"(?P<folder>(?:prepared|published|report)-[0-9a-f]{8}"
    r"|iteration-\d+/(?:responses|preferences|checkpoints|base|model|evaluation)-[0-9a-f]{8}"
    r"|(?:answers|instruction-answers)/[0-9a-f]{16}-[0-9a-f]{8}"
    r"|bench/\w+/(?:answers|result)-[0-9a-f]{8})/.+"
)
"""What `sppo.store.keys` names; nothing else in a run's place is touched."""


def unused(config: RunConfig, store: Store) -> dict[str, dict[str, int]]:
    """The folders that no stage of a run refers to, each with its files and their bytes.

    Args:
        config: the configuration whose stages count.
        store: where it is played.
    """
    folders: dict[str, dict[str, int]] = {}
    for name, size in store.files().items():
        if found := _FOLDER.fullmatch(name):
            folders.setdefault(found["folder"], {})[name] = size
    used = set(_used(Lineage(config, store), folders))
    return {folder: files for folder, files in sorted(folders.items()) if folder not in used}


def refuse_unfinished(run: str, config: PreparedConfig, store: Store) -> None:
    """Refuse to clean up after a start that has published nothing, while an earlier one has, unless it is named.

    Args:
        run: as the user names it: a place means its last start.
        config: that start's configuration.
        store: where it was played.

    Raises:
        ConfigError: naming the starts whose models would be lost.
    """
    if place_of(run) != run or store.manifest(Lineage(config, store).published_key) is not None:
        return
    finished = [
        each for each in configurations(store) if store.manifest(Lineage(each, store).published_key) is not None
    ]
    if finished:
        names = [f"'{run_name(each)}'" for each in finished]
        raise ConfigError(
            f"{run}: its last start is not finished, and what {', '.join(names)} published would be lost; finish the "
            f"last with `sppo resume {run}`, or name the start that is to stay: `sppo clean {names[0]}`"
        )


def remove(store: Store, folder: str, files: Iterable[str]) -> None:
    """Remove a folder with all that is committed in it; a manifest is always removed before what it lists."""
    for name in files:
        if name.endswith(f"/{MANIFEST}"):
            store.delete(name.removesuffix(f"/{MANIFEST}"))
    store.delete(folder)


def _used(lineage: Lineage, folders: Iterable[str]) -> Iterator[str]:
    """Every folder of a run, of those that are there or may still come."""
    yield from (lineage.prepared_key, lineage.published_key, lineage.report_key)
    models: set[str] = set()
    for t in range(1, lineage.config.iterations + 1):
        yield keys.responses(t, lineage.generate(t))
        yield keys.preferences(t, lineage.rank(t))
        yield from (lineage.checkpoints_key(t), lineage.base_logprobs_key(t))
        yield from (lineage.model_key(t), lineage.evaluation_key(t))
        evaluated = lineage.store.manifest(lineage.evaluation_key(t))
        models |= {evaluated.inputs[role][: keys.OF_A_MODEL] for role in ROLES} if evaluated else set()
    finished = lineage.store.manifest(lineage.published_key)
    wanted = lineage.config.evaluate.instructions
    asked = [lineage.answers(), lineage.instructions(wanted.count), lineage.instructions(wanted.final)]
    answered = set(map(keys.short, asked))
    published = policy_digest(f"{lineage.store.uri}/{lineage.published_key}") if finished is not None else ""
    for folder in folders:
        model, _, how = folder.rpartition("/")[2].partition("-")
        # Of what is not evaluated yet nobody knows the models: the base's answers may be there.
        if how in answered and (model in models or finished is None):
            yield folder
        elif folder.startswith("bench/") and finished is not None:
            measured = lineage.store.manifest(folder)
            if measured is None or measured.inputs["model"] == published:
                yield folder
