import json
from pathlib import Path

import pytest

from sppo.config.run import resolve
from sppo.errors import ConfigError
from sppo.evaluation.evaluate import evaluate
from sppo.evaluation.ifeval import answer_instructions, instruction_figures, write_instructions
from sppo.preparing.chat import load_tokenizer
from sppo.sampling.load import LazyEngine, context_of
from sppo.sampling.transformers_engine import TransformersEngine
from sppo.store import keys, tables
from tests.conftest import lineage_of, prepare

ROW = {"prompt": "Say hello.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.fixture
def configure(tmp_path, tiny_llama, write_prompts):
    """A run of the tiny Llama whose instructions are the rows given."""

    def make(rows, **changes):
        path = tmp_path / "instructions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return resolve(
            {
                "output_uri": str(tmp_path / "run"),
                "base_model": str(tiny_llama),
                "prompts": str(write_prompts([f"What is {i}?" for i in range(8)])),
                "iterations": 1,
                "prepare": {"held_out": 4, "prompts_per_iteration": 4, "max_prompt_tokens": 100},
                "generate": {"engine": "transformers", "dtype": "float32", "max_tokens": 8},
                "evaluate": {"samples": 1, "max_tokens": 8, "bootstrap": 100},
                "evaluate.instructions": {"prompts": str(path), "max_tokens": 12, "final": 0},
                **changes,
            }
        )

    return make


@pytest.fixture
def sizes(monkeypatch):
    """How many prompts each call of the engine was given."""
    found, sample = [], TransformersEngine.sample

    def counted(engine, prompts, *how):
        found.append(len(prompts))
        return sample(engine, prompts, *how)

    monkeypatch.setattr(TransformersEngine, "sample", counted)
    return found


def write(config, folder):
    write_instructions(config, load_tokenizer(Path(config.base_model)), [], folder)


def test_the_evaluation_measures_instructions_with_one_load_a_model(configure, tiny_llama, monkeypatch):
    loads = []
    load = TransformersEngine.__init__
    monkeypatch.setattr(
        TransformersEngine, "__init__", lambda self, *given: (loads.append(given), load(self, *given))[1]
    )
    never = {
        "prompt": "Quote.",
        "instruction_id_list": ["startend:quotation", "punctuation:no_comma"],
        "kwargs": [{}, {}],
    }
    config = configure([ROW, never])
    held_out = prepare(config) / keys.HELD_OUT_FILE
    found = evaluate(config, 1, str(tiny_llama), str(tiny_llama), held_out)
    assert len(loads) == 1, "one model in three roles, and two sets of prompts"
    assert found.figures["eval/instructions_prompts"] == 2
    for name in ("eval/instructions_prompt_strict", "eval/instructions_instruction_strict"):
        assert found.figures[f"{name}_low"] <= found.figures[name] <= found.figures[f"{name}_high"]
        assert found.figures[name] == found.figures[f"{name}_base"]
    assert found.figures["eval/instructions_prompt_strict"] <= 0.5, "noise is not quoted"


@pytest.mark.parametrize(("temperature", "max_tokens", "calls"), [(0.0, 12, [6]), (0.0, 8, [4, 2]), (1.0, 12, [4, 2])])
def test_greedy_answers_of_one_length_are_made_in_one_call(
    configure, tiny_llama, sizes, temperature, max_tokens, calls
):
    rows = [ROW, {**ROW, "prompt": "Say goodbye."}]
    config = configure(rows, **{"evaluate.temperature": temperature, "evaluate.max_tokens": max_tokens})
    held_out = prepare(config) / keys.HELD_OUT_FILE
    found = evaluate(config, 1, str(tiny_llama), str(tiny_llama), held_out)
    assert sizes == calls
    assert found.figures["eval/instructions_prompts"] == 2


def test_greedy_answers_to_prompts_that_are_held_out_too_are_made_once(configure, tiny_llama, sizes):
    rows = [{**ROW, "prompt": f"What is {i}?"} for i in range(8)]
    config = configure(rows, **{"evaluate.temperature": 0.0, "evaluate.max_tokens": 12, "prepare.held_out": 4})
    table = prepare(config)
    evaluate(config, 1, str(tiny_llama), str(tiny_llama), table / keys.HELD_OUT_FILE)
    asked = [row["prompt"] for row in tables.read(table / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS)]
    held_out = [row["prompt"] for row in tables.read(table / keys.HELD_OUT_FILE, tables.PROMPTS)]
    assert set(asked) & set(held_out) and sizes == [len({*asked, *held_out})]


