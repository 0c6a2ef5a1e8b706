"""The pipeline of revision 23b4432 as a skeleton: its tasks, loops and branches, and the three faults it had.

A real Kubeflow played that revision on 2026-11-28, and what it said and counted there is what the player is held
against. Each fault can be left out.
"""

from pathlib import Path
from typing import Any, List, NamedTuple  # noqa: UP035 - KFP reads the annotations

from kfp import compiler, dsl, kubernetes

from tests.backend.package import Package, load

GPU = "nvidia.com/gpu"


class Prepared(NamedTuple):
    base_uri: str
    shards: List[int]  # noqa: UP006
    benchmarks: str


class Verdict(NamedTuple):
    best_uri: str
    decision: str


class Published(NamedTuple):
    model_uri: str
    gate: str


@dsl.component(base_image="stage")
def prepare(run_config: dsl.Output[dsl.Artifact], prompt_tables: dsl.Output[dsl.Dataset]) -> Prepared: ...


@dsl.component(base_image="stage")
def generate(
    prompt_tables: dsl.Input[dsl.Dataset],
    model_uri: str,
    iteration: int,
    shard: int,
    shards: List[int],  # noqa: UP006
    responses: dsl.Output[dsl.Dataset],
) -> None: ...


@dsl.component(base_image="stage")
def rank(responses: dsl.Input[dsl.Dataset], pairs: dsl.Output[dsl.Dataset]) -> None: ...


@dsl.component(base_image="stage")
def train(pairs: dsl.Input[List[dsl.Dataset]], model_uri: str) -> str: ...  # noqa: UP006


@dsl.component(base_image="stage")
def evaluate(iteration: int, model_uri: str, previous_uri: str) -> Verdict: ...


@dsl.component(base_image="stage")
def keep(model_uri: str) -> str: ...


@dsl.component(base_image="stage")
def publish(run_config: dsl.Input[dsl.Artifact], best_uri: str) -> Published: ...


@dsl.component(base_image="stage")
def bench(model_uri: str) -> None: ...


def outputs(iterations: int, shards: int, gate: str = "passed") -> dict[str, Any]:
    """What its stages put out, for a run of so many iterations.

    Args:
        iterations: that its gates let it play.
        shards: of each.
        gate: passed or failed.
    """
    return {
        "prepare": {"base_uri": "base", "shards": list(range(shards)), "benchmarks": "no"},
        "train": lambda pod: {"Output": f"{pod.inputs['model_uri']}+"},
        "evaluate": lambda pod: {
            "best_uri": pod.inputs["model_uri"],
            "decision": "continue" if pod.inputs["iteration"] < iterations else "stop",
        },
        "keep": lambda pod: {"Output": pod.inputs["model_uri"]},
        "publish": lambda pod: {"model_uri": pod.inputs["best_uri"], "gate": gate},
    }


def placed(task: dsl.PipelineTask, gpus: Any) -> None:
    """Ask for GPUs for a task."""
    task.set_accelerator_type(GPU).set_accelerator_limit(gpus)


def make_self_play(list_in_loop: bool, count: type) -> Any:
    """The nested pipeline of an iteration; see `former`."""

    @dsl.pipeline(name="play-shard")
    def play_shard(
        prompt_tables: dsl.Input[dsl.Dataset],
        model_uri: str,
        iteration: int,
        shard: int,
        shards: List[int],  # noqa: UP006
        gpus: count,
    ) -> dsl.Dataset:
        answered = generate(
            prompt_tables=prompt_tables, model_uri=model_uri, iteration=iteration, shard=shard, shards=shards
        )
        placed(answered, gpus)
        return rank(responses=answered.outputs["responses"]).outputs["pairs"]

    @dsl.pipeline(name="self-play")
    def self_play(
        prompt_tables: dsl.Input[dsl.Dataset],
        model_uri: str,
        iteration: int,
        shards: List[int],  # noqa: UP006
        all_shards: List[int],  # noqa: UP006
        gpus: count,
    ) -> Verdict:
        with dsl.ParallelFor(shards, name="shards") as shard:
            played = play_shard(
                prompt_tables=prompt_tables,
                model_uri=model_uri,
                iteration=iteration,
                shard=shard,
                shards=shards if list_in_loop else all_shards,
                gpus=gpus,
            )
        trained = train(pairs=dsl.Collected(played.output), model_uri=model_uri)
        verdict = evaluate(iteration=iteration, model_uri=trained.output, previous_uri=model_uri)
        placed(verdict, gpus)
        return Verdict(verdict.outputs["best_uri"], verdict.outputs["decision"])

    return self_play


def former(folder: Path, list_in_loop: bool = False, count: type = str, setting: str = "SPPO_TRACKING_URI") -> Package:
    """Compile it.

    Args:
        folder: for the file.
        list_in_loop: the first fault: a task in the loop reads the list that is looped over.
        count: the type of the parameter that counts GPUs; int is the second fault.
        setting: the variable that comes from a ConfigMap; MLFLOW_TRACKING_URI is the third fault.
    """
    self_play = make_self_play(list_in_loop, count)

    @dsl.pipeline(name="benchmarks")
    def benchmarks(wanted: str, model_uri: str) -> None:
        with dsl.If(wanted == "yes", name="if-wanted"):
            bench(model_uri=model_uri)

    def ending(name: str) -> Any:
        @dsl.pipeline(name=name)
        def end(model_uri: str) -> str:
            return keep(model_uri=model_uri).output

        return end

    def iterate(prepared: dsl.PipelineTask, gpus: Any, number: int, model_uri: Any) -> Any:
        played = self_play(
            prompt_tables=prepared.outputs["prompt_tables"],
            model_uri=model_uri,
            iteration=number,
            shards=prepared.outputs["shards"],
            all_shards=prepared.outputs["shards"],
            gpus=gpus,
        )
        if number == 3:
            return played.outputs["best_uri"]
        with dsl.If(played.outputs["decision"] == "continue", name=f"continue-after-{number}"):
            later = keep(model_uri=iterate(prepared, gpus, number + 1, played.outputs["best_uri"]))
        with dsl.Else(name=f"end-after-{number}"):
            now = keep(model_uri=played.outputs["best_uri"])
        return dsl.OneOf(later.output, now.output)

    end_passed, end_failed = ending("gate-passed"), ending("gate-failed")

    @dsl.pipeline(name="former")
    def pipeline(gpus: count) -> str:
        prepared = prepare().set_env_variable("SPPO_IMAGES", "{}")
        kubernetes.use_config_map_as_env(prepared, "settings", {"MLFLOW_TRACKING_URI": setting}, optional=True)
        best_uri = iterate(prepared, gpus, 1, prepared.outputs["base_uri"])
        published = publish(run_config=prepared.outputs["run_config"], best_uri=best_uri)
        benchmarks(wanted=prepared.outputs["benchmarks"], model_uri=published.outputs["model_uri"])
        with dsl.If(published.outputs["gate"] == "passed", name="if-passed"):
            passed = end_passed(model_uri=published.outputs["model_uri"])
        with dsl.Else(name="if-failed"):
            failed = end_failed(model_uri=published.outputs["model_uri"])
        return dsl.OneOf(passed.output, failed.output)

    compiler.Compiler().compile(pipeline, str(folder / "former.yaml"))
    return load(folder / "former.yaml")
