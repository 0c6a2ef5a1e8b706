"""Greedy answers in a report: to prompts with instructions that code checks."""

import pytest

from sppo.reporting.report import collect, render_html, render_markdown
from sppo.reporting.report.checked import SHOWN
from sppo.store import keys, tables
from sppo.store.once import run_once
from tests.conftest import lineage_of
from tests.unit.test_report import HOSTILE, Page

pytestmark = pytest.mark.usefixtures("no_charts")
ASKED = 6


def answered(run, model, followed):
    """Commit a model's greedy answers, as the stage does; each follows the first of its two instructions, or both."""
    lineage = lineage_of(run.config.output_uri)
    key = keys.instruction_answers(model, lineage.instructions(run.config.evaluate.instructions.count))
    rows = [
        {
            "prompt_id": f"i{i}",
            "prompt": f"Write {i}: {HOSTILE}",
            "text": f"{model[:4]} {i}: {HOSTILE}",
            "tokens": 5,
            "instruction_ids": ["punctuation:no_comma", "change_case:english_lowercase"],
            "followed": [True, followed],
            "unchecked": 0,
        }
        for i in range(ASKED)
    ]

    def work(output):
        tables.write(output / keys.ANSWERS_FILE, tables.INSTRUCTION_ANSWERS, rows)
        return {}

    run_once(run.store, key, {"model": model}, work)


@pytest.fixture
def played(play_run):
    """A run that asked such prompts in its two iterations."""
    run = play_run(evaluated={"eval/instructions_prompts": float(ASKED)})
    lineage = lineage_of(run.config.output_uri)
    models = [run.store.manifest(lineage.evaluation_key(t)).inputs for t in (1, 2)]
    answered(run, models[0]["base"], False)
    for inputs in models:
        answered(run, inputs["new"], True)
    return run


def test_each_iteration_has_the_answers_of_its_own_model(played):
    report = collect(played.config, played.store)
    first, second = (each.checked for each in report.iterations)
    assert [each.prompt for each in first] == [each.prompt for each in second] and len(first) == SHOWN
    assert [each.base for each in first] == [each.base for each in second]
    for each, iteration in zip((first[0], second[0]), report.iterations, strict=True):
        assert each.new.startswith(iteration.inputs["new"][:4])
        assert each.base.startswith(iteration.inputs["base"][:4])
        assert (each.base_followed, each.new_followed) == ((True, False), (True, True))


def test_they_come_before_what_the_judge_compared(played):
    html = render_html(collect(played.config, played.store))
    page = Page(html)
    titles = [text for tag, text in page.texts if tag == "h3"]
    assert titles[:3] == ["Greedy, where code checks what is followed", "Base follows 1 of 2", "New follows 2 of 2"]
    assert titles.index("What the judge compared") == 1 + 2 * SHOWN
    assert html.count("punctuation:no_comma") == SHOWN
    assert not {"script", "img"} & {tag for tag, _ in page.elements}


def test_markdown_shows_them_as_text(played):
    text = render_markdown(collect(played.config, played.store))
    rows = [line for line in text.splitlines() if "follows 1 of 2 | follows 2 of 2" in line]
    assert len(rows) == SHOWN and "<script>" not in text


def test_answers_that_are_not_there_any_more_are_not_shown(play_run):
    run = play_run(evaluated={"eval/instructions_prompts": float(ASKED)})
    assert all(each.checked == () for each in collect(run.config, run.store).iterations)


def test_a_run_without_such_prompts_shows_none(play_run):
    run = play_run()
    report = collect(run.config, run.store)
    assert all(each.checked == () for each in report.iterations)
    assert "where code checks" not in render_html(report) and "Greedy answers to some" not in render_markdown(report)
