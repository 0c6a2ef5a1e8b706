"""`sppo judge` with the embedded judge, as a person types it."""

import gzip
import json

import numpy as np
import pytest

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.load import load_judge
from sppo.store import tables

ROWS = [
    {
        "prompt": "How do I bake bread?",
        "responses": ["Mix flour, water, yeast and salt; let it rise; bake.", "No.", "No."],
    },
    {"prompt": "Name a [red] colour.", "responses": ["Red, [/b] of course.", "I would rather not.\n\n" + "x" * 60]},
]
PAIRS = [{"prompt": row["prompt"], "chosen": row["responses"][0], "rejected": row["responses"][1]} for row in ROWS]


def lines(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def figures(out: str) -> dict[str, float]:
    found = [line.split() for line in out.splitlines()]
    return {words[0]: float(words[1]) for words in found if len(words) == 2 and ("/" in words[0] or "_" in words[0])}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_is_judged(run_sppo, tmp_path, suffix):
    output = tmp_path / f"judged{suffix}"
    source = lines(tmp_path / "answers.jsonl", [{**row, "id": "is left out"} for row in ROWS])
    result = run_sppo("judge", source, "judge.dtype=float32", "--output", str(output))
    assert result.code == 0, result.err
    if suffix == ".jsonl":
        judged = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        judged = tables.read(output, tables.JUDGEMENTS)
    judge = load_judge("package:sppo", JudgeConfig(dtype="float32", cache=False))
    expected = judge.logits([row["prompt"] for row in ROWS], [row["responses"] for row in ROWS])
    for row, source_row, logits in zip(judged, ROWS, expected, strict=True):
        assert row.keys() == {"prompt", "responses", "logits", "probabilities", "win_probabilities", "best"}
        assert (row["prompt"], row["responses"]) == (source_row["prompt"], source_row["responses"])
        np.testing.assert_allclose(row["logits"], logits, atol=1e-4)
        p = 1 / (1 + np.exp((logits.T - logits) / 2))
        np.testing.assert_allclose(row["probabilities"], p, atol=1e-4)
        np.testing.assert_allclose(row["win_probabilities"], p.mean(axis=1), atol=1e-4)
        assert row["best"] == p.mean(axis=1).argmax()
    assert judged[0]["probabilities"][1][2] == 0.5
    assert "How do I bake bread?" in result.out and "Name a [red] colour." in result.out and "…" in result.out
    shown = figures(result.out)
    assert shown["rank/duplicate_fraction"] == pytest.approx(1 / 5)
    assert 0 < shown["rank/saturation"] < 1 and shown["rank/order_agreement"] in {0, 1 / 3, 0.333333, 0.666667, 1}
    assert shown["judge/asked"] + shown["judge/cached"] == 4
    assert f"wrote {output}" in result.out


def test_only_the_first_rows_are_shown(run_sppo, tmp_path):
    result = run_sppo("judge", lines(tmp_path / "answers.jsonl", ROWS * 7))
    assert result.code == 0, result.err
    assert "the first 10 of 14" in result.out and result.out.count("How do I bake bread?") == 5


def test_the_estimator_can_be_chosen(run_sppo, tmp_path):
    source, found = lines(tmp_path / "answers.jsonl", ROWS), []
    for estimator in ("paper", "official"):
        output = tmp_path / f"{estimator}.jsonl"
        run_sppo("judge", source, f"rank.estimator={estimator}", "--output", str(output))
        found.append(json.loads(output.read_text().splitlines()[0])["win_probabilities"])
    assert found[0] != found[1]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_judge_is_measured_on_pairs(run_sppo, tmp_path, suffix):
    path = lines(tmp_path / f"pairs{suffix}", PAIRS)
    result = run_sppo("judge", "--benchmark", path, "judge.dtype=float32")
    assert result.code == 0, result.err
    shown = dict(line.split() for line in result.out.splitlines() if len(line.split()) == 2)
    judge = load_judge("package:sppo", JudgeConfig(dtype="float32", cache=False))
    asked = [judge.logits([pair["prompt"]], [[pair["chosen"], pair["rejected"]]])[0] for pair in PAIRS]
    margin = np.array([(logits[0, 1] - logits[1, 0]) / 2 for logits in asked])
    assert float(shown["pairs"]) == 2 and float(shown["longer_wins"]) == 0.5
    assert float(shown["accuracy"]) == (margin > 0).mean()
    assert float(shown["nll"]) == pytest.approx(np.log1p(np.exp(-margin)).mean(), abs=1e-3)
    assert {"standard_error", "order_disagreement", "judge/asked"} <= shown.keys()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no prompts with responses"),
        ([ROWS[0], "{not json"], "answers.jsonl: line 2: not JSON in UTF-8 (Expecting property name"),
        ([ROWS[0], '["a", "b"]'], "answers.jsonl: line 2: not a JSON object"),
        ([{"responses": ["a", "b"]}], "line 1: column 'prompt' is missing or not a string of Unicode characters"),
        ([{"prompt": "?", "responses": "ab"}], "line 1: column 'responses' is missing or not a list of at least two"),
        ([{"prompt": "?", "responses": ["a"]}], "line 1: column 'responses' is missing or not a list of at least two"),
        ([{"prompt": "?", "responses": ["a", 2]}], "line 1: column 'responses': number 1 is not a string"),
        (['{"prompt": "?", "responses": ["\\ud800", "a"]}'], "line 1: column 'responses': number 0 is not a string"),
    ],
)
def test_a_wrong_row_is_named(run_sppo, tmp_path, rows, message):
    result = run_sppo("judge", lines(tmp_path / "answers.jsonl", rows))
    assert result.code == 2 and result.err.startswith("error: ") and result.err.count("\n") == 1
    assert message in result.err and "answers.jsonl" in result.err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([PAIRS[0], {"prompt": "?", "chosen": "a"}], "pairs.jsonl: line 2: column 'rejected' is missing"),
        (
            ['{"prompt": "\\udfff", "chosen": "a", "rejected": "b"}'],
            "pairs.jsonl: line 1: column 'prompt' is missing",
        ),
    ],
)
def test_a_wrong_pair_is_named(run_sppo, tmp_path, rows, message):
    result = run_sppo("judge", "--benchmark", lines(tmp_path / "pairs.jsonl", rows))
    assert result.code == 2 and message in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/none.jsonl"], "/none.jsonl: no such file of prompts with responses"),
        (["FILE", "--output", "judged.csv"], "judged.csv: judgements are written as .jsonl or .parquet"),
        (["FILE", "--output", "/none/judged.jsonl"], "/none/judged.jsonl: there is no folder /none"),
        (["FILE", "--judge", "/none"], "/none: no such model folder"),
        (["FILE", "train.eta=1"], "train.eta: changes nothing here; the settings are judge.*, rank.estimator"),
        (["FILE", "rank.length_corrected=true"], "rank.length_corrected: changes nothing here"),
        (["FILE", "judge.dtyp=float32"], "judge.dtyp: unknown key; did you mean judge.dtype?"),
        (["--benchmark", "FILE", "rank.temperature=2"], "rank.temperature: changes nothing here"),
        (["--benchmark", "FILE", "--output", "x.jsonl"], "give one of the two"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_judged(run_sppo, tmp_path, arguments, message):
    path = lines(tmp_path / "answers.jsonl", ROWS)
    result = run_sppo("judge", *(path if word == "FILE" else word for word in arguments))
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert message in result.err
    assert "judging" not in result.out
