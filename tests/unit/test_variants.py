"""benchmarks/variants.py: each of its runs is one that `sppo run` takes, and what is kept of them is read again."""

import json

import pytest

from sppo.config.reading import read_overrides
from sppo.config.run import RunConfig, kinds, resolve

MEASURED = {
    "revision": "abc1234", "machine": "a processor", "date": "2026-01-01", "minutes": 1.5, "gib": 2.0, "gigabytes": 0.1
}  # fmt: skip


@pytest.fixture
def variants(benchmark_script, monkeypatch, tmp_path):
    """The script, which keeps its rows elsewhere."""
    script = benchmark_script("variants")
    monkeypatch.setattr(script, "KEPT", tmp_path)
    return script


def test_every_run_is_one_that_sppo_takes(variants):
    runs = {
        name: resolve(read_overrides(values, kinds(RunConfig))).digest() for name, values in variants.VARIANTS.items()
    }
    assert len(set(runs.values())) == len(runs) <= 40


def test_what_is_kept_is_shown_as_long_as_its_settings_are_meant(variants):
    name, other = "K = 8", "K = 3"
    figures = {"final/instructions_trained_gain": 0.1, "final/instructions_trained_gain_low": 0.05,
               "final/instructions_trained_gain_high": 0.15, "eval/mean_length": 120.4}  # fmt: skip
    kept = {"settings": variants.settings(variants.VARIANTS[name]), "measured": MEASURED, "figures": figures}
    variants.kept_as(name).write_text(json.dumps(kept))
    page = variants.page()
    assert "| K = 8 | +0.100 [+0.050, +0.150] | – | – | – | – | – | 120 | abc1234 |" in page
    assert "Not played yet: the default;" in page and "K = 8;" not in page
    kept["settings"]["train.eta"] = 500.0
    variants.kept_as(name).write_text(json.dumps(kept))
    assert variants.read(name) is None and variants.read(other) is None and "| K = 8 |" not in variants.page()
    assert str(variants.ROOT) not in json.dumps([variants.settings(each) for each in variants.VARIANTS.values()])
