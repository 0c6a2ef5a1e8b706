"""The train stage on several nodes, as a pipeline step calls it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sppo import layout, stages
from sppo.config import read_config
from sppo.errors import RunFailedError
from sppo.stage import playing, stage
from sppo.store import file_sha256, open_store
from sppo.trainjob.client import Cluster, Missing
from sppo.trainjob.follow import run
from sppo.trainjob.spec import Pods, owners, train_job


@stage
@playing
def launch(
    config_path: str, iteration: int, model_uri: str, prompts_path: str, pairs_paths: Sequence[str], pods: Pods
) -> stages.Trained:
    """Train pi_{t+1} in a TrainJob's pods, and hand on what they committed.

    The pods commit the model to the store; here nothing is trained. If the model is committed already, no job is made.

    Args:
        config_path: the resolved configuration.
        iteration: from 1.
        model_uri: pi_t.
        prompts_path: the folder of prompt tables.
        pairs_paths: the pairs tables of all shards.
        pods: what the training pods are given.
    """
    config = read_config(Path(config_path))
    store = open_store(config.output_uri)
    key = layout.model(iteration)
    if store.manifest(key) is None:
        # What a committed model is compared by in the end, as far as it is known without loading weights.
        pairs = sorted(file_sha256(Path(path)) for path in pairs_paths)
        made_from = {"config": config.digest(), "model": model_uri, "iteration": iteration, "pairs": pairs}
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        cluster = Cluster()
        place = (cluster.namespace, cluster.service_account)
        job = train_job(store.uri, iteration, len(pairs_paths), digest, pods, *place, owners(os.environ))
        run(cluster, job)
        if store.manifest(key) is None:
            with suppress(Missing):  # it was deleted since
                cluster.delete(cluster.get(job["metadata"]["name"]))
            raise RunFailedError(
                f"TrainJob {job['metadata']['name']}: complete, but {store.uri}/{key} is not committed; it is deleted: "
                "run the step again"
            )
    return stages.train(config_path, iteration, model_uri, prompts_path, pairs_paths)
