"""The alignment run as a Kubeflow pipeline: prepare, iterations of self-play in one another, publish, benchmarks.

Kubeflow Pipelines has no loop with a carried state. Iterations are unrolled up to a maximum and nested: each one's
gate decides at run time whether the next one is played. What they carry is a string, the URI of the policy.

The shape follows what Kubeflow Pipelines does with it, to be read in its backend (`backend/src/v2`, 2.17):

- Each nested pipeline, branch and item of a loop costs a driver pod, about ten seconds. So there is no more of them
  than the order of the stages needs.
- A task that depends on a branch which is not taken is never played (`compiler/argocompiler/dag.go`, `depends`), but a
  nested pipeline with such a branch in it succeeds. So the iterations are one, and publish comes after it.
- The item of a loop does not get the list that is looped over (`driver/resolve.go`, `resolveInputs`). So the number of
  shards is a parameter of its own.
- Whatever becomes of a run, an exit task is played at its end. Of an exit handler no output leaves.
- A count of accelerators that is not a string is read as none (`driver/resolve.go`,
  `resolvePodSpecInputRuntimeParameter`). So these parameters are strings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, List, NamedTuple  # noqa: UP035 - KFP reads the annotations

from google.protobuf.struct_pb2 import Value
from kfp import dsl
from sppo_components.bench import bench
from sppo_components.evaluate import evaluate
from sppo_components.finish import finish
from sppo_components.generate import generate
from sppo_components.keep import keep
from sppo_components.launch import launch
from sppo_components.prepare import prepare
from sppo_components.publish import publish
from sppo_components.rank import rank
from sppo_components.train import train

from sppo.config.run import PRESETS
from sppo_pipelines.names import GATE_FAILED, GATE_PASSED, PIPELINE
from sppo_pipelines.placement import Placement, enqueue, harden, image_of, place, tell_origin, tell_run
from sppo_pipelines.profile import Profile, usual_preset

HANDED_ON = ("run_config", "prompt_tables", "base_uri", "shards", "shard_count")
"""Outputs of prepare that the iterations take."""
NO_HARDWARE = Profile()
"""No GPU, any node."""


class Iteration(NamedTuple):
    """What an iteration hands on: the policy that its gate keeps, and whether to play another one."""

    policy_uri: str
    decision: str


@contextmanager
def group(tasks: Any, name: str) -> Iterator[Any]:
    """A branch or loop under a name that people understand; KFP calls it `condition-7` and gives it no other.

    Args:
        tasks: the branch or loop.
        name: its name, once in the pipeline.

    Yields:
        What it yields itself: the item of a loop.
    """
    with tasks as inner:
        tasks.name = name
        yield inner


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


def make_iteration(number: int, profile: Profile) -> Any:
    """The sub-pipeline of one iteration.

    Its name must not hold "-iteration-": the local runner takes that for an item of a loop.
    """
    training = make_training(profile)

    @dsl.pipeline(name=f"self-play-{number}", description="Generate and rank by shards, train, evaluate.")
    def self_play(
        run_config: dsl.Input[dsl.Artifact],
        prompt_tables: dsl.Input[dsl.Dataset],
        model_uri: str,
        iteration: int,
        shards: List[int],  # noqa: UP006
        shard_count: int,
        generation_node_selector: dict,
        generation_tolerations: list,
        generation_gpus: str,
        ranking_node_selector: dict,
        ranking_tolerations: list,
        ranking_gpus: str,
        training_node_selector: dict,
        training_tolerations: list,
        training_gpus: str,
        training_nodes: int,
    ) -> Iteration:
        run = {"run_config": run_config, "iteration": iteration}
        generation = Placement(generation_node_selector, generation_tolerations, generation_gpus)
        with group(dsl.ParallelFor(shards), "shards") as shard:
            share = {"shard": shard, "shards": shard_count}
            answered = generate(**run, **share, prompt_tables=prompt_tables, model_uri=model_uri)
            ranked = rank(**run, **share, responses=answered.outputs["responses"])
            place(answered, generation)
            place(ranked, Placement(ranking_node_selector, ranking_tolerations, ranking_gpus))
        trained = training(
            **run,
            prompt_tables=prompt_tables,
            pairs=dsl.Collected(ranked.outputs["pairs"]),
            model_uri=model_uri,
            nodes=training_nodes,
        )
        verdict = evaluate(
            **run, prompt_tables=prompt_tables, model_uri=trained.outputs["Output"], previous_uri=model_uri
        )
        place(trained, Placement(training_node_selector, training_tolerations, training_gpus))
        place(verdict, generation)
        for task in (answered, ranked, verdict):
            enqueue(task, profile)
        for task, stage in ((answered, "generate"), (ranked, "rank"), (trained, "train"), (verdict, "evaluate")):
            harden(task, stage, profile)
        return Iteration(policy_uri=verdict.outputs["policy_uri"], decision=verdict.outputs["decision"])

    return self_play


def play(self_play: Sequence[Any], number: int, model_uri: Any, run: Mapping[str, Any], profile: Profile) -> None:
    """Iteration `number` from a policy, and all later ones that the gates allow.

    Args:
        self_play: the sub-pipelines of all iterations.
        number: which iteration, from 1.
        model_uri: the policy to start from.
        run: what every iteration is given.
        profile: resources, placement, time limits, retries.
    """
    played = self_play[number - 1](model_uri=model_uri, iteration=number, **run)
    played.set_display_name(f"self-play {number}").set_caching_options(False)
    if number == len(self_play):
        return
    decision = played.outputs["decision"]
    with group(dsl.If(decision == "continue", name=f"continue after {number}"), f"continue-after-{number}"):
        play(self_play, number + 1, played.outputs["policy_uri"], run, profile)
    # Kubeflow notes that a group has ended when a container in it ends: without one, it would be shown as running.
    with group(dsl.If(decision != "continue", name=f"end after {number}"), f"end-after-{number}"):
        harden(keep(model_uri=played.outputs["policy_uri"]).set_display_name("keep"), "keep", profile)


def make_iterations(max_iterations: int, profile: Profile) -> Any:
    """The sub-pipeline of all iterations, which ends well whichever of them are played."""
    self_play = [make_iteration(number, profile) for number in range(1, max_iterations + 1)]

    @dsl.pipeline(name="iterations", description="Iterations of self-play, as long as the gate says so.")
    def iterations(
        run_config: dsl.Input[dsl.Artifact],
        prompt_tables: dsl.Input[dsl.Dataset],
        base_uri: str,
        shards: List[int],  # noqa: UP006
        shard_count: int,
        generation_node_selector: dict,
        generation_tolerations: list,
        generation_gpus: str,
        ranking_node_selector: dict,
        ranking_tolerations: list,
        ranking_gpus: str,
        training_node_selector: dict,
        training_tolerations: list,
        training_gpus: str,
        training_nodes: int,
    ) -> None:
        run = {
            "run_config": run_config,
            "prompt_tables": prompt_tables,
            "shards": shards,
            "shard_count": shard_count,
            "generation_node_selector": generation_node_selector,
            "generation_tolerations": generation_tolerations,
            "generation_gpus": generation_gpus,
            "ranking_node_selector": ranking_node_selector,
            "ranking_tolerations": ranking_tolerations,
            "ranking_gpus": ranking_gpus,
            "training_node_selector": training_node_selector,
            "training_tolerations": training_tolerations,
            "training_gpus": training_gpus,
            "training_nodes": training_nodes,
        }
        play(self_play, 1, base_uri, run, profile)

    return iterations


def make_start(max_iterations: int, profile: Profile, **inputs: Any) -> Any:
    """The task that prepares a run, from the run's parameters."""
    limits = {"max_iterations": max_iterations, "several_nodes": profile.training.nodes > 1, "shard_iterations": 0}
    prepared = prepare(**inputs, **limits)
    harden(prepared, "prepare", profile)
    tell_origin(prepared, profile)
    return prepared


