"""Parameters: of a run at the API server, and of tasks at their drivers."""

from typing import List  # noqa: UP035 - KFP reads the annotations

import pytest
from kfp import dsl

from tests.backend.api_server import root_inputs
from tests.backend.metadata import Metadata
from tests.backend.package import Package, load
from tests.backend.player import play
from tests.backend.resolve import Options, resolve_inputs
from tests.backend.small import ECHO, add, gather, make, say, use
from tests.backend.values import BackendError, as_argument, as_text, items


def package(**parameters):
    """A package that takes parameters."""
    return Package({"root": {"inputDefinitions": {"parameters": parameters}}}, {})


TEXT = {"parameterType": "STRING"}


def test_a_run_gets_what_it_gives_and_defaults():
    preset = {**TEXT, "isOptional": True, "defaultValue": "cpu"}
    found = root_inputs(package(uri=TEXT, preset=preset, note={**TEXT, "isOptional": True}), {"uri": "s3://b"})
    assert found == {"uri": "s3://b", "preset": "cpu", "note": None}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("STRING", 1, "input parameter p requires type string, but the input parameter is not of string value type"),
        ("NUMBER_INTEGER", "1", "requires type double or integer, but the input parameter is not of number value type"),
        ("NUMBER_DOUBLE", True, "requires type double or integer"),
        ("BOOLEAN", 1, "requires type bool"),
        ("LIST", {}, "requires type list"),
        ("STRUCT", [], "requires type struct"),
        ("TASK_FINAL_STATUS", {}, "requires type TASK_FINAL_STATUS"),
    ],
)
def test_a_run_may_not_give_another_type(kind, value, message):
    with pytest.raises(BackendError, match=message):
        root_inputs(package(p={"parameterType": kind}), {"p": value})


def test_a_run_may_give_only_literals_where_there_are_some():
    preset = package(preset={**TEXT, "literals": ["cpu", "paper"]})
    assert root_inputs(preset, {"preset": "paper"}) == {"preset": "paper"}
    with pytest.raises(BackendError, match='"preset" value papre does not match any of the allowed literal values'):
        root_inputs(preset, {"preset": "papre"})


def test_a_run_gives_what_has_no_default_and_nothing_that_is_unknown():
    with pytest.raises(BackendError, match="parameter uri is not optional, yet has neither default value nor user"):
        root_inputs(package(uri=TEXT), {})
    with pytest.raises(BackendError, match=r"parameter\(s\) provided are not required by pipeline: url"):
        root_inputs(package(), {"url": ""})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no pipeline spec is provided"),
        ("pipelineInfo: {name: a}\nschemaVersion: 2.0.0", "only supports schema version 2.1.0"),
        ("pipelineInfo: {name: ''}\nschemaVersion: 2.1.0", "name is empty"),
        ("pipelineInfo: {name: a}\n---\npipelineInfo: {name: a}", "multiple pipeline specs provided"),
    ],
)
def test_what_is_no_package_is_refused(tmp_path, text, message):
    (tmp_path / "package.yaml").write_text(text)
    with pytest.raises(BackendError, match=message):
        load(tmp_path / "package.yaml")


@pytest.mark.parametrize(
    ("value", "text", "argument"),
    [
        (3.0, "3", "3"),
        (5e-7, "0.0000005", "5e-07"),
        (True, "true", "true"),
        (None, "", ""),
        ([0.0, "a"], '[0,"a"]', '[0,"a"]'),
        ({"b": 1, "a": "<&>"}, '{"a":"\\u003c\\u0026\\u003e","b":1}', '{"a":"\\u003c\\u0026\\u003e","b":1}'),
    ],
)
def test_values_become_text_as_go_writes_them(value, text, argument):
    assert as_text(value) == text and as_argument(value) == argument


def driven(inputs, declared, parent):
    """What a container's driver resolves."""
    store = Metadata()
    task = {"inputs": {"parameters": inputs}, "componentRef": {"name": "comp-a"}}
    component = {"inputDefinitions": {"parameters": declared}}
    return resolve_inputs(store, Options("a", task, component, store.create("", None, inputs=parent))).parameters


def test_text_is_made_of_what_is_none_and_nothing_else_is_converted():
    given = {"p": {"componentInputParameter": "q"}}
    assert driven(given, {"p": TEXT}, {"q": 7}) == {"p": "7"}
    assert driven(given, {}, {"q": 7}) == {"p": 7}, "what the component does not declare stays as it is"
    with pytest.raises(BackendError, match='input parameter "p" type mismatch: expect NUMBER_INTEGER, got string'):
        driven(given, {"p": {"parameterType": "NUMBER_INTEGER"}}, {"q": "7"})


