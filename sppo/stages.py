"""The stages as a pipeline step calls them: read the inputs, do the work, track it, and leave the outputs where asked.

Heavy libraries are imported inside each function: a pod, or a step that finds its work done, loads only what it needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sppo.config.identity import sha256_of
from sppo.config.limits import Limits
from sppo.config.run import Form, PreparedConfig, RunConfig, read_config, resolve
from sppo.preparing.recorded import run_name
from sppo.process.stage import playing, stage
from sppo.store import keys, tables
from sppo.store.base import Store
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store
from sppo.training.workers.trainjob.spec import Pods


class Prepared(NamedTuple):
    """What prepare hands on."""

    shards: list[int]
    base_uri: str
    benchmarks: bool


class Trained(NamedTuple):
    """What train hands on."""

    model_uri: str
    figures: dict[str, float]


class Evaluated(NamedTuple):
    """What evaluate hands on."""

    decision: str
    policy_uri: str
    figures: dict[str, float]


class Published(NamedTuple):
    """What publish hands on."""

    model_uri: str
    passed: bool
    figures: dict[str, float]


@stage
def prepare(
    form: Form, gpus: Mapping[str, str], nodes: int, limits: Limits, config_path: str, prompts_path: str
) -> Prepared:
    """Resolve the configuration and the prompts.

    Args:
        form: what the run was started with.
        gpus: accelerators of a pod, by the parameter that says so.
        nodes: pods that train together.
        limits: what the pipeline can play.
        config_path: gets the resolved configuration.
        prompts_path: gets the folder of prompt tables.

    Returns:
        The shards of each iteration, the URI of pi_1, and whether benchmarks are to be run at the end.
    """
    from sppo.preparing.chunks import chunk_counts, shard_count
    from sppo.process.plan import plan
    from sppo.reporting.tracking import stage_records as said
    from sppo.reporting.tracking import track
    from sppo.reporting.tracking.ending import LOCAL_RUN, begin
    from sppo.training.again import forget

    limits.check_hardware(gpus, nodes)
    asked = resolve(form.values())
    limits.check(asked)
    found = named(asked)
    store = open_store(found.config.output_uri)
    if LOCAL_RUN not in os.environ:  # there, the command says so
        plan(found.config, store).tell()
    config, folder = prepared(found)
    for t in plan(config, store).again:  # the digests of what is there are known with the prompts, not before
        print(f"iteration {t}: its dropped weights are needed, and trained again", flush=True)
        forget(Lineage(config, store), t)
    _write(config_path, config.model_dump_json(indent=1))
    _leave(folder, prompts_path)
    begin(config, store)
    track(config, store, said.prepared(config, store))
    shards = shard_count(config, chunk_counts(config, Lineage(config, store)))
    return Prepared(list(range(shards)), config.base_model, bool(config.bench.benchmarks))


class Named(NamedTuple):
    """A configuration with what it names, and what its URIs became; see `sppo.preparing.pins.pin`."""

    config: PreparedConfig
    pins: dict[str, str]


def named(config: RunConfig) -> Named:
    """Find out what a configuration names; nothing is written.

    Raises:
        ConfigError: for a wrong judge, or an output_uri that another version wrote.
    """
    from sppo.bench.base import check as check_bench
    from sppo.models.moved import moved
    from sppo.preparing.pins import pin, places
    from sppo.preparing.recorded import configuration, current, refuse_old
    from sppo.process.contents import with_contents

    check_bench(config)
    store = open_store(config.output_uri)
    refuse_old(store)
    with moved(places(store)):
        pinned, pins = pin(config.model_copy(update={"output_uri": store.uri}), store)
        return Named(with_contents(pinned, configuration(store, current(store))), pins)


def prepared(named: Named) -> tuple[PreparedConfig, Path]:
    """Check all that can be checked before a GPU is asked for, commit the prompts, and record the configuration.

    Returns:
        The configuration, and a local folder with the prompts; see `sppo.preparing.prepare.prepare`.

    Raises:
        ConfigError: for a wrong configuration, prompts, judge or model.
    """
    from sppo.evaluation.ifeval import write_instructions
    from sppo.judging.load import check_judges
    from sppo.models.moved import moved
    from sppo.preparing.pins import places
    from sppo.preparing.prepare import prepare as commit
    from sppo.preparing.recorded import record

    store = open_store(named.config.output_uri)
    with moved(places(store)):
        folder = commit(named.config, check_judges, write_instructions)
    return record(named.config, store, named.pins), folder


@stage
@playing
def generate(
    config_path: str, iteration: int, shard: int, shards: int, model_uri: str, prompts_path: str, responses_path: str
) -> None:
    """Answer a shard of an iteration's prompts with pi_t and leave the responses table."""
    from sppo.sampling import generate as work

    prompts = Path(prompts_path) / keys.prompts_file(iteration)
    rows = work.generate(read_config(Path(config_path)), iteration, shard, shards, model_uri, prompts)
    tables.write(Path(responses_path), tables.RESPONSES, rows)


