"""The commands that play one stage by hand, from and into the store of a run that `sppo prepare` started."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple

import tyro
import yaml

from sppo import stages
from sppo.config.limits import Limits
from sppo.config.reading import read_mapping, read_overrides
from sppo.config.reference import reference
from sppo.config.run import Form, PreparedConfig, RunConfig, kinds, resolve
from sppo.config.sections.bench import BENCHMARKS, Benchmark
from sppo.errors import ConfigError
from sppo.models.hub import refuse_page
from sppo.preparing.chunks import chunk_counts
from sppo.preparing.recorded import current, place_of, recorded_config
from sppo.process.output import goes_on
from sppo.store import keys
from sppo.store.base import Store
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store
from sppo.store.uri import Hub, Package, last_part, parse

Overrides = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="KEY=VALUE", help="Values of the configuration, such as train.eta=500 (see `sppo config show`)."
    ),
]
ConfigFile = Annotated[Path | None, tyro.conf.arg(name="config", help="A YAML file of values, laid over the preset.")]
RunPlace = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT_URI", help="The run's folder or s3://… .")
]

_again = goes_on("what is committed is kept; the same command goes on from there")


def collect_values(
    preset: str | None, file: Path | None, overrides: Sequence[str], known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The values that a command line asks for: the file's, and over them the overrides.

    Args:
        preset: the preset, which is an override too.
        file: a YAML file.
        overrides: each KEY=VALUE.
        known: the type of each key's field; that of the configuration of a run if None.

    Raises:
        ConfigError: for a file that is not a YAML mapping, an override that is not KEY=VALUE, or a key that is given
            twice.
    """
    values: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            what = "a folder; give a YAML file" if file.is_dir() else "no such file"
            raise ConfigError(f"config: {file}: {what}")
        values = read_mapping(file.read_bytes(), f"config: {file}")
    chosen = [] if preset is None else [f"preset={preset}"]
    asked = read_overrides([*chosen, *overrides], kinds(RunConfig) if known is None else known)
    # The last of the keys that lead to one value wins: the overrides come last, also those of a key that the file has.
    return {**{key: value for key, value in values.items() if key not in asked}, **asked}


@_again
def prepare(overrides: Overrides = (), preset: str | None = None, config_file: ConfigFile = None) -> None:
    """Check the configuration, clean the prompts and divide them."""
    values = collect_values(preset, config_file, overrides)
    with TemporaryDirectory() as folder:
        limits = Limits(resolve(values).iterations)
        stages.prepare(Form({}, values), {}, 1, limits, f"{folder}/config.json", f"{folder}/prompts")


@_again
def generate(output_uri: RunPlace, iteration: int = 1, shard: int = 0, shards: int = 1) -> None:
    """Answer an iteration's prompts with its policy."""
    with _opened(output_uri, iteration) as run:
        _check_shard(run, iteration, shard, shards)
        _generate(run, iteration, shard, shards)


@_again
def rank(output_uri: RunPlace, iteration: int = 1, shard: int = 0, shards: int = 1) -> None:
    """Judge an iteration's responses and build its pairs."""
    with _opened(output_uri, iteration) as run:
        _check_shard(run, iteration, shard, shards)
        responses = _generate(run, iteration, shard, shards)
        outputs = [str(run.folder / name) for name in (keys.PREFERENCES_FILE, keys.PAIRS_FILE)]
        stages.rank(run.config_path, iteration, shard, shards, responses, *outputs)


@_again
def train(output_uri: RunPlace, iteration: int = 1, shards: int = 1) -> None:
    """Train an iteration's next policy on the pairs of all its shards."""
    with _opened(output_uri, iteration) as run:
        if shards < 1:
            raise ConfigError(f"--shards {shards}: give the number that iteration {iteration} was ranked in")
        shares = (run.lineage.preferences_key(iteration, shard, shards) for shard in range(shards))
        pairs = [str(run.store.fetch(key) / keys.PAIRS_FILE) for key in shares]
        stages.train(run.config_path, iteration, run.policy(iteration), run.prompts(), pairs)


@_again
def evaluate(output_uri: RunPlace, iteration: int = 1) -> None:
    """Measure an iteration's new policy, and decide whether to go on."""
    with _opened(output_uri, iteration) as run:
        model = run.lineage.model_key(iteration)
        run.store.fetch(model)
        reports = [str(run.folder / name) for name in (keys.REPORT_FILE, keys.SUMMARY_FILE)]
        uris = f"{run.store.uri}/{model}", run.policy(iteration)
        stages.evaluate(run.config_path, iteration, *uris, run.prompts(), *reports)


@_again
def publish(output_uri: RunPlace) -> None:
    """Export the best model of the iterations played, and write the report."""
    with _opened(output_uri) as run:
        reports = [str(run.folder / name) for name in (keys.REPORT_FILE, keys.SUMMARY_FILE)]
        stages.publish(run.config_path, *reports)


