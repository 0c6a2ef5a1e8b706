"""The alignment run as a Kubeflow pipeline: prepare, iterations of self-play in one another, publish, benchmarks.

Kubeflow Pipelines has no loop with a carried state. Iterations are unrolled up to a maximum and nested: each one's
gate decides at run time whether the next one is played. What they carry is a string, the URI of the policy, because
`OneOf` can join strings everywhere, but artifacts not under the local runner.
"""

import functools
from collections.abc import Callable
from typing import Any, List, NamedTuple  # noqa: UP035 - KFP reads the annotations

from kfp import dsl

from components.bench import bench
from components.evaluate import evaluate
from components.generate import generate
from components.keep import keep
from components.launch import launch
from components.prepare import prepare
from components.publish import publish
from components.rank import rank
from components.train import train
from pipelines.placement import Placement, enqueue, harden, image_of, place, tell_origin
from pipelines.profile import Profile


class Iteration(NamedTuple):
    """What an iteration hands on: the better policy, and whether to play another one."""

    best_uri: str
    decision: str


def make_shard(profile: Profile) -> Any:
    """The sub-pipeline of one shard.

    A pipeline of its own, because a GPU count that reaches a task of a `ParallelFor` directly is missing from the
    inputs of the compiled loop; as an input of a sub-pipeline it arrives.
    """

    @dsl.pipeline(name="play-shard", description="One shard of an iteration: generate, rank.")
    def play_shard(
        run_config: dsl.Input[dsl.Artifact],
        prompt_tables: dsl.Input[dsl.Dataset],
        model_uri: str,
        iteration: int,
        shard: int,
        shards: List[int],  # noqa: UP006
        generation_node_selector: dict,
        generation_tolerations: list,
        generation_gpus: int,
        ranking_node_selector: dict,
        ranking_tolerations: list,
        ranking_gpus: int,
    ) -> dsl.Dataset:
        inputs = {"run_config": run_config, "iteration": iteration, "shard": shard, "shards": shards}
        answered = generate(**inputs, prompt_tables=prompt_tables, model_uri=model_uri)
        ranked = rank(**inputs, responses=answered.outputs["responses"])
        place(answered, Placement(generation_node_selector, generation_tolerations, generation_gpus))
        place(ranked, Placement(ranking_node_selector, ranking_tolerations, ranking_gpus))
        enqueue(answered, profile)
        enqueue(ranked, profile)
        harden(answered, "generate", profile)
        harden(ranked, "rank", profile)
        return ranked.outputs["pairs"]

    return play_shard


def make_training(profile: Profile) -> Callable[..., Any]:
    """What makes the task that trains: in its own pod, or with a profile of several nodes in those of a TrainJob.

    The profile decides, because whether a task asks for GPUs itself or hands that over is fixed when the pipeline is
    compiled; prepare refuses a run that asks for more nodes than its package can play.
    """

    def on_one_node(nodes: Any, **inputs: Any) -> Any:
        trained = train(**inputs)
        enqueue(trained, profile)
        return trained

    def on_several_nodes(nodes: Any, **inputs: Any) -> Any:
        return launch(
            **inputs,
            nodes=nodes,
            trainer_image=image_of("train", profile),
            queue=profile.queue,
            shared_memory=profile.stages.train.shared_memory,
            hours=profile.stages.train.hours,
        ).set_display_name("train")

    return on_several_nodes if profile.training.nodes > 1 else on_one_node


def make_iteration(profile: Profile) -> Any:
    """The sub-pipeline of one iteration.

    Its name must not hold "-iteration-": the local runner takes that for an item of a loop.
    """
    play_shard, training = make_shard(profile), make_training(profile)

    @dsl.pipeline(name="self-play", description="One iteration: generate and rank by shards, train, evaluate.")
    def self_play(
        run_config: dsl.Input[dsl.Artifact],
        prompt_tables: dsl.Input[dsl.Dataset],
        model_uri: str,
        iteration: int,
        shards: List[int],  # noqa: UP006
        generation_node_selector: dict,
        generation_tolerations: list,
        generation_gpus: int,
        ranking_node_selector: dict,
        ranking_tolerations: list,
        ranking_gpus: int,
        training_node_selector: dict,
        training_tolerations: list,
        training_gpus: int,
        training_nodes: int,
    ) -> Iteration:
        inputs = {"run_config": run_config, "prompt_tables": prompt_tables, "iteration": iteration}
        with dsl.ParallelFor(shards, name="shards") as shard:
            played = play_shard(
                **inputs,
                model_uri=model_uri,
                shard=shard,
                shards=shards,
                generation_node_selector=generation_node_selector,
                generation_tolerations=generation_tolerations,
                generation_gpus=generation_gpus,
                ranking_node_selector=ranking_node_selector,
                ranking_tolerations=ranking_tolerations,
                ranking_gpus=ranking_gpus,
            )
        played.set_caching_options(False)
        trained = training(**inputs, pairs=dsl.Collected(played.output), model_uri=model_uri, nodes=training_nodes)
        verdict = evaluate(**inputs, model_uri=trained.outputs["Output"], previous_uri=model_uri)
        place(trained, Placement(training_node_selector, training_tolerations, training_gpus))
        place(verdict, Placement(generation_node_selector, generation_tolerations, generation_gpus))
        harden(trained, "train", profile)
        enqueue(verdict, profile)
        harden(verdict, "evaluate", profile)
        return Iteration(best_uri=verdict.outputs["best_uri"], decision=verdict.outputs["decision"])

    return self_play


