"""What a run says before it starts, and what `sppo clean` leaves: a store in which some stages are committed."""

import json

import pytest

from sppo.config.run import PreparedConfig, resolve
from sppo.config.sections.section import Stage
from sppo.models.fetch import policy_digest
from sppo.preparing.recorded import record
from sppo.process.clean import remove, unused
from sppo.process.contents import with_contents
from sppo.process.plan import OF_AN_ITERATION, Work, in_words, plan, plan_from_afar
from sppo.store import keys, tables
from sppo.store.lineage import Lineage
from sppo.store.local import LocalStore
from sppo.store.once import run_once
from sppo.store.opening import open_store

VALUES = {"iterations": 3, "generate.chunk_size": 2, "shards": 2}
CHUNKS = 2


class Place:
    """A place in which stages are committed that made nothing."""

    def __init__(self, folder):
        self.store = LocalStore(folder)

    def start(self, **changes):
        config = PreparedConfig(**resolve({"output_uri": self.store.uri, **VALUES, **changes}).asked())
        lineage = Lineage(config, self.store)
        if self.store.manifest(lineage.prepared_key) is None:
            run_once(self.store, lineage.prepared_key, {}, _tables)
        return record(config, self.store, {})

    def commit(self, config, *stages: Stage, iteration=1, decision="continue"):
        lineage, places = Lineage(config, self.store), []
        for stage in stages:
            places += {
                "generate": [lineage.chunk_key(iteration, chunk) for chunk in range(CHUNKS)],
                "rank": [lineage.preferences_key(iteration, shard, 2) for shard in range(2)],
                "train": [lineage.model_key(iteration)],
                "evaluate": [lineage.evaluation_key(iteration)],
                "publish": [lineage.published_key],
                "report": [lineage.report_key],
            }[stage]
        digests = {role: "ab" * 32 for role in ("new", "previous", "base")}
        for place in (each for each in places if self.store.manifest(each) is None):
            run_once(self.store, place, digests, lambda output: _verdict(output, decision))
        return places

    def finish(self, config):
        """Everything, and the base's answers."""
        for t in range(1, config.iterations + 1):
            decision = "stop" if t == config.iterations else "continue"
            self.commit(config, *OF_AN_ITERATION, iteration=t, decision=decision)
        lineage = Lineage(config, self.store)
        run_once(self.store, keys.answers("ab" * 32, lineage.answers()), {}, lambda output: {})
        self.commit(config, "publish", "report")

    def folders(self):
        return {path.parent.relative_to(self.store.root).as_posix() for path in self.store.root.rglob("MANIFEST.json")}


def _tables(folder):
    rows = [{"prompt_id": f"p{i}", "prompt": "?", "prompt_ids": [i]} for i in range(2 * CHUNKS)]
    for name in (*map(keys.prompts_file, (1, 2, 3)), keys.HELD_OUT_FILE):
        tables.write(folder / name, tables.PROMPTS, rows)
    return {}


def _verdict(folder, decision):
    (folder / keys.VERDICT_FILE).write_text(json.dumps({"decision": decision, "best_iteration": 0}))
    return {}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "run")


def test_in_an_empty_place_everything_is_to_be_done(place, capsys):
    config = PreparedConfig(**resolve({"output_uri": place.store.uri}).asked())
    planned = plan(config, place.store)
    planned.tell()
    assert capsys.readouterr().out == "", "nobody asked"
    planned.tell(asked=True)
    assert capsys.readouterr().out.splitlines() == [*planned.lines()]
    assert [*planned.lines()] == [
        "there already: nothing", "to do: prepare; all of iterations 1 to 3; publish"
    ]  # fmt: skip


def test_a_changed_value_is_told_with_what_it_redoes(place):
    first = place.start()
    place.finish(first)
    second = PreparedConfig(**{**first.asked(), "train": first.train.model_copy(update={"eta": 500.0})})
    assert [*plan(second, place.store).lines()] == [
        "changed: train.eta: 1000.0 -> 500.0: train, evaluate of iteration 1; all of iterations 2 and 3; publish",
        "there already: prepare; generate, rank of iteration 1",
        "to do: train, evaluate of iteration 1; all of iterations 2 and 3; publish",
    ]
    assert [*plan(first, place.store).lines()][1:] == ["to do: nothing"]