@_again
def bench(
    target: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="OUTPUT_URI|MODEL_URI",
            help="A run, whose published model is measured, or any model, as base_model.",
        ),
    ],
    overrides: Overrides = (),
    benchmarks: tuple[Benchmark, ...] = (),
) -> None:
    """Run the paper's benchmarks on the published model of a run, or on any other model.

    Args:
        target: A run, or a model.
        overrides: Values of the configuration, such as bench.judge=openai:MODEL@URL.
        benchmarks: Which of them; else those of bench.benchmarks.
    """
    values = collect_values(None, None, overrides)
    if benchmarks:
        values["bench.benchmarks"] = list(benchmarks)
    config, model_uri = _under_test(target, values)
    if not config.bench.benchmarks:
        raise ConfigError(f"bench.benchmarks: none is set; give --benchmarks {' '.join(BENCHMARKS)}, or some of them")
    with TemporaryDirectory() as folder:
        path, table = Path(folder) / "config.json", Path(folder) / "bench.md"
        path.write_text(config.model_dump_json(), encoding="utf-8")
        stages.bench(str(path), model_uri, str(table))
        print(table.read_text(encoding="utf-8"), end="")
    print(f"results: {open_store(config.output_uri).uri}/bench")


def _under_test(target: str, values: dict[str, Any]) -> tuple[RunConfig, str]:
    """The configuration of a benchmark, and the URI of the model that it measures.

    Raises:
        ConfigError: for a run that has published nothing, values that would make it another run, or a place that cannot
            hold one.
    """
    refuse_page(target)
    store = None if isinstance(parse(target), Hub | Package) else open_store(place_of(target))
    if store is None or not current(store):
        name = re.sub(r"[^\w.]+", "-", last_part(target))
        config = resolve({"output_uri": f"runs/bench-{name}", "base_model": target, **values})
        open_store(config.output_uri).probe()  # what prepare does where there is a run
        return config, target
    recorded = recorded_config(target)
    config = recorded.changed(resolve({**recorded.asked(), **values}))
    if config.digest() != recorded.digest() or config.output_uri != recorded.output_uri:
        raise ConfigError(
            f"{target}: a run's own values stay as they are; give bench.… and the limits of judge.llm only"
        )
    published = Lineage(config, store).published_key
    if store.manifest(published) is None:
        raise ConfigError(f"{target}: this run has published no model yet; `sppo resume {target}`, or name a model")
    return config, f"{store.uri}/{published}"


def config(
    action: Annotated[Literal["show", "schema", "reference"], tyro.conf.Positional],
    overrides: Overrides = (),
    preset: str | None = None,
    config_file: ConfigFile = None,
) -> None:
    """Print the resolved configuration (show), its JSON Schema (schema), or tables of all keys (reference)."""
    if action == "schema":
        print(json.dumps(RunConfig.model_json_schema(), indent=1))
    elif action == "reference":
        print(reference())
    else:
        resolved = resolve(collect_values(preset, config_file, overrides))
        print(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), end="")


class _Opened(NamedTuple):
    """A run that was started, and a folder for what its stages leave."""

    config: PreparedConfig
    store: Store
    lineage: Lineage
    folder: Path

    @property
    def config_path(self) -> str:
        return str(self.folder / "config.json")

    def prompts(self) -> str:
        return str(self.store.fetch(self.lineage.prepared_key))

    def policy(self, iteration: int) -> str:
        """The URI of pi_t: the base model, or the policy that the gate kept in the iteration before."""
        if iteration == 1:
            return self.config.base_model
        verdict = self.lineage.verdict(iteration - 1)
        if verdict is None:
            raise ConfigError(f"--iteration {iteration}: iteration {iteration - 1} is not evaluated yet; play it first")
        return str(verdict["policy_uri"])


@contextmanager
def _opened(run: str, iteration: int = 1) -> Iterator[_Opened]:
    config = recorded_config(run)
    if not 1 <= iteration <= config.iterations:
        raise ConfigError(f"--iteration {iteration}: this run plays 1 to {config.iterations}")
    store = open_store(config.output_uri)
    with TemporaryDirectory() as folder:
        opened = _Opened(config, store, Lineage(config, store), Path(folder))
        Path(opened.config_path).write_text(config.model_dump_json(), encoding="utf-8")
        yield opened


def _check_shard(run: _Opened, iteration: int, shard: int, shards: int) -> None:
    most = chunk_counts(run.config, run.lineage)[iteration - 1]
    if most and not 1 <= shards <= most:  # 0: prepare is no longer committed, which its reader tells
        raise ConfigError(f"--shards {shards}: the prompts of iteration {iteration} make {most} at most")
    if not 0 <= shard < shards:
        raise ConfigError(f"--shard {shard}: does not exist among {shards}; shards are counted from 0")


def _generate(run: _Opened, iteration: int, shard: int, shards: int) -> str:
    responses = str(run.folder / keys.RESPONSES_FILE)
    stages.generate(run.config_path, iteration, shard, shards, run.policy(iteration), run.prompts(), responses)
    return responses
