import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from sppo.algorithm.probability import intransitive_triads
from sppo.config.run import resolve
from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError, RunFailedError
from sppo.judging import diagnostics
from sppo.judging.load import check_judges, load_judge
from sppo.judging.rank import distribution, estimate, figures, group_by_prompt, rank
from sppo.preparing.chat import encode_prompt, load_tokenizer
from sppo.store import tables
from sppo.store.opening import open_store
from tests.conftest import COUNTED, lineage_of

KINDS = ("preferences", "pairs")
HUMAN = Path(__file__).parents[2].parent / "shared" / "data" / "prefs" / "finegrained_qa_k4_human.jsonl.gz"


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
    preferences, pairs = estimate(resolve({}), 1, [responses("p", ["good answer", "bad"])], [logits])
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
        estimate(resolve({}), 1, groups, logits)


def test_figures_are_fractions_over_all_shards_together():
    one = dict.fromkeys(COUNTED, 0.0) | {
        "entries": 20.0,
        "triads": 10.0,
        "different": 10.0,
        "orders_agree": 4.0,
        "bias": 5.0,
        "decided": 8.0,
        "longer": 6.0,
        "judge/asked": 20.0,
        "responses": 5.0,
        "prompts": 1.0,
        "pairs": 1.0,
        "p_chosen": 0.7,
        "p_rejected": 0.4,
        "chosen_tokens": 30.0,
        "rejected_tokens": 20.0,
        "seconds": 2.0,
        "p_bin_03": 1.5,
    }
    changes = {
        "squared_margin": 20 * 0.25,
        "cycles": 5.0,
        "duplicates": 3.0,
        "judge/cached": 7.0,
        "judge/requests": 9.0,
    }
    nothing = dict.fromkeys(["pairs", "p_chosen", "p_rejected", "chosen_tokens", "rejected_tokens", "longer"], 0.0)
    two = [one, {**one, **changes, **nothing}]
    assert figures(two) == pytest.approx(
        {
            "rank/seconds": 4.0,
            "rank/comparisons_per_second": 10.0,
            "rank/saturation": math.sqrt(0.5),
            "rank/duplicate_fraction": 0.3,
            "rank/intransitive_fraction": 0.25,
            "rank/order_agreement": 0.4,
            "rank/position_bias": 0.5,
            "rank/longer_preferred": 6 / 16,
            "judge/asked": 40.0,
            "judge/cached": 7.0,
            "judge/requests": 9.0,
            "pairs/kept_fraction": 0.5,
            "pairs/mean_p_chosen": 0.7,
            "pairs/mean_p_rejected": 0.4,
            "pairs/chosen_length": 30.0,
            "pairs/rejected_length": 20.0,
            "pairs/length_gap": 10.0,
        }
    )
    assert distribution(two) == [0.0] * 3 + [3.0] + [0.0] * 16


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
    manifest = open_store(config.output_uri).manifest(lineage_of(config).preferences_key(1, 0, 1))
    assert set(COUNTED) <= set(manifest.figures), "what other tests take for a shard's sums"
    assert (manifest.figures["judge/asked"], manifest.figures["judge/cached"]) == (2, 0)
    again = config.model_copy(update={"output_uri": str(tmp_path / "again")})
    rank(again, 1, 0, 1, path)
    cached = open_store(again.output_uri).manifest(lineage_of(again).preferences_key(1, 0, 1)).figures
    assert (cached["judge/asked"], cached["judge/cached"]) == (0, 2)
    assert figures([cached])["rank/comparisons_per_second"] == 0
    assert {pair["chosen"], pair["rejected"]} == {rows[0]["text"], "No."}


def chunked(tmp_path, **changes):
    """Four prompts in chunks of two, whose longer responses the embedded judge may like better or worse."""
    words = ["Stir the dough.", "No.", "Knead the dough well for ten minutes, then let it rest.", "Maybe, maybe not."]
    rows = [row for i in range(4) for row in responses(f"p{i}", [f"{word} ({i})" for word in words[i:] + words[:i]])]
    values = {"output_uri": str(tmp_path), "generate.chunk_size": 2, **changes}
    return resolve({"judge.dtype": "float32", **values}), rows


@pytest.mark.parametrize("selection", ["best-worst-random", "all"])
def test_the_number_of_shards_changes_neither_corrections_nor_selections(tmp_path, selection):
    changes = {"rank.selection": selection, "rank.length_corrected": True, "rank.soft_duplicates": True}
    found = []
    for parts in ([slice(0, 16)], [slice(0, 8), slice(8, 16)]):
        config, rows = chunked(tmp_path / str(len(parts)), **changes)
        read = []
        for shard, part in enumerate(parts):
            path = tmp_path / "responses.parquet"
            tables.write(path, tables.RESPONSES, rows[part])
            folder = rank(config, 1, shard, len(parts), path)
            read.append([tables.read(folder / f"{name}.parquet", getattr(tables, name.upper())) for name in KINDS])
        found.append([[row for shard in read for row in shard[kind]] for kind in range(2)])
    assert found[0] == found[1]
    assert all(len(pair["other_ids"]) == {"all": 2, "best-worst-random": 1}[selection] for pair in found[0][1])