@stage
@playing
def rank(
    config_path: str,
    iteration: int,
    shard: int,
    shards: int,
    responses_path: str,
    preferences_path: str,
    pairs_path: str,
) -> dict[str, float]:
    """Judge a shard of responses, and leave its preferences and pairs tables.

    Returns:
        The shard's ranking figures.
    """
    from sppo.judging import rank as work

    config = read_config(Path(config_path))
    folder = work.rank(config, iteration, shard, shards, Path(responses_path))
    _leave(folder / keys.PREFERENCES_FILE, preferences_path)
    _leave(folder / keys.PAIRS_FILE, pairs_path)
    store = open_store(config.output_uri)
    manifest = store.manifest(Lineage(config, store).preferences_key(iteration, shard, shards))
    assert manifest is not None
    return work.figures([manifest.figures])


@stage
@playing
def train(config_path: str, iteration: int, model_uri: str, prompts_path: str, pairs_paths: Sequence[str]) -> Trained:
    """Train pi_{t+1} on the pairs of all shards, and track the iteration so far."""
    from sppo.reporting.tracking import stage_records as said
    from sppo.reporting.tracking import track
    from sppo.reporting.tracking.system import sampled
    from sppo.training import train as work
    from sppo.training.workers.parallel import first_of_all

    config = read_config(Path(config_path))
    store = open_store(config.output_uri)
    prompts = tables.read(Path(prompts_path) / keys.prompts_file(iteration), tables.PROMPTS)
    upstream = _upstream(config, iteration, len(prompts), len(pairs_paths))
    pairs = [Path(path) for path in pairs_paths]
    with sampled() as system:
        _train_with_workers(config, store, iteration, len(pairs))
        uri, manifest = work.train(config, iteration, model_uri, pairs, *upstream)
    if first_of_all():
        track(config, store, said.trained(Lineage(config, store), iteration, work.read_pairs(pairs), system))
    return Trained(uri, dict(manifest.figures))


@stage
@playing
def launch(
    config_path: str, iteration: int, model_uri: str, prompts_path: str, pairs_paths: Sequence[str], pods: Pods
) -> Trained:
    """Train pi_{t+1} in a TrainJob's pods, and hand on what they committed; here nothing is trained.

    Args:
        config_path: the resolved configuration.
        iteration: t, from 1.
        model_uri: pi_t.
        prompts_path: the folder of prompt tables.
        pairs_paths: the pairs tables of all shards.
        pods: what the training pods are given.
    """
    from sppo.training.workers.trainjob.job import train_in_pods

    train_in_pods(read_config(Path(config_path)), iteration, model_uri, pairs_paths, pods)
    return train(config_path, iteration, model_uri, prompts_path, pairs_paths)


