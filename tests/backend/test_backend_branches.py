"""What is played and what is not: conditions, branches that are joined, tasks that wait for what was skipped."""

import pytest
from kfp import dsl

from tests.backend import expression
from tests.backend.metadata import groups
from tests.backend.player import play
from tests.backend.small import ECHO, finish, make, say, use
from tests.backend.values import BackendError, NotPlayedError

VALUES = {"gate": "passed", "count": 3.0, "wanted": True, "none": None}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("inputs.parameter_values['gate'] == 'passed'", True),
        ("!(inputs.parameter_values['gate'] == 'passed')", False),
        ("inputs.parameter_values['gate'] != 'passed' || inputs.parameter_values['wanted'] == true", True),
        ("!(inputs.parameter_values['gate'] == 'x') && int(inputs.parameter_values['count']) >= 4", False),
        ("int(inputs.parameter_values['count']) == 3", True),
        ("double(inputs.parameter_values['count']) < 3.5", True),
        ("inputs.parameter_values['none'] == 'passed'", False),
        ("inputs.parameter_values['count'] == '3'", False),
    ],
)
def test_conditions_are_decided_as_cel_does(condition, holds):
    assert expression.condition(VALUES, condition) is holds


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("inputs.parameter_values['gaet'] == 'passed'", "no such key: gaet"),
        ("inputs.parameter_values['gate'] > 3", "no such overload"),
        ("inputs.parameter_values['gate']", "return type is not bool, got passed"),
        ("int(inputs.parameter_values['none']) == 3", "no such overload"),
        ("gate == 'passed'", "undeclared reference to 'gate'"),
        ("inputs.parameter_values['gate'] = 'passed'", "token recognition error"),
        ("inputs.parameter_values['gate' == 'passed'", "found"),
    ],
)
def test_a_condition_that_cannot_be_decided_is_an_error(condition, message):
    with pytest.raises(BackendError, match=message):
        expression.condition(VALUES, condition)


def test_a_function_without_a_rule_is_told():
    with pytest.raises(NotPlayedError, match="CEL's function size"):
        expression.condition(VALUES, "size(inputs.parameter_values['gate']) == 6")


@dsl.pipeline
def two_branches(way: str):
    with dsl.If(way == "left"):
        left = say(text="went left")
    with dsl.Else():
        right = say(text="went right")
    say(text=dsl.OneOf(left.output, right.output))


@pytest.mark.parametrize("way", ["left", "right"])
def test_one_of_is_what_the_branch_that_was_played_put_out(compiled, way):
    run = play(compiled(two_branches), {"way": way}, ECHO)
    assert [pod.inputs["text"] for pod in run.pods] == [f"went {way}"] * 2
    assert sorted(groups(run.executions).values()) == ["CANCELED", "COMPLETE", "COMPLETE"]


def test_what_depends_on_a_skipped_task_is_omitted_and_its_pipeline_succeeds(compiled):
    @dsl.pipeline
    def inner(way: str):
        with dsl.If(way == "left"):
            say(text="first")
        second = say(text="second")
        say(text="third").after(second)

    @dsl.pipeline
    def pipeline(way: str):
        say(text="last").after(inner(way=way))

    package = compiled(pipeline)
    # The SDK does not let a task wait for a branch; a package can say it.
    package.spec["components"]["comp-inner"]["dag"]["tasks"]["say-2"]["dependentTasks"] = ["condition-1"]
    skipped, played = (play(package, {"way": way}, ECHO) for way in ("right", "left"))
    assert [pod.inputs["text"] for pod in skipped.pods] == ["last"]
    assert [pod.inputs["text"] for pod in played.pods] == ["first", "second", "third", "last"]
    phases = [node.phase for node in skipped.nodes]
    assert phases.count("Skipped") == 1 and phases.count("Omitted") == 4
    # The branch's own node and two for each task stand in the place of two, six and twice six.
    assert len(played.nodes) - len(skipped.nodes) == (2 + 6 + 6 + 6) - (1 + 2 + 2)
    assert groups(skipped.executions)["inner"] == "RUNNING", "two of its three tasks have no execution"
    assert groups(played.executions)["inner"] == "COMPLETE"


def test_one_of_finds_nothing_where_a_branch_holds_a_task_that_was_never_started(compiled):
    @dsl.pipeline
    def pipeline(way: str, more: str):
        with dsl.If(way == "left"):
            left = say(text="left")
            with dsl.If(more == "yes"):
                say(text="further")
            say(text="last")
        with dsl.Else():
            right = say(text="right")
        say(text=dsl.OneOf(left.output, right.output))

    package = compiled(pipeline)
    package.spec["components"]["comp-condition-3"]["dag"]["tasks"]["say-3"]["dependentTasks"] = ["condition-2"]
    assert len(play(package, {"way": "left", "more": "yes"}, ECHO).pods) == 4
    with pytest.raises(BackendError, match="processing OneOf: No successful task found for output key"):
        play(package, {"way": "left", "more": "no"}, ECHO)


def test_a_branch_whose_only_task_is_not_triggered_is_never_complete(compiled):
    package = compiled(two_branches)
    (task,) = package.spec["components"]["comp-condition-2"]["dag"]["tasks"].values()
    task["inputs"]["parameters"]["way"] = {"componentInputParameter": "pipelinechannel--way"}
    task["triggerPolicy"] = {"condition": "inputs.parameter_values['way'] == 'up'"}
    with pytest.raises(BackendError, match="processing OneOf"):
        play(package, {"way": "left"}, ECHO)


def test_an_exit_task_runs_after_the_others_and_is_told_what_ml_metadata_knows(compiled):
    @dsl.pipeline
    def pipeline(text: str):
        with dsl.ExitHandler(finish(text="over")):
            first = say(text=text)
            with dsl.If(first.output == "more"):
                say(text="more")

    package = compiled(pipeline)
    for text, state in (("more", "COMPLETE"), ("enough", "RUNNING")):
        run = play(package, {"text": text}, ECHO)
        assert run.pods[-1].stage == "finish" and run.pods[-1].inputs["text"] == "over"
        status = run.pods[-1].inputs["status"]
        assert (status["pipelineTaskName"], status["state"]) == ("exit-handler-1", state)


def test_a_task_waits_for_what_it_takes_an_output_of_though_the_package_does_not_say_so(compiled):
    @dsl.pipeline
    def pipeline():
        made = make(number=1)
        use(made=made.outputs["made"])
        make(number=made.outputs["Output"])

    package = compiled(pipeline)
    tasks = package.spec["root"]["dag"]["tasks"]
    for name in ("use", "make-2"):
        del tasks[name]["dependentTasks"]
    run = play(package, {}, ECHO)
    assert run.pods[0].path == "make" and len(run.pods) == 3
    tasks["use"]["inputs"]["artifacts"]["made"]["taskOutputArtifact"]["producerTask"] = "nobody"
    with pytest.raises(BackendError, match='unknown producer task "nobody" in DAG'):
        play(package, {}, ECHO)


def test_a_task_without_a_name_is_refused(compiled):
    package = compiled(two_branches)
    del package.spec["components"]["comp-condition-2"]["dag"]["tasks"]["say"]["taskInfo"]
    with pytest.raises(BackendError, match="invalid Container driver args: task spec is required"):
        play(package, {"way": "left"}, ECHO)