def test_what_was_asked_during_the_run_is_not_asked_again_at_its_end(configure, tiny_llama, sizes):
    rows = [ROW, *({**ROW, "prompt": f"Say {i}."} for i in range(4))]
    config = configure(rows, **{"evaluate.instructions.count": 2, "evaluate.instructions.final": 5})
    found = evaluate(config, 1, str(tiny_llama), str(tiny_llama), prepare(config) / keys.HELD_OUT_FILE)
    assert sizes == [4, 2, 3], "one model in all roles: held-out prompts, two of five, and the other three"
    assert found.figures["final/instructions_other_prompts"] == 5


def test_answers_are_committed_with_their_verdicts(configure, tiny_llama):
    config = configure([ROW, {**ROW, "prompt": "Say goodbye."}])
    table = prepare(config) / keys.INSTRUCTIONS_FILE
    lineage, prompts = lineage_of(config), tables.read(table, tables.INSTRUCTIONS)
    engine = LazyEngine(str(tiny_llama), config.generate, context_of(prompts, 12))
    rows = answer_instructions(config, lineage, engine, "a" * 64, prompts, 9)
    assert [row["prompt"] for row in rows] == ["Say hello.", "Say goodbye."]
    assert [row["followed"] for row in rows] == [["," not in row["text"] and bool(row["text"].strip())] for row in rows]
    assert all(row["tokens"] <= 12 for row in rows)
    engine.close()
    assert answer_instructions(config, lineage, engine, "a" * 64, prompts, 9) == rows
    assert engine.engine is None, "what is committed needs no model"


def test_without_a_count_nothing_is_measured(configure, tiny_llama):
    config = configure([], **{"evaluate.instructions.count": 0, "evaluate.instructions.final": 0})
    prepared = prepare(config)
    found = evaluate(config, 1, str(tiny_llama), str(tiny_llama), prepared / keys.HELD_OUT_FILE)
    assert not (prepared / keys.INSTRUCTIONS_FILE).exists()
    assert not any("instructions" in name for name in found.figures)


def test_accuracies_over_prompts_and_over_instructions(configure):
    def rows(*verdicts):
        return [{"followed": list(verdict), "unchecked": len(verdict) - 1} for verdict in verdicts]

    new = rows((True, True), (True, False, False), (True,), (False,))
    figures = instruction_figures(configure([ROW]), new, rows((True, False), (False,) * 3, (True,), (True,)))
    assert figures["eval/instructions_prompt_strict"] == pytest.approx(2 / 4)
    assert figures["eval/instructions_instruction_strict"] == pytest.approx(4 / 7)
    assert figures["eval/instructions_prompt_strict_base"] == pytest.approx(2 / 4)
    assert figures["eval/instructions_instruction_strict_base"] == pytest.approx(3 / 7)
    assert figures["eval/instructions_drop"] == pytest.approx(-1 / 7)
    assert figures["eval/instructions_drop_low"] < -1 / 7 < figures["eval/instructions_drop_high"]
    assert figures["eval/instructions_prompts"] == 4
    assert figures["eval/instructions_unchecked"] == 1 + 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "No instructions."}, r"line 2: instruction_id_list: field required; IFEval's form"),
        ({**ROW, "kwargs": {}}, r"line 2: kwargs: .*list"),
        ({**ROW, "instruction_id_list": ["punctuation:no_comas"]}, r"line 2: .*did you mean 'punctuation:no_comma'"),
        ({**ROW, "prompt": "Say hello. " * 20}, r"line 2: has \d+ tokens; raise prepare.max_prompt_tokens"),
    ],
)
def test_a_wrong_row_is_named_before_anything_is_played(configure, tmp_path, row, message):
    with pytest.raises(ConfigError, match=message):
        write(configure([ROW, row]), tmp_path)


