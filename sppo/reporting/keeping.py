"""What `publish.keep` leaves of a run that is published."""

from __future__ import annotations

from sppo.config.run import RunConfig
from sppo.models.fetch import policy_digest
from sppo.models.headers import SUFFIX
from sppo.preparing.recorded import configurations
from sppo.store.base import Store
from sppo.store.lineage import Lineage

WHY = "publish.keep: best"


def drop_weights(config: RunConfig, store: Store) -> None:
    """Drop the weights of a run's models, if it keeps the best one only, and say of which iterations.

    Those stay that a published folder of this place was made from, and those that another configuration here may still
    need, or keeps.

    Args:
        config: of a run whose published model and report are committed.
        store: the run's.
    """
    if config.publish.keep == "all":
        return
    lineage, kept, published = Lineage(config, store), _of_others(config, store), _published(store)
    freed: dict[int, int] = {}
    for t in range(1, config.iterations + 1):
        key = lineage.model_key(t)
        if key in kept or store.manifest(key) is None or policy_digest(f"{store.uri}/{key}") in published:
            continue
        if size := store.drop(key, SUFFIX, WHY):
            freed[t] = size
    if freed:
        which = f"iteration{'s' if len(freed) > 1 else ''} {', '.join(map(str, freed))}"
        print(f"{WHY}: dropped the weights of {which}, {sum(freed.values()) / 1e6:.1f} MB", flush=True)


def _of_others(config: RunConfig, store: Store) -> set[str]:
    """Keys of the models of other configurations that have no report yet, and so may be at work, or that keep all."""
    found: set[str] = set()
    for other in configurations(store):
        if other.digest() == config.digest():
            continue
        lineage = Lineage(other, store)
        if other.publish.keep == "all" or store.manifest(lineage.report_key) is None:
            found |= {lineage.model_key(t) for t in range(1, other.iterations + 1)}
    return found


def _published(store: Store) -> set[str]:
    """Digests of the models that the published folders of a place were made from."""
    folders = [key.strip("/") for key in store.committed("")]
    manifests = [store.manifest(key) for key in folders if key.startswith("published-")]
    return {manifest.inputs["model"] for manifest in manifests if manifest}
