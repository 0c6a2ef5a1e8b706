import math

import numpy as np
import pytest

from sppo import tables
from sppo.config import resolve
from sppo.errors import RunFailedError
from sppo.rank import estimate, figures, group_by_prompt, rank


def responses(prompt_id: str, texts: list[str]) -> list[dict]:
    return [
        {
            "prompt_id": prompt_id,
            "prompt": f"Question {prompt_id}?",
            "prompt_ids": [1, 2],
            "response_index": index,
            "text": text,
            "token_ids": list(range(len(text.split()))),
            "logprobs": [-0.5] * len(text.split()),
            "finish_reason": "stop",
        }
        for index, text in enumerate(texts)
    ]


def test_responses_are_grouped_by_prompt_in_order():
    rows = [*responses("b", ["x", "y"]), *responses("a", ["z"])]
    assert [[row["text"] for row in group] for group in group_by_prompt(rows)] == [["x", "y"], ["z"]]


def test_raw_logits_probabilities_and_pairs_are_kept():
    logits = np.array([[0, 3.0], [1.0, 0]], np.float32)
    preferences, pairs = estimate(resolve({}), [responses("p", ["good answer", "bad"])], [logits])
    p = 1 / (1 + math.exp(-1))
    (row,) = preferences
    assert row["logits"] == [0, 3, 1, 0] and row["responses"] == 2
    assert row["probabilities"] == pytest.approx([0.5, p, 1 - p, 0.5])
    assert row["win_probabilities"] == pytest.approx([(0.5 + p) / 2, (1.5 - p) / 2])
    (pair,) = pairs
    assert (pair["chosen"], pair["rejected"]) == ("good answer", "bad")
    assert pair["p_chosen"] == pytest.approx((0.5 + p) / 2)


def test_a_logit_that_is_not_finite_names_its_prompt():
    logits = [np.zeros((2, 2)), np.array([[0, np.nan], [0, 0]])]
    groups = [responses("p", ["a", "b"]), responses("q", ["a", "b"])]
    with pytest.raises(RunFailedError, match=r"a logit is not finite for prompt q; try judge\.dtype=float32"):
        estimate(resolve({}), groups, logits)


def test_figures_are_fractions_over_all_shards_together():
    one = dict.fromkeys(["squared_margin", "cycles", "length_gap", "duplicates"], 0.0) | {
        "entries": 20.0,
        "triads": 10.0,
        "comparisons": 20.0,
        "responses": 5.0,
        "prompts": 1.0,
        "pairs": 1.0,
        "p_chosen": 0.7,
        "p_rejected": 0.4,
        "seconds": 2.0,
    }
    saturated = {**one, "squared_margin": 20 * 0.25, "cycles": 5.0, "duplicates": 3.0, "pairs": 0.0, "p_chosen": 0.0}
    found = figures([one, {**saturated, "p_rejected": 0.0}])
    expected = {
        "rank/comparisons_per_second": 10.0,
        "rank/saturation": math.sqrt(0.5),
        "rank/duplicate_fraction": 0.3,
        "rank/intransitive_fraction": 0.25,
        "pairs/kept_fraction": 0.5,
        "pairs/mean_p_chosen": 0.7,
        "pairs/mean_p_rejected": 0.4,
        "pairs/length_gap": 0.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_shard_is_ranked_by_the_embedded_judge(tmp_path):
    rows = [
        *responses("p", ["Bread needs flour, water, yeast and salt.", "No.", "No."]),
        *responses("q", ["Same words.", "Same words.", "Same words."]),
    ]
    path = tmp_path / "responses.parquet"
    tables.write(path, tables.RESPONSES, rows)
    config = resolve({"output_uri": str(tmp_path / "run"), "judge.dtype": "float32"})
    folder = rank(config, 1, 0, 1, path)
    first, second = tables.read(folder / "preferences.parquet", tables.PREFERENCES)
    assert first["responses"] == 3 and len(first["logits"]) == 9
    assert second["probabilities"] == [0.5] * 9
    (pair,) = tables.read(folder / "pairs.parquet", tables.PAIRS)
    assert pair["prompt_id"] == "p", "a prompt whose responses are all equal teaches nothing"
    assert {pair["chosen"], pair["rejected"]} == {rows[0]["text"], "No."}