def test_dropped_weights_are_told_and_trained_again_where_they_are_needed(place):
    config = place.start()
    place.finish(config)
    lineage = Lineage(config, place.store)
    for t in (1, 3):
        place.store.drop(lineage.model_key(t), ".safetensors", "publish.keep: best")
    assert [*plan(config, place.store).lines()][1:] == ["to do: nothing", "weights dropped: iterations 1, 3"]
    place.store.delete(lineage.chunk_key(2, 0))
    assert [*plan(config, place.store).lines()][1:] == [
        "to do: train of iteration 1; generate of iteration 2",
        "weights dropped: iterations 1, 3",
        "trained again, because what is to be done needs the dropped weights: iteration 1",
    ]
    assert unused(config, place.store) == {}
    other = place.start(**{"train.eta": 500.0})
    assert {lineage.model_key(t) for t in (1, 2, 3)} <= set(unused(other, place.store))
    for folder, files in unused(other, place.store).items():
        remove(place.store, folder, files)
    assert lineage.model_key(1) not in place.folders()


def test_a_gate_redoes_evaluations_and_what_another_decision_would_change(place):
    first = place.start()
    place.finish(first)
    second = place.start(**{"evaluate.gate.stop_below": 0.1})
    assert [*plan(second, place.store).lines()] == [
        "there already: prepare; generate, rank, train of iterations 1 to 3",
        "to do: evaluate of iterations 1 to 3; publish",
        "an iteration after one whose gate decides otherwise is played anew",
    ]


def test_a_run_that_its_gate_ended_has_nothing_left(place):
    config = place.start()
    place.commit(config, *OF_AN_ITERATION, decision="stop")
    place.commit(config, "publish", "report")
    assert [*plan(config, place.store).lines()] == [
        "there already: prepare; all of iteration 1; publish", "to do: nothing"
    ]  # fmt: skip


def test_a_stage_is_there_once_all_of_it_is(place):
    config = place.start()
    digest = Lineage(config, place.store).generate(1)
    run_once(place.store, keys.response_chunk(1, digest, 0), {}, lambda output: {})
    assert Work("generate", 1) in plan(config, place.store).missing
    place.commit(config, "generate")
    assert Work("generate", 1) in plan(config, place.store).there


def test_shards_are_no_other_values_but_other_pieces(place):
    place.commit(place.start(), "generate", "rank")
    again = place.start(shards=1)
    assert again.digest() == place.start().digest()
    assert plan(again, place.store).missing >= {Work("rank", 1)}


def test_a_file_that_was_edited_is_told(place):
    first = place.start()
    second = first.model_copy(update={"contents": {"prompts": "12" * 32}})
    told = next(plan(second, place.store).lines())
    assert told == ("changed: prompts: package:sppo holds something else: prepare; all of iterations 1 to 3; publish")


def test_an_edit_of_any_of_several_files_is_told(tmp_path):
    files = [tmp_path / f"{name}.jsonl" for name in "ab"]
    for file in files:
        file.write_text('{"prompt": "a"}\n')
    values = {"prompts": [*map(str, files), "hf://org/c"], "output_uri": str(tmp_path / "run")}
    first = with_contents(resolve(values))
    files[1].write_text('{"prompt": "b"}\n')
    second = with_contents(resolve(values), first)
    assert len({first.contents["prompts"], second.contents["prompts"]}) == 2
    assert first.read_by("prepare")["prompts"] == first.contents["prompts"]
    files[0].unlink()
    assert with_contents(resolve(values), second).contents["prompts"] == second.contents["prompts"], (
        "prepare has kept it"
    )
    assert "prompts" not in with_contents(resolve({**values, "prompts": ["hf://org/c"] * 3})).contents