def make_exit(output_uri: Any, profile: Profile) -> Any:
    """The task that is played at the end of the run, whatever became of it."""
    finished = finish(output_uri=output_uri)
    harden(finished, "finish", profile)
    tell_run(finished)
    return finished


def make_end(prepared: Any, iterations: Any, generation: Placement, profile: Profile) -> None:
    """What comes after the iterations: publish, the benchmarks if some are wanted, the branch that tells the gate."""
    published = publish(run_config=prepared.outputs["run_config"]).after(iterations)
    harden(published, "publish", profile)
    with group(dsl.If(prepared.outputs["benchmarks"] == "yes", name="benchmarks"), "benchmarks"):
        measured = bench(run_config=prepared.outputs["run_config"], model_uri=published.outputs["model_uri"])
        place(measured, generation)
        enqueue(measured, profile)
        harden(measured, "bench", profile)
    for name, gate in ((GATE_PASSED, "passed"), (GATE_FAILED, "failed")):
        with group(dsl.If(published.outputs["gate"] == gate, name=name.replace("-", " ")), name):
            harden(keep(model_uri=published.outputs["model_uri"]).set_display_name("keep"), "keep", profile)


def limit_shards(pipeline: Any, most: int) -> None:
    """Let prepare refuse what does not fit into a workflow; how much that is can only be told of the whole pipeline.

    Args:
        pipeline: the whole pipeline; it is changed.
        most: shards of an iteration times iterations.
    """
    inputs = pipeline.pipeline_spec.components["comp-run"].dag.tasks["prepare"].inputs.parameters
    inputs["shard_iterations"].runtime_value.constant.number_value = most