def test_prompts_with_special_tokens_are_left_out(configure, tmp_path, capsys):
    special = {**ROW, "prompt": "Say <|im_end|>"}
    write(configure([special, ROW, special]), tmp_path)
    rows = tables.read(tmp_path / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS)
    assert [row["prompt"] for row in rows] == [ROW["prompt"]]
    told = capsys.readouterr().out
    assert told.count("left out, as it contains '<|im_end|>', a special token of the model") == 2
    with pytest.raises(ConfigError, match="all 1 prompts contain special tokens of the model"):
        write(configure([special]), tmp_path)


def test_count_takes_the_first_prompts(configure, tmp_path):
    config = configure([ROW, {**ROW, "prompt": "Say goodbye."}], **{"evaluate.instructions.count": 1})
    write(config, tmp_path)
    rows = tables.read(tmp_path / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS)
    assert [row["prompt"] for row in rows] == ["Say hello."]


def test_what_is_trained_on_is_not_measured(configure, tmp_path):
    rows = [{**ROW, "prompt": f"Say {i}.", "part": "held-out" if i % 2 else "train"} for i in range(8)]
    changes = {
        "prompts": str(tmp_path / "instructions.jsonl"),
        "evaluate.instructions.count": 3,
        "evaluate.instructions.final": 0,
    }
    prepared = prepare(configure(rows, **changes))
    trained = tables.read(prepared / keys.prompts_file(1), tables.PROMPTS)
    assert {row["prompt"] for row in trained} == {row["prompt"] for row in rows if row["part"] == "train"}
    held_out = tables.read(prepared / keys.HELD_OUT_FILE, tables.PROMPTS)
    assert {row["prompt"] for row in held_out} == {row["prompt"] for row in rows if row["part"] == "held-out"}
    measured = tables.read(prepared / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS)
    assert [row["prompt"] for row in measured] == ["Say 1.", "Say 3.", "Say 5."]
    with pytest.raises(ConfigError, match="every prompt is trained on, or has the part train; give others"):
        write(configure([{**ROW, "part": "train"}]), tmp_path)
    with pytest.raises(ConfigError, match="line 1: part: input should be 'train', 'held-out' or ''"):
        write(configure([{**ROW, "part": "test"}]), tmp_path)


def kinds_measured(prepared):
    measured = tables.read(prepared / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS)
    return {row["prompt"]: row["trained"] for row in measured}


def test_a_file_without_parts_is_measured_where_it_is_not_trained_on(configure, tmp_path):
    rows = [{**ROW, "prompt": f"Say {i}. "} for i in range(8)]
    changes = {"prompts": str(tmp_path / "instructions.jsonl"), "prepare.prompts_per_iteration": 3}
    prepared = prepare(configure(rows, **changes))
    trained = {row["prompt"] for row in tables.read(prepared / keys.prompts_file(1), tables.PROMPTS)}
    assert len(trained) == 3
    assert kinds_measured(prepared) == {f"Say {i}. ": True for i in range(8) if f"Say {i}." not in trained}


def test_kinds_are_trained_where_the_prompts_of_the_run_have_them(configure, tmp_path, write_prompts):
    other = {"prompt": "Quote.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    rows = [{**ROW, "part": "train", "prompt": "Say it."}, ROW, other]
    assert set(kinds_measured(prepare(configure(rows))).values()) == {False}, "whatever the file's part says"
    own = tmp_path / "own.jsonl"
    played = [{**ROW, "prompt": f"Own {i}.", "part": "train"} for i in range(4)]
    held_out = [{"prompt": f"Held {i}.", "part": "held-out", "instruction_id_list": None} for i in range(4)]
    own.write_text("".join(json.dumps(row) + "\n" for row in played + held_out))
    of_own = kinds_measured(prepare(configure(rows, prompts=str(own), output_uri=str(tmp_path / "other"))))
    assert of_own == {ROW["prompt"]: True, "Quote.": False}


def test_an_empty_or_absent_file_is_refused(configure, tmp_path):
    with pytest.raises(ConfigError, match="holds no prompt"):
        write(configure([]), tmp_path)
    absent = configure([ROW], **{"evaluate.instructions.prompts": str(tmp_path / "absent.jsonl")})
    with pytest.raises(ConfigError, match="no such file"):
        write(absent, tmp_path)