def test_a_random_third_response_changes_with_the_iteration(tmp_path):
    config, rows = chunked(tmp_path, **{"rank.selection": "best-worst-random"})
    groups = group_by_prompt(rows)
    logits = [np.subtract.outer(np.arange(4.0), np.arange(4.0))] * 4
    drawn = {tuple(pair["other_indices"][0] for pair in estimate(config, t, groups, logits)[1]) for t in range(1, 12)}
    assert len(drawn) > 3
    assert {index for each in drawn for index in each} == {1, 2}


def test_the_length_correction_leaves_raw_logits_in_the_table(tmp_path):
    """A judge of length alone: nothing is left of its preference, and no pair."""
    config, rows = chunked(tmp_path, **{"rank.length_corrected": True})
    groups = group_by_prompt(rows)
    lengths = [np.array([len(row["token_ids"]) for row in group]) for group in groups]
    logits = [np.subtract.outer(each, each) * 0.25 for each in lengths]
    preferences, _ = estimate(config, 1, groups, logits)
    for row, raw in zip(preferences, logits, strict=True):
        assert row["logits"] == raw.ravel().tolist()
        assert row["probabilities"] == pytest.approx([0.5] * 16)


def test_what_a_judge_keeps_is_committed_with_the_shard(tmp_path, monkeypatch):
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))  # a judge that is not asked has nothing to keep
    config, rows = chunked(tmp_path, preference_model="package:sppo")
    path = tmp_path / "responses.parquet"
    tables.write(path, tables.RESPONSES, rows)
    model = type(load_judge("package:sppo", JudgeConfig(cache=False)).model)
    monkeypatch.setattr(model, "save", lambda self, folder: (folder / "transcript.txt").write_text("asked and told"))
    folder = rank(config, 1, 0, 1, path)
    assert (folder / "transcript.txt").read_text() == "asked and told"


def test_pairrm_can_be_shown_the_policys_template_as_the_released_code_shows_it(tmp_path, tiny_llama, monkeypatch):
    seen = {}
    for shown in ("plain", "templated"):
        config, rows = chunked(tmp_path / shown, **{"base_model": str(tiny_llama), "rank.prompt": shown})
        path = tmp_path / "responses.parquet"
        tables.write(path, tables.RESPONSES, rows[:4])
        judge = load_judge("package:sppo")
        ask = judge.logits
        monkeypatch.setattr(judge, "logits", lambda p, r, ask=ask, shown=shown: seen.setdefault(shown, p) and ask(p, r))
        monkeypatch.setattr("sppo.judging.rank.load_judge", lambda uri, settings, judge=judge: judge)
        rank(config, 1, 0, 1, path)
    assert seen["plain"] == ["Question p0?"]
    tokenizer = load_tokenizer(tiny_llama)
    (text,) = seen["templated"]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == encode_prompt(tokenizer, "Question p0?")
    with pytest.raises(ConfigError, match=r"rank\.prompt: templated is for PairRM, not for mixture"):
        check_judges(config)


@pytest.fixture(scope="module")
def human():
    """Prompts whose four responses people compared, as groups, and the matrices of who was preferred."""
    if not HUMAN.is_file():
        pytest.skip(f"{HUMAN} is not there: real preferences of people cannot be tried")
    with gzip.open(HUMAN, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [responses(row["id"], row["responses"]) for row in rows], [np.array(row["pref_matrix"]) for row in rows]


@pytest.mark.parametrize("changes", [{}, {"rank.selection": "all"}, {"rank.selection": "length-matched"}])
def test_preferences_of_people_are_kept(human, changes):
    groups, preferred = human
    preferences, pairs = estimate(resolve(changes), 1, groups, [6 * matrix - 3 for matrix in preferred])
    chosen = {pair["prompt_id"]: pair for pair in pairs}
    for group, row, matrix in zip(groups, preferences, preferred, strict=True):
        p = np.array(row["probabilities"]).reshape(4, 4)
        assert intransitive_triads(p)[0] == 0
        same = np.array([[a["text"] == b["text"] for b in group] for a in group])
        assert (np.sign(p - 0.5) == np.where(same, 0, np.sign(matrix - 0.5))).all(), "a tie is 1/2, and nothing else is"
        pair = chosen.get(row["prompt_id"])
        if pair is None:
            continue
        win = row["win_probabilities"]
        assert win[pair["chosen_index"]] > win[pair["rejected_index"]]
        if "length-matched" not in changes.values():
            assert win[pair["chosen_index"]] == max(win) and win[pair["rejected_index"]] == min(win)
        if "all" in changes.values():
            assert len(pair["p_others"]) == len({response["text"] for response in group}) - 2
    assert 0.5 * len(groups) < len(pairs) < len(groups)


def test_people_do_not_prefer_the_longer_response(human):
    """51 % in this data: the figure is near one half, and the sums of all prompts make it."""
    groups, preferred = human
    total = diagnostics.add(
        diagnostics.count(6 * m - 3, m, [r["text"] for r in g], [len(r["text"]) for r in g])
        for g, m in zip(groups, preferred, strict=True)
    )
    assert diagnostics.figures(total)["rank/longer_preferred"] == pytest.approx(0.51, abs=0.01)
    assert sum(diagnostics.distribution(total)) == total["different"]