def play(iteration: Callable[..., Any], number: int, last: int, model_uri: Any, profile: Profile) -> Any:
    """Iteration `number` from a policy, and all later ones that the gates allow; the best policy's URI.

    Args:
        iteration: makes the task of one iteration.
        number: which iteration, from 1.
        last: the last one that is compiled in.
        model_uri: the policy to start from.
        profile: time limit and retries.
    """
    played = iteration(model_uri=model_uri, iteration=number).set_display_name(f"self-play {number}")
    played.set_caching_options(False)
    if number == last:
        return played.outputs["best_uri"]
    with dsl.If(played.outputs["decision"] == "continue", name=f"continue-after-{number}"):
        later = keep(model_uri=play(iteration, number + 1, last, played.outputs["best_uri"], profile))
    with dsl.Else(name=f"end-after-{number}"):
        now = keep(model_uri=played.outputs["best_uri"])
    harden(later, "keep", profile)
    harden(now, "keep", profile)
    return dsl.OneOf(later.output, now.output)


def make_start(max_iterations: int, profile: Profile) -> Callable[..., Any]:
    """The start of the pipeline: from the run's parameters to the task that prepared."""

    def start(**inputs: Any) -> Any:
        prepared = prepare(**inputs, max_iterations=max_iterations, several_nodes=profile.training.nodes > 1)
        harden(prepared, "prepare", profile)
        tell_origin(prepared, profile)
        return prepared

    return start


def make_ending(name: str, profile: Profile) -> Any:
    """A sub-pipeline that a run ends in: which of two it is says whether the gate is passed.

    The API of Kubeflow Pipelines gives a run's tasks by name and state, but no output parameter; a branch's name is
    lost in it (`condition-7`), a sub-pipeline's is kept. So whoever waits for a run reads the gate from its tasks.
    """

    @dsl.pipeline(name=name, description="The end of a run.")
    def ending(model_uri: str) -> str:
        kept = keep(model_uri=model_uri)
        harden(kept, "keep", profile)
        return kept.output

    return ending


def make_end(profile: Profile) -> Callable[[Any], Any]:
    """The end of the pipeline: from the task that published, through the ending of its gate, to the model's URI."""
    end_passed, end_failed = make_ending(GATE_PASSED, profile), make_ending(GATE_FAILED, profile)

    def end(published: Any) -> Any:
        with dsl.If(published.outputs["gate"] == "passed", name="if-passed"):
            passed = end_passed(model_uri=published.outputs["model_uri"]).set_caching_options(False)
        with dsl.Else(name="if-failed"):
            failed = end_failed(model_uri=published.outputs["model_uri"]).set_caching_options(False)
        return dsl.OneOf(passed.output, failed.output)

    return end


def make_benchmarks(profile: Profile) -> Any:
    """The sub-pipeline of the benchmarks, which plays them only if they are wanted.

    The inner one is for the GPU count, as in `make_shard`. The outer one is for the local runner: in a condition it
    finds a parameter of the pipeline around it, but takes another task's output for absent, and so for false.
    """

    @dsl.pipeline(name="measure", description="The paper's benchmarks on the published model.")
    def measure(
        run_config: dsl.Input[dsl.Artifact],
        model_uri: str,
        generation_node_selector: dict,
        generation_tolerations: list,
        generation_gpus: int,
    ) -> None:
        measured = bench(run_config=run_config, model_uri=model_uri)
        place(measured, Placement(generation_node_selector, generation_tolerations, generation_gpus))
        enqueue(measured, profile)
        harden(measured, "bench", profile)

    @dsl.pipeline(name="benchmarks", description="The benchmarks, if the configuration names some.")
    def benchmarks(
        wanted: str,
        run_config: dsl.Input[dsl.Artifact],
        model_uri: str,
        generation_node_selector: dict,
        generation_tolerations: list,
        generation_gpus: int,
    ) -> None:
        with dsl.If(wanted == "yes", name="if-wanted"):
            measure(
                run_config=run_config,
                model_uri=model_uri,
                generation_node_selector=generation_node_selector,
                generation_tolerations=generation_tolerations,
                generation_gpus=generation_gpus,
            ).set_caching_options(False)

    return benchmarks


