"""Components of small pipelines."""

from typing import List  # noqa: UP035 - KFP reads the annotations

from kfp import dsl


@dsl.component(base_image="stage")
def say(text: str = "nothing") -> str: ...


@dsl.component(base_image="stage")
def make(number: int, made: dsl.Output[dsl.Dataset]) -> int: ...


@dsl.component(base_image="stage")
def use(made: dsl.Input[dsl.Dataset]) -> None: ...


@dsl.component(base_image="stage")
def gather(made: dsl.Input[List[dsl.Dataset]]) -> None: ...  # noqa: UP006


@dsl.component(base_image="stage")
def add(numbers: List[int]) -> int: ...  # noqa: UP006


@dsl.component(base_image="stage")
def finish(text: str, status: dsl.PipelineTaskFinalStatus) -> None: ...


ECHO = {"say": lambda pod: {"Output": pod.inputs["text"]}, "make": lambda pod: {"Output": pod.inputs["number"]}}
"""Outputs: what went in."""
