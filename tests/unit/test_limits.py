"""What a package cannot play is refused before it is played."""

from collections.abc import Callable
from typing import Any

import pytest

from sppo.config.limits import Limits
from sppo.config.run import Form, resolve
from sppo.errors import ConfigError

GPUS = {"generation_gpus": "1", "ranking_gpus": "0", "training_gpus": "8"}


def refusal(check: Callable[..., None], *of: Any) -> str:
    """What a check says; empty if it refuses nothing."""
    try:
        check(*of)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("count", ["", " 1", "1.0", "-1", "one", "1Gi", "01", "٣", "1\n"])
def test_a_count_that_is_no_whole_number_is_refused(count):
    with pytest.raises(ConfigError) as caught:
        Limits(3).check_hardware({**GPUS, "ranking_gpus": count}, 1)
    assert str(caught.value) == f"ranking_gpus: {count!r} is no whole number; write one, such as 0 or 8"


def test_all_wrong_counts_are_told_at_once():
    with pytest.raises(ConfigError, match=r"generation_gpus: 'a'; training_gpus: 'b' is no whole number"):
        Limits(3).check_hardware({**GPUS, "generation_gpus": "a", "training_gpus": "b"}, 1)


@pytest.mark.parametrize(
    ("nodes", "several", "message"),
    [
        (0, True, "training_nodes: 0 is less than 1"),
        (2, False, "training_nodes: 2, but .* compiled to train in one pod"),
    ],
)
def test_nodes_that_a_package_cannot_play_are_refused(nodes, several, message):
    Limits(3, several).check_hardware(GPUS, 1)
    with pytest.raises(ConfigError, match=message):
        Limits(3, several).check_hardware(GPUS, nodes)


def test_several_nodes_are_played_by_a_package_for_them():
    assert refusal(Limits(3, several_nodes=True).check_hardware, GPUS, 8) == ""


@pytest.mark.parametrize(("shards", "iterations"), [(20, 3), (60, 1), (30, 2)])
def test_as_many_shards_as_fit_are_played(shards, iterations):
    assert refusal(Limits(3, shard_iterations=60).check, resolve({"shards": shards, "iterations": iterations})) == ""


@pytest.mark.parametrize(("shards", "iterations", "most"), [(21, 3, 20), (64, 3, 20), (61, 1, 60), (31, 2, 30)])
def test_more_shards_than_fit_are_refused_with_the_number_that_does(shards, iterations, most):
    with pytest.raises(ConfigError, match=rf"^shards: {shards} .* set shards={most} .*workflow_bytes"):
        Limits(3, shard_iterations=60).check(resolve({"shards": shards, "iterations": iterations}))


def test_on_one_machine_there_is_no_limit_on_shards():
    assert refusal(Limits(3).check, resolve({"shards": 10_000})) == ""


def test_more_iterations_than_are_compiled_in_are_refused():
    with pytest.raises(ConfigError, match=r"iterations: 4, but .* at most 3; .* a larger --max-iterations"):
        Limits(3).check(resolve({"iterations": 4}))


def test_an_empty_field_of_the_form_is_the_presets_value():
    fields = {"preset": "paper", "output_uri": "s3://b/r", "base_model": "", "iterations": 0, "shards": 2}
    config = resolve(Form(fields, {"train.eta": 5}).values())
    paper = resolve({"preset": "paper"})
    assert (config.base_model, config.iterations) == (paper.base_model, paper.iterations)
    assert (config.shards, config.train.eta, config.output_uri) == (2, 5, "s3://b/r")


def test_a_preset_that_is_named_twice_must_be_the_same():
    assert Form({"preset": "paper"}, {"preset": "paper"}).values() == {"preset": "paper"}
    with pytest.raises(ConfigError, match=r"config\.preset: 'paper', but the field preset says 'cpu'; choose it there"):
        Form({"preset": "cpu"}, {"preset": "paper"}).values()