def test_from_afar_what_a_value_names_is_taken_to_be_as_it_was(place):
    first = place.start()
    recorded = first.model_copy(update={"contents": {"base_model": "12" * 32, "prompts": "34" * 32}})
    record(recorded, place.store, {"hf://org/name": "hf://org/name@" + "a" * 40})
    asked = resolve({"output_uri": place.store.uri, **VALUES})
    assert plan_from_afar(asked, place.store).changed == ()
    other = resolve({"output_uri": place.store.uri, **VALUES, "preference_model": "hf://org/name", "seed": 1})
    changed = plan_from_afar(other, place.store).changed
    assert [(each.key, each.now) for each in changed] == [
        ("preference_model", "hf://org/name@" + "a" * 40), ("seed", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("works", "words"),
    [
        ([], ""),
        ([Work("report")], "report"),
        ([Work("publish"), Work("report")], "publish"),
        ([Work("train", 2), Work("evaluate", 2)], "train, evaluate of iteration 2"),
        ([Work(stage, t) for stage in OF_AN_ITERATION for t in (1, 2, 3)], "all of iterations 1 to 3"),
        ([Work("evaluate", 1), Work("evaluate", 3)], "evaluate of iteration 1; evaluate of iteration 3"),
    ],
)
def test_works_in_words(works, words):
    assert in_words(works, 3) == words


def test_clean_removes_the_bases_log_probabilities_of_other_trainings_alone(place):
    first, second = place.start(), place.start(**{"train.objective": "rspo"})
    for config in (first, second):
        run_once(place.store, Lineage(config, place.store).base_logprobs_key(2), {}, lambda output: {})
    assert {*unused(second, place.store)} == {Lineage(first, place.store).base_logprobs_key(2)}


def test_clean_removes_what_the_last_values_do_not_need(place):
    first = place.start()
    place.finish(first)
    second = place.start(**{"train.eta": 500.0})
    place.finish(second)
    (place.store.root / "notes.txt").write_text("mine")
    found = unused(second, place.store)
    lineage = Lineage(first, place.store)
    assert lineage.model_key(1) in found and lineage.published_key in found
    assert keys.responses(2, lineage.generate(2)) in found
    assert keys.responses(1, lineage.generate(1)) not in found, "the second run has them too"
    assert not any(name.startswith("answers") for name in found)
    for folder, files in found.items():
        remove(place.store, folder, files)
    assert unused(second, place.store) == {}
    assert plan(second, place.store).missing == frozenset()
    assert (place.store.root / "notes.txt").exists() and lineage.model_key(1) not in place.folders()


def test_clean_loses_no_model_to_a_start_that_is_not_finished(place, run_sppo):
    first = place.start()
    place.finish(first)
    second = place.start(**{"train.eta": 500.0})
    before, uri = place.folders(), place.store.uri
    refused = run_sppo("clean", uri)
    assert refused.code == 2 and place.folders() == before
    named = f"{uri}#{keys.short(first.digest())}"
    assert f"what '{named}' published would be lost" in refused.err and f"`sppo clean '{named}'`" in refused.err
    assert run_sppo("clean", named).code == 0 and place.folders() == before
    of_second = f"{uri}#{keys.short(second.digest())}"
    assert run_sppo("clean", of_second).code == 0 and Lineage(first, place.store).published_key not in place.folders()


def test_starts_of_a_place_are_named_where_another_is_asked_for(place, run_sppo):
    started = [place.start(), place.start(**{"train.eta": 500.0})]
    refused = run_sppo("report", f"{place.store.uri}#1234")
    assert refused.code == 2 and "no start of this name; there are " in refused.err
    assert all(f"{place.store.uri}#{keys.short(each.digest())}" in refused.err for each in started)


def test_clean_keeps_what_a_run_may_still_need(place):
    config = place.start()
    place.commit(config, "generate", "rank", "train")
    lineage = Lineage(config, place.store)
    run_once(place.store, keys.answers("cd" * 32, lineage.answers()), {}, lambda output: {})
    run_once(place.store, keys.answers("cd" * 32, "0" * 64), {}, lambda output: {})
    assert set(unused(config, place.store)) == {keys.answers("cd" * 32, "0" * 64)}


@pytest.mark.parametrize("where", ["a folder", "s3"])
def test_clean_keeps_the_benchmarks_of_the_published_model(where, request, tmp_path):
    uri = str(tmp_path / "run") if where == "a folder" else request.getfixturevalue("s3").uri
    config = PreparedConfig(**resolve({"output_uri": uri}).asked())
    store = open_store(uri)

    def model(output):
        for name in ("config.json", "model.safetensors", "README.md"):
            (output / name).write_text(name)
        return {}

    run_once(store, Lineage(config, store).published_key, {}, model)
    ours = policy_digest(f"{store.uri}/{Lineage(config, store).published_key}")
    for digits, measured in (("ab", ours), ("cd", "another model's")):
        run_once(store, keys.benchmark("mt_bench", digits * 32), {"model": measured}, lambda output: {})
    assert set(unused(config, store)) == {keys.benchmark("mt_bench", "cd" * 32)}
