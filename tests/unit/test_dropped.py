"""Weights that are dropped once a run is published: what stays, who notices, and how they come back."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from sppo import stages
from sppo.config.limits import Limits
from sppo.config.run import Form, PreparedConfig, resolve
from sppo.errors import ConfigError, InfrastructureError, RunFailedError
from sppo.models.fetch import fetch_model, fetch_policy, policy_digest
from sppo.models.headers import SUFFIX
from sppo.preparing.recorded import record
from sppo.process.clean import unused
from sppo.process.dropped import Work, trained_again
from sppo.process.plan import plan
from sppo.reporting.compare.side import read_side
from sppo.reporting.compare.words import iteration_rows
from sppo.reporting.keeping import WHY
from sppo.reporting.publish import publish
from sppo.reporting.report import collect, render_html, render_markdown
from sppo.reporting.tracking import stage_records as said
from sppo.store import keys
from sppo.store.lineage import Lineage
from sppo.store.once import run_once
from sppo.store.opening import open_store
from sppo.training.again import forget
from tests.conftest import lineage_of, prepare

from .by_hand import few_tokens

pytestmark = pytest.mark.usefixtures("no_charts")
REFUSED = "its weights were dropped \\(publish.keep: best\\)"
BEST = {"publish.keep": "best"}
ALL = {"publish.keep": "all"}


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(str(tmp_path / "run"))
    return open_store(request.getfixturevalue("s3").uri)


@pytest.fixture
def model(store, tiny_llama):
    """The manifest of a committed model."""

    def copy(output):
        shutil.copytree(tiny_llama, output, dirs_exist_ok=True)
        (output / "README.md").write_text("no part of a plain folder's digest")
        return {"train/loss": 1.0}

    return run_once(store, "model", {"stage": "s"}, copy)


def test_the_rest_of_a_folder_stays(store, model):
    uri, size = f"{store.uri}/model", next(file.bytes for file in model.files if file.path == "model.safetensors")
    before = fetch_policy(uri).digest()
    assert policy_digest(uri) == before
    assert store.drop("model", SUFFIX, WHY) == size
    assert store.manifest("model") == model.model_copy(update={"dropped": WHY})
    assert store.manifest("model").digest() == model.digest() and policy_digest(uri) == before
    assert b"<|im_start|>" in store.read_committed("model", "tokenizer.json")
    assert sorted(name.rpartition("/")[2] for name in store.files()) == sorted(
        ["MANIFEST.json", *(file.path for file in model.files if file.path != "model.safetensors")]
    )
    assert store.drop("model", SUFFIX, WHY) == 0


def test_dropped_weights_are_refused_by_name(store, model):
    store.drop("model", SUFFIX, WHY)
    uri = f"{store.uri}/model"
    for fetch in (lambda: store.fetch("model"), lambda: fetch_model(uri), lambda: fetch_model(uri, weights=False)):
        with pytest.raises(ConfigError, match=f"^{uri}: {REFUSED}; `sppo resume` trains them again") as caught:
            fetch()
        assert "\n" not in str(caught.value) and "publish.keep=all" in str(caught.value)
    with pytest.raises(InfrastructureError, match="nothing is committed there"):
        store.drop("other", SUFFIX, WHY)


def test_an_interrupted_drop_is_finished_by_the_next(store, model, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.drop("model", SUFFIX, WHY)
    with pytest.raises(ConfigError, match=REFUSED):
        store.fetch("model")
    assert any(name.endswith(SUFFIX) for name in store.files())
    assert store.drop("model", SUFFIX, WHY) > 0
    assert not any(name.endswith(SUFFIX) for name in store.files())


def test_names_are_those_of_one_folder(store):
    for key in ("a/1.json", "a/2.json", "a/b/3.json", "4.json"):
        store.write(key, b"{}")
    assert store.names("a") == {"1.json", "2.json"} and store.names("none") == set()


def dropped(run):
    lineage = Lineage(run.config, run.store)
    return [t for t in range(1, 4) if (found := run.store.manifest(lineage.model_key(t))) and found.dropped]


def test_publish_keeps_the_best_only_and_says_so(play_run, tiny_llama, capsys):
    run = play_run(model=tiny_llama, decisions=("continue", "continue", "keep-previous"), lows=(0.4, 0.6, 0.5), **BEST)
    size = (tiny_llama / "model.safetensors").stat().st_size
    first = publish(run.config)
    assert dropped(run) == [1, 3]
    told = f"{WHY}: dropped the weights of iterations 1, 3, {2 * size / 1e6:.1f} MB\n"
    assert told in capsys.readouterr().out
    fetch_model(run.models[1])
    assert publish(run.config) == first, "what is done needs no weights"
    out = capsys.readouterr().out
    assert out.count("there already") == 2 and "dropped" not in out
    record = said.published(Lineage(run.config, run.store), first)
    assert [(each.iteration, each.dropped) for each in record.publication.weights] == [(1, WHY), (2, ""), (3, WHY)]


def test_all_stay_unless_it_is_asked_for_later(play_run, tiny_llama):
    run = play_run(model=tiny_llama, **ALL)
    publish(run.config)
    assert dropped(run) == []
    later = resolve({**run.config.asked(), "publish": {**run.config.publish.model_dump(), "keep": "best"}})
    assert later.digest() == resolve(run.config.asked()).digest()
    publish(PreparedConfig(**later.asked()))
    assert dropped(run) == [1]


def test_what_another_configuration_may_need_stays(play_run, tiny_llama):
    first = play_run(model=tiny_llama, **BEST)
    second = play_run(model=tiny_llama, **BEST, **{"evaluate.bootstrap": 100})
    assert first.models == second.models and first.config.digest() != second.config.digest()
    publish(first.config)
    assert dropped(first) == [], "the other one may be at work"
    publish(second.config)
    assert dropped(first) == [1]


def test_what_another_configuration_keeps_or_published_stays(play_run, tiny_llama):
    keeps = play_run(model=tiny_llama, **ALL)
    publish(keeps.config)
    run = play_run(model=tiny_llama, **BEST, **{"evaluate.bootstrap": 100})
    publish(run.config)
    assert dropped(run) == [], "the other one keeps all"
    record(keeps.config.model_copy(update={"publish": run.config.publish}), keeps.store, {})
    other = play_run(model=tiny_llama, decisions=("stop",), lows=(0.6,), **BEST, **{"evaluate.bootstrap": 200})
    publish(other.config)
    publish(run.config)
    assert dropped(run) == [], "the first iteration's model is published too"


def test_report_and_comparison_say_it(play_run, tiny_llama):
    from sppo.reporting.compare.comparison import compare

    run = play_run(model=tiny_llama, **BEST)
    publish(run.config)
    other = play_run(model=tiny_llama, name="other", loss=1.0, **ALL)
    publish(other.config)
    told = collect(run.config, run.store)
    assert [each.dropped for each in told.iterations] == [WHY, ""]
    assert "its weights were dropped (publish.keep: best)" in render_html(told)
    assert "the weights of iteration 1 were dropped" in render_markdown(told)
    assert "dropped" not in render_markdown(collect(other.config, other.store)).replace("keep: all", "")
    rows = iteration_rows(compare(read_side("A", run.store.uri), read_side("B", other.store.uri)))
    assert [(row.iteration, row.a, row.b) for row in rows if row.label == "weights"] == [(1, "dropped", "there")]


@pytest.mark.parametrize(
    ("missing", "silent", "best", "again"),
    [
        ([], {1, 3}, 3, set()),
        ([Work("generate", 4)], set(), 0, {3}),
        ([Work("train", 2)], set(), 0, {1}),
        ([Work("rank", 2), Work("generate", 1), Work("train", 1)], set(), 0, set()),
        ([Work("evaluate", t) for t in (1, 2, 3)], set(), 0, set()),
        ([Work("evaluate", 2)], {1, 3}, 0, {1}),
        ([Work("evaluate", 3)], {3}, 0, {3}),
        ([Work("publish")], {1, 3}, 3, {3}),
        ([Work("publish")], {1, 3}, 2, set()),
        ([Work("evaluate", 5)], {1}, 1, {1}),
        ([Work("evaluate", 5)], set(), 1, set()),
    ],
)
def test_what_is_missing_has_the_weights_that_it_needs_trained_again(missing, silent, best, again):
    assert trained_again({1, 3}, set(missing), silent, best) == again


def test_a_training_needs_the_one_before():
    assert trained_again({1, 2, 3}, {Work("generate", 4)}, set(), 0) == {1, 2, 3}


class Played:
    """A run of two iterations whose stages are done as the pipeline does them."""

    def __init__(self, folder, model):
        values = {
            **{"iterations": 2, "prepare.prompts_per_iteration": 3, "publish.keep": "best", "evaluate.samples": 1},
            **{"evaluate.instructions.count": 0, "evaluate.instructions.final": 0},
            **{"evaluate.gate.keep_previous_below": 0.0, "evaluate.gate.max_length_growth": 0.0},
        }
        self.folder, self.values = folder, few_tokens(folder, model, **values)

    def play(self, **changes):
        """Play it, with other values, and give its lineage and what its plan was."""
        from sppo.evaluation.evaluate import evaluate
        from sppo.judging.rank import rank
        from sppo.preparing.recorded import recorded_config
        from sppo.sampling.generate import generate
        from sppo.store import tables
        from sppo.training.train import train

        config = resolve({**self.values, **changes})
        prompts = prepare(config)
        config = recorded_config(config.output_uri)
        lineage = lineage_of(config)
        planned = plan(config, lineage.store)
        for t in planned.again:
            forget(lineage, t)
        uri = config.base_model
        for t in range(1, config.iterations + 1):
            rows = generate(config, t, 0, 1, uri, prompts / keys.prompts_file(t))
            tables.write(self.folder / "responses.parquet", tables.RESPONSES, rows)
            ranked = rank(config, t, 0, 1, self.folder / "responses.parquet")
            figures = {"generate/truncated_fraction": 0.0}
            model, _ = train(config, t, uri, [ranked / keys.PAIRS_FILE], figures, [0.0] * 20)
            found = evaluate(config, t, model, uri, prompts / keys.HELD_OUT_FILE)
            uri = model
            if found.decision != "continue":
                break
        publish(config)
        return lineage, planned


@pytest.fixture
def played(tmp_path, tiny_llama):
    return Played(tmp_path, tiny_llama)


def test_a_finished_run_is_found_done_and_dropped_weights_come_back_where_they_are_needed(played, capsys):
    lineage, _ = played.play()
    store, config = lineage.store, lineage.config
    best = collect(config, store).best.iteration
    other = 3 - best
    assert [bool(store.manifest(lineage.model_key(t)).dropped) for t in (other, best)] == [True, False]
    weights = load_file(store.root / lineage.model_key(best) / "model.safetensors")
    capsys.readouterr()
    _, planned = played.play()
    assert planned.missing == frozenset() and planned.again == frozenset() and planned.dropped == {other}
    out = capsys.readouterr().out
    assert out.count("is there already") == 13, "prepare, publish, report, and 2 iterations of 5 pieces"
    assert "dropped" not in out

    before = {t: store.manifest(lineage.model_key(t)).digest() for t in (1, 2)}
    for t in (1, 2):
        store.drop(lineage.model_key(t), SUFFIX, WHY)
    # More samples need every model again, and the first one's training is what the second's begins with.
    again, planned = played.play(**{"evaluate.samples": 2, "evaluate.temperature": 1.0, "publish.keep": "all"})
    assert planned.again == {1, 2} and {Work("train", 1), Work("train", 2)} <= planned.missing
    assert again.model_key(1) == lineage.model_key(1)
    assert {t: store.manifest(again.model_key(t)).digest() for t in (1, 2)} == before
    assert not any(store.manifest(again.model_key(t)).dropped for t in (1, 2))
    restored = load_file(store.root / lineage.model_key(best) / "model.safetensors")
    assert all(weights[name].equal(restored[name]) for name in weights)


def test_prepare_has_weights_trained_again_that_its_own_change_asks_for(played, tmp_path):
    lineage, _ = played.play()
    store = lineage.store
    for t in (1, 2):
        store.drop(lineage.model_key(t), SUFFIX, WHY)
    # The prompts of both iterations stay; both models are to answer one prompt more.
    asked = tmp_path / "instructions.jsonl"
    asked.write_text('{"prompt": "Say hello.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n')
    changes = {"evaluate.instructions.prompts": str(asked), "evaluate.instructions.count": 1}
    changes["evaluate.instructions.max_tokens"] = 8
    values = {**played.values, **changes}
    stages.prepare(Form({}, values), {}, 1, Limits(2), str(tmp_path / "config.json"), str(tmp_path / "prompts"))
    assert [store.manifest(lineage.model_key(t)) for t in (1, 2)] == [None, None]
    again, _ = played.play(**changes)
    assert [again.model_key(t) for t in (1, 2)] == [lineage.model_key(t) for t in (1, 2)]


def test_fewer_prompts_with_instructions_than_are_asked_for(played, tmp_path):
    """What two prompts of nine gave is known to be there: nothing is trained again for it, and nothing is cleaned."""
    asked = tmp_path / "instructions.jsonl"
    row = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    asked.write_text("".join(json.dumps({"prompt": f"Say {word}.", **row}) + "\n" for word in ("hello", "goodbye")))
    changes = {"evaluate.instructions.prompts": str(asked), "evaluate.instructions.count": 9}
    changes["evaluate.instructions.max_tokens"] = 8
    lineage, _ = played.play(**changes)
    assert not [folder for folder in unused(lineage.config, lineage.store) if folder.startswith("instruction-")]
    _, planned = played.play(**changes, **{"evaluate.bootstrap": 200})
    assert Work("evaluate", 1) in planned.missing and planned.dropped and not planned.again


def test_another_model_is_not_put_in_the_place_of_the_one_that_was_dropped(played):
    lineage, _ = played.play(iterations=1)
    key, store = lineage.model_key(1), lineage.store
    store.drop(key, SUFFIX, WHY)
    marked = store.manifest(key)
    changed = tuple(
        file.model_copy(update={"sha256": "0" * 64}) if file.path.endswith(SUFFIX) else file for file in marked.files
    )
    forget(lineage, 1)
    assert store.manifest(key) is None
    noted = keys.model_before(1, lineage.train(1))
    store.write(noted, marked.model_copy(update={"files": changed}).model_dump_json().encode())
    with pytest.raises(RunFailedError, match="trained again they are others"):
        played.play(iterations=1)
    assert store.manifest(key).dropped == WHY, "it is as it was before"
    assert collect(lineage.config, store).iterations[0].training_log, "and so the report still has its curves"