@stage
@playing
def evaluate(
    config_path: str,
    iteration: int,
    model_uri: str,
    previous_uri: str,
    prompts_path: str,
    html_path: str,
    markdown_path: str,
) -> Evaluated:
    """Measure pi_{t+1}, decide whether to go on, track the figures, and leave the report of the run so far."""
    from sppo.evaluation import evaluate as work
    from sppo.reporting.report import collect, distribution_svg, render_html, render_markdown
    from sppo.reporting.tracking import stage_records as said
    from sppo.reporting.tracking import track
    from sppo.reporting.tracking.system import sampled

    config = read_config(Path(config_path))
    store = open_store(config.output_uri)
    with sampled() as system:
        found = work.evaluate(config, iteration, model_uri, previous_uri, Path(prompts_path) / keys.HELD_OUT_FILE)
    report = collect(config, store, last=iteration)
    page, markdown = render_html(report), render_markdown(report)
    _write(html_path, page)
    _write(markdown_path, markdown)
    latest = report.iterations[-1]
    texts = {"report.html": page, "report.md": markdown, "probabilities.svg": distribution_svg(latest)}
    track(config, store, said.evaluated(Lineage(config, store), iteration, latest.samples, found, texts, system))
    return Evaluated(found.decision, found.policy_uri, found.figures)


@stage
@playing
def publish(config_path: str, html_path: str, markdown_path: str) -> Published:
    """Export the best model of the iterations played, write the report, and register the model in MLflow."""
    from sppo.process.told import tell
    from sppo.reporting import publish as work
    from sppo.reporting.report import verdict_lines
    from sppo.reporting.tracking import stage_records as said
    from sppo.reporting.tracking import track

    config = read_config(Path(config_path))
    store = open_store(config.output_uri)
    result = work.publish(config)
    _leave(result.report_path, html_path)
    _leave(result.summary_path, markdown_path)
    track(config, store, said.published(Lineage(config, store), result))
    tell(verdict_lines(result.report))
    print(f"published {result.model_uri}; the gate is {'passed' if result.passed else 'NOT passed'}", flush=True)
    return Published(result.model_uri, result.passed, result.figures)


@stage
@playing
def bench(config_path: str, model_uri: str, markdown_path: str) -> dict[str, float]:
    """Run the benchmarks of the configuration on a model, track each result, and leave them as a table.

    Returns:
        The figures of all of them.
    """
    from sppo.bench.run import run_benchmarks
    from sppo.bench.table import result_table
    from sppo.reporting.tracking import Record, track

    config = read_config(Path(config_path))
    store = open_store(config.output_uri)
    results = []
    for result in run_benchmarks(config, store, model_uri):
        results.append(result)
        record = Record(
            stage=f"bench-{result.benchmark}",
            iteration=0,
            made=keys.short(sha256_of(result.model_dump(mode="json"))),
            figures=result.tracked(),
            texts={f"bench/{result.benchmark}.json": result.model_dump_json(indent=1)},
            finished=True,
        )
        track(config, store, record)
    _write(markdown_path, result_table(results))
    return {name: value for result in results for name, value in result.tracked().items()}


@stage
def finish(output_uri: str, state: str) -> None:
    """Tell MLflow how a run ended.

    Args:
        output_uri: the run's.
        state: what Kubeflow Pipelines says of the end: FAILED, or anything else where no stage failed.
    """
    from sppo.reporting.tracking.ending import end

    end(open_store(output_uri), failed=state == "FAILED")


def _train_with_workers(config: RunConfig, store: Store, iteration: int, shards: int) -> None:
    """Have the model trained by a worker on each accelerator of this machine, if there are several."""
    from sppo.training.workers.accelerators import run_workers, workers_wanted

    if store.manifest(Lineage(config, store).model_key(iteration)) is None and (count := workers_wanted()):
        run_workers(count, run_name(config), iteration, shards)


def _upstream(config: RunConfig, iteration: int, prompts: int, shards: int) -> tuple[dict[str, float], list[float]]:
    """The figures of an iteration's generate and rank, and the distribution of P, over all shards."""
    from sppo.judging import rank
    from sppo.preparing import chunks
    from sppo.sampling import generate

    store = open_store(config.output_uri)
    chunk_total = chunks.chunk_count(prompts, config.generate.chunk_size)
    lineage = Lineage(config, store)
    committed = [store.manifest(lineage.preferences_key(iteration, shard, shards)) for shard in range(shards)]
    ranked = [manifest.figures for manifest in committed if manifest]
    return generate.figures(config, iteration, chunk_total) | rank.figures(ranked), rank.distribution(ranked)


def _leave(source: Path, target: str) -> None:
    """Copy a committed file or folder to where the caller wants it."""
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, path, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, path)


def _write(target: str, text: str) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(text, encoding="utf-8")
