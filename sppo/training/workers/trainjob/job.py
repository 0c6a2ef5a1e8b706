"""An iteration's training in the pods of a TrainJob."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sppo.config.identity import sha256_of
from sppo.config.run import RunConfig
from sppo.errors import RunFailedError
from sppo.preparing.recorded import run_name
from sppo.store.base import file_sha256
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store
from sppo.training.workers.trainjob.client import Cluster, Missing
from sppo.training.workers.trainjob.follow import run
from sppo.training.workers.trainjob.spec import Pods, Training, owners, train_job


def train_in_pods(config: RunConfig, iteration: int, model_uri: str, pairs_paths: Sequence[str], pods: Pods) -> None:
    """Have pi_{t+1} trained and committed by a TrainJob's pods; if it is committed already, no job is made.

    Args:
        config: the run's resolved configuration.
        iteration: t, from 1.
        model_uri: pi_t.
        pairs_paths: the pairs tables of all shards.
        pods: what the training pods are given.

    Raises:
        RunFailedError: if the job failed, or ended without a committed model.
    """
    store = open_store(config.output_uri)
    lineage = Lineage(config, store)
    key = lineage.model_key(iteration)
    if store.manifest(key) is not None:
        return
    # What a committed model is compared by in the end, as far as it is known without loading weights.
    pairs = sorted(file_sha256(Path(path)) for path in pairs_paths)
    made_from = {"stage": lineage.train(iteration), "model": model_uri, "iteration": iteration, "pairs": pairs}
    digest = sha256_of(made_from)
    cluster = Cluster()
    place = (cluster.namespace, cluster.service_account)
    training = Training(store.uri, run_name(config), iteration, len(pairs_paths), key, digest)
    job = train_job(training, pods, *place, owners(os.environ))
    run(cluster, job)
    if store.manifest(key) is None:
        with suppress(Missing):  # it was deleted since
            cluster.delete(cluster.get(job["metadata"]["name"]))
        raise RunFailedError(
            f"TrainJob {job['metadata']['name']}: complete, but {store.uri}/{key} is not committed; it is deleted: "
            "run the step again"
        )