DESCRIPTION = """Self-Play Preference Optimization (arXiv 2405.00675) of a chat model.

output_uri: where everything is written, s3://bucket/prefix. The same one again goes on with that run.
preset: what the rest starts from: cpu (a smoke test), paper, official (the released code), strong (not run at size).
base_model: the chat model to align, hf://org/name or s3://…; empty: the preset's.
prompts: the prompts to play, s3://….jsonl or hf://org/dataset; empty: the preset's. A list goes into config.
preference_model: the judge, hf://org/name or s3://…; empty: the preset's.
experiment: the experiment in MLflow; empty: the preset's.
iterations: how many to play; 0: the preset's.
shards: generate and rank pods of an iteration, which share its prompts; 0: the preset's.
config: any other value by its name, such as {"train.eta": 500}; {}: the preset's.
generation_, ranking_, training_: where those pods run. gpus is a count, "0" for none; node_selector {} is any node.
"""
"""What the page of the pipeline says. The form that starts a run shows names only, in alphabetical order."""


def make_pipeline(max_iterations: int = 3, profile: Profile = NO_HARDWARE) -> Any:
    """The whole pipeline, for up to `max_iterations` iterations, with a profile's defaults for the hardware."""
    play_iterations = make_iterations(max_iterations, profile)

    @dsl.pipeline(name=PIPELINE, description=DESCRIPTION)
    def sppo(
        output_uri: str,
        preset: str = usual_preset(profile),
        base_model: str = "",
        prompts: str = "",
        preference_model: str = "",
        experiment: str = "",
        iterations: int = 0,
        shards: int = 0,
        config: dict = {},  # noqa: B006
        generation_node_selector: dict = profile.generation.node_selector,
        generation_tolerations: list = profile.generation.tolerations,
        generation_gpus: str = str(profile.generation.gpus),
        ranking_node_selector: dict = profile.ranking.node_selector,
        ranking_tolerations: list = profile.ranking.tolerations,
        ranking_gpus: str = str(profile.ranking.gpus),
        training_node_selector: dict = profile.training.node_selector,
        training_tolerations: list = profile.training.tolerations,
        training_gpus: str = str(profile.training.gpus),
        training_nodes: int = profile.training.nodes,
    ) -> None:
        """Align a chat model to a preference model by self-play.

        Args:
            output_uri: Where the run writes everything, such as s3://bucket/prefix. Running again resumes it.
            preset: The values that the rest starts from.
            base_model: The chat model to align: hf://org/name, s3://..., or package:NAME. Empty: the preset's.
            prompts: The prompts to play: s3://..., hf://org/dataset, or package:sppo. Empty: the preset's.
            preference_model: The judge: hf://org/name, s3://..., or package:sppo. Empty: the preset's.
            experiment: MLflow experiment. Empty: the preset's.
            iterations: Iterations to play. 0: the preset's.
            shards: Parallel generate and rank tasks of an iteration. 0: the preset's.
            config: Further settings, such as {"train.learning_rate": 5e-7}.
            generation_node_selector: Node labels of the pods that generate, evaluate and run benchmarks.
            generation_tolerations: Tolerations of the pods that generate, evaluate and run benchmarks.
            generation_gpus: GPUs of each pod that generates, evaluates or runs benchmarks: a whole number.
            ranking_node_selector: Node labels of the pods that rank.
            ranking_tolerations: Tolerations of the pods that rank.
            ranking_gpus: GPUs of each pod that ranks: a whole number.
            training_node_selector: Node labels of the pods that train.
            training_tolerations: Tolerations of the pods that train.
            training_gpus: GPUs of each pod that trains: a whole number.
            training_nodes: Pods that train together; more than one needs a profile for it, and Kubeflow Trainer.
        """
        with group(dsl.ExitHandler(make_exit(output_uri, profile), name="run"), "run"):
            prepared = make_start(
                max_iterations, profile,
                output_uri=output_uri, preset=preset, base_model=base_model, prompts=prompts,
                preference_model=preference_model, experiment=experiment, iterations=iterations, shards=shards,
                config=config, generation_gpus=generation_gpus, ranking_gpus=ranking_gpus,
                training_gpus=training_gpus, training_nodes=training_nodes,
            )  # fmt: skip
            played = play_iterations(
                **{name: prepared.outputs[name] for name in HANDED_ON},
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
            ).set_caching_options(False)
            generation = Placement(generation_node_selector, generation_tolerations, generation_gpus)
            make_end(prepared, played, generation, profile)

    preset = sppo.pipeline_spec.root.input_definitions.parameters["preset"]
    preset.literals.extend(Value(string_value=name) for name in PRESETS)  # the SDK has no word for this
    return sppo