GATE_PASSED, GATE_FAILED = "gate-passed", "gate-failed"
"""Tasks of which a run that came to its end has played one."""
NO_HARDWARE = Profile()
"""No GPU, any node."""


def make_pipeline(max_iterations: int = 3, profile: Profile = NO_HARDWARE) -> Any:
    """The whole pipeline, for up to `max_iterations` iterations, with a profile's defaults for the hardware."""
    start, self_play, end = make_start(max_iterations, profile), make_iteration(profile), make_end(profile)
    benchmarks = make_benchmarks(profile)

    @dsl.pipeline(name="sppo", description="Self-Play Preference Optimization (arXiv 2405.00675) of a chat model.")
    def sppo(
        base_model: str = "",
        prompts: str = "",
        preference_model: str = "",
        output_uri: str = "",
        experiment: str = "",
        iterations: int = 0,
        shards: int = 0,
        config: dict = {},  # noqa: B006
        generation_node_selector: dict = profile.generation.node_selector,
        generation_tolerations: list = profile.generation.tolerations,
        generation_gpus: int = profile.generation.gpus,
        ranking_node_selector: dict = profile.ranking.node_selector,
        ranking_tolerations: list = profile.ranking.tolerations,
        ranking_gpus: int = profile.ranking.gpus,
        training_node_selector: dict = profile.training.node_selector,
        training_tolerations: list = profile.training.tolerations,
        training_gpus: int = profile.training.gpus,
        training_nodes: int = profile.training.nodes,
    ) -> str:
        """Align a chat model to a preference model by self-play.

        Args:
            base_model: The chat model to align: hf://org/name, s3://..., or package:NAME. Empty: the preset's.
            prompts: The prompts to play: s3://..., hf://org/dataset, or package:sppo. Empty: the preset's.
            preference_model: The judge: hf://org/name, s3://..., or package:sppo. Empty: the preset's.
            output_uri: Where the run writes everything, such as s3://bucket/prefix. Running again resumes it.
            experiment: MLflow experiment. Empty: the preset's.
            iterations: Iterations to play. 0: the preset's.
            shards: Parallel generate and rank tasks of an iteration. 0: the preset's.
            config: Further settings, such as {"preset": "paper", "train.learning_rate": 5e-7}.
            generation_node_selector: Node labels of the pods that generate, evaluate and run benchmarks.
            generation_tolerations: Tolerations of the pods that generate, evaluate and run benchmarks.
            generation_gpus: GPUs of each pod that generates, evaluates or runs benchmarks.
            ranking_node_selector: Node labels of the pods that rank.
            ranking_tolerations: Tolerations of the pods that rank.
            ranking_gpus: GPUs of each pod that ranks.
            training_node_selector: Node labels of the pods that train.
            training_tolerations: Tolerations of the pods that train.
            training_gpus: GPUs of each pod that trains.
            training_nodes: Pods that train together; more than one needs a profile for it, and Kubeflow Trainer.
        """
        prepared = start(
            base_model=base_model,
            prompts=prompts,
            preference_model=preference_model,
            output_uri=output_uri,
            experiment=experiment,
            iterations=iterations,
            shards=shards,
            config=config,
            training_nodes=training_nodes,
        )
        iteration = functools.partial(
            self_play,
            **{name: prepared.outputs[name] for name in ("run_config", "prompt_tables", "shards")},
            generation_node_selector=generation_node_selector,
            generation_tolerations=generation_tolerations,
            generation_gpus=generation_gpus,
            ranking_node_selector=ranking_node_selector,
            ranking_tolerations=ranking_tolerations,
            ranking_gpus=ranking_gpus,
            training_node_selector=training_node_selector,
            training_tolerations=training_tolerations,
            training_gpus=training_gpus,
            training_nodes=training_nodes,
        )

        best_uri = play(iteration, 1, max_iterations, prepared.outputs["base_uri"], profile)
        published = publish(run_config=prepared.outputs["run_config"], best_uri=best_uri)
        harden(published, "publish", profile)
        benchmarks(
            wanted=prepared.outputs["benchmarks"],
            run_config=prepared.outputs["run_config"],
            model_uri=published.outputs["model_uri"],
            generation_node_selector=generation_node_selector,
            generation_tolerations=generation_tolerations,
            generation_gpus=generation_gpus,
        ).set_caching_options(False)
        return end(published)

    return sppo