def test_a_driver_wants_what_is_not_optional():
    with pytest.raises(BackendError, match='neither value nor default value provided for non-optional parameter "p"'):
        driven({}, {"p": TEXT}, {})
    given = {"p": {"componentInputParameter": "q"}}
    assert driven(given, {"p": {**TEXT, "isOptional": True}}, {"q": None}) == {}
    with pytest.raises(BackendError, match="the resolved input parameter is null: q"):
        driven(given, {"p": TEXT}, {"q": None})
    with pytest.raises(BackendError, match="parent DAG does not have input parameter q"):
        driven(given, {"p": TEXT}, {})


def test_a_driver_holds_to_literals_too():
    with pytest.raises(BackendError, match=r'validating parameter "p": .*allowed literal values: ."a"'):
        driven({"p": {"runtimeValue": {"constant": "b"}}}, {"p": {**TEXT, "literals": ["a"]}}, {})


def test_placeholders_of_the_run_are_filled_in():
    names = ["{{$.pipeline_job_name}}", "{{$.pipeline_job_resource_name}}", "{{$.pipeline_task_name}}"]
    given = {str(number): {"runtimeValue": {"constant": name}} for number, name in enumerate(names)}
    assert list(driven(given, {}, {}).values()) == ["sppo", "sppo-x7k2p", "a"]


def test_a_container_gets_its_own_defaults(compiled):
    @dsl.pipeline
    def pipeline(note: str = "hello"):
        say()
        say(text=note)

    run = play(compiled(pipeline), {}, ECHO)
    assert sorted(pod.inputs["text"] for pod in run.pods) == ["hello", "nothing"]


def test_a_stage_must_put_out_what_it_declares(compiled):
    @dsl.pipeline
    def pipeline():
        say()

    with pytest.raises(BackendError, match='failed to read output parameter name="Output"'):
        play(compiled(pipeline), {}, {})


def test_a_loop_hands_each_iteration_its_item_and_collects_in_order(compiled):
    @dsl.pipeline
    def pipeline(numbers: List[int] = [4, 2, 8]):  # noqa: B006, UP006
        with dsl.ParallelFor(numbers) as number:
            made = make(number=number)
            use(made=made.outputs["made"])
        gather(made=dsl.Collected(made.outputs["made"]))
        add(numbers=dsl.Collected(made.outputs["Output"]))

    run = play(compiled(pipeline), {}, {**ECHO, "add": {"Output": 14}})
    made = {pod.path.rpartition("/")[0]: pod for pod in run.of("make")}
    assert [pod.inputs["number"] for pod in made.values()] == [4, 2, 8]
    for user in run.of("use"):
        assert f"/{user.path.rpartition('/')[0]}/make/" in user.artifacts["made"][0].uri
    (gathered,), (added,) = run.of("gather"), run.of("add")
    assert [artifact.uri.split("/make/")[0][-3:] for artifact in gathered.artifacts["made"]] == ["[0]", "[1]", "[2]"]
    assert added.inputs["numbers"] == [4, 2, 8]


def test_a_loop_over_a_list_in_the_package_has_it_as_its_item_first(compiled):
    @dsl.pipeline
    def pipeline():
        with dsl.ParallelFor([{"word": "a"}, {"word": "b"}]) as each:
            say(text=each.word)

    run = play(compiled(pipeline), {}, ECHO)
    assert [pod.inputs["text"] for pod in run.pods] == ["a", "b"]


def test_an_empty_loop_is_skipped_and_what_collects_of_it_fails(compiled):
    @dsl.pipeline
    def pipeline(numbers: List[int]):  # noqa: UP006
        with dsl.ParallelFor(numbers) as number:
            made = make(number=number)
        gather(made=dsl.Collected(made.outputs["made"]))

    with pytest.raises(BackendError, match=r"subTaskName, make_\d+, not in tasks"):
        play(compiled(pipeline), {"numbers": []}, ECHO)


def test_what_is_no_list_is_not_iterated_over():
    assert items("[1]") == [1] and items("{}") == []
    with pytest.raises(BackendError, match="value of type number cannot be iterated"):
        items(3)


def test_an_artifact_that_a_nested_pipeline_gets_under_two_names_has_one_there(compiled):
    @dsl.pipeline
    def inner(first: dsl.Input[dsl.Dataset], second: dsl.Input[dsl.Dataset]):
        use(made=first)
        use(made=second)

    @dsl.pipeline
    def pipeline():
        made = make(number=1)
        inner(first=made.outputs["made"], second=made.outputs["made"])

    with pytest.raises(BackendError, match="parent DAG does not have input artifact first"):
        play(compiled(pipeline), {}, ECHO)
