"""A changed value changes the digests of the stages that read it and of what follows from them, and no others."""

from typing import Any

import pytest

from sppo.config.identity import readers
from sppo.config.run import PreparedConfig, RunConfig, flatten, resolve
from sppo.config.sections.section import OF_A_RUN, Free, FreeIf, Section, Stage
from sppo.process.plan import AT_THE_END, OF_AN_ITERATION, Work, follows
from sppo.store.lineage import Lineage
from sppo.store.local import LocalStore

ITERATIONS = 3
START = resolve({"iterations": ITERATIONS, "judge.dtype": "bfloat16"})
"""Beside bfloat16 the size of a judge's batches can change its logits."""
KEYS = list(flatten(START.model_dump(mode="json")))
PART_OF = {"answers": "evaluate", "instructions": "evaluate"}


def put(section: Any, key: str, value: Any) -> Any:
    """A configuration with another value, whether that is allowed or not."""
    name, _, rest = key.partition(".")
    return section.model_copy(update={name: put(getattr(section, name), rest, value) if rest else value})


def another(value: Any) -> Any:
    if isinstance(value, tuple):
        return (*value, "another")
    return not value if isinstance(value, bool) else f"{value}-another" if isinstance(value, str) else value + 1


def changed(key: str, start: Section = START) -> Any:
    value: Any = start
    for name in key.split("."):
        value = getattr(value, name)
    return put(start, key, another(value))


def digests(config: RunConfig, store: LocalStore) -> dict[Work, str]:
    """Of everything that a run commits, in a place where nothing is yet."""
    lineage = Lineage(config, store)
    found = {Work("prepare"): lineage.prepared}
    for t in range(1, ITERATIONS + 1):
        found |= {Work(stage, t): getattr(lineage, stage)(t) for stage in OF_AN_ITERATION}
    lineage.evaluated = lambda last=None: list(range(1, ITERATIONS + 1))  # type: ignore[method-assign]
    return found | {Work(stage): getattr(lineage, stage)() for stage in AT_THE_END}


def redone(before: RunConfig, after: RunConfig, store: LocalStore) -> set[Work]:
    old, new = digests(before, store), digests(after, store)
    return {work for work in old if old[work] != new[work]}


def of_a_run(stages: tuple[Stage, ...]) -> set[str]:
    return {PART_OF.get(stage, stage) for stage in stages if stage in OF_A_RUN}


def test_every_value_says_who_reads_it():
    assert [*readers(RunConfig)] == KEYS
    assert all(by.why if isinstance(by, Free | FreeIf) else by for by in readers(RunConfig).values())


@pytest.mark.parametrize("key", KEYS)
def test_a_value_changes_the_digests_of_who_reads_it_and_of_what_follows(key, tmp_path):
    by, after = readers(RunConfig)[key], changed(key)
    found = redone(START, after, LocalStore(tmp_path))
    assert found == follows(key, ITERATIONS)
    stages = set() if isinstance(by, Free) else of_a_run(by.stages if isinstance(by, FreeIf) else by)
    assert stages <= {stage for stage, _ in found}
    assert bool(found) == bool(stages) == (after.digest() != START.digest())


def test_a_batch_of_a_judge_counts_where_it_can_change_a_logit(tmp_path):
    start = resolve({"iterations": ITERATIONS, "judge.dtype": "float32"})
    assert not redone(start, changed("judge.batch_tokens", start), LocalStore(tmp_path))


@pytest.mark.parametrize(
    ("key", "first", "later"),
    [
        ("train.eta", ("train", "evaluate"), OF_AN_ITERATION),
        ("rank.temperature", ("rank", "train", "evaluate"), OF_AN_ITERATION),
        ("generate.temperature", OF_AN_ITERATION, OF_AN_ITERATION),
        ("evaluate.gate.stop_below", ("evaluate",), ("evaluate",)),
        ("evaluate.samples", ("evaluate",), ("evaluate",)),
        ("evaluate.gate.required_vs_base", (), ()),
        ("train.micro_tokens", (), ()),
    ],
)
def test_what_some_values_redo(key, first, later, tmp_path):
    found = redone(START, changed(key), LocalStore(tmp_path))
    assert [stage for stage in OF_AN_ITERATION if Work(stage, 1) in found] == [*first]
    for t in (2, 3):
        assert [stage for stage in OF_AN_ITERATION if Work(stage, t) in found] == [*later]


@pytest.mark.parametrize("key", ["base_model", "prompts", "preference_model", "evaluate.second_judge"])
def test_what_a_value_names_stands_for_it(key, tmp_path):
    """A file that was edited is another value; one that was moved is not."""
    store, values = LocalStore(tmp_path), START.asked()
    start = PreparedConfig(**values, contents={key: "1" * 64})
    assert redone(start, PreparedConfig(**values, contents={key: "2" * 64}), store) == follows(key, ITERATIONS)
    assert not redone(start, changed(key, start), store)


def test_another_iteration_redoes_the_evaluation_that_was_the_last(tmp_path):
    lineages = [Lineage(resolve({"iterations": number}), LocalStore(tmp_path)) for number in (2, 3)]
    for lineage in lineages:
        lineage.prompts = lambda file: file  # type: ignore[method-assign]
    one, two = ([lineage.evaluate(t) for t in (1, 2)] for lineage in lineages)
    assert one[0] == two[0]
    assert one[1] != two[1]
    assert lineages[0].train(2) == lineages[1].train(2)
