"""benchmarks/results.py: what README says of the default run is what docs/results.md has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = (
    "gate passed (1) or not (0)",
    "gain, lower end of its 95 % interval",
    "gain on them, lower end of its 95 % interval",
)


@pytest.fixture(scope="module")
def results(benchmark_script):
    return benchmark_script("results")


def test_a_gain_that_may_be_none_does_not_count(results):
    said = results.counts([1.0, 0.0, 1.0], [0.08, -0.01, 0.0], [0.1, 0.001, 0.2])
    assert said.startswith("2 of 3 seeds pass the gate.")
    assert said.endswith("of trained kinds by 1 of 3 seeds, of other kinds by 3 of 3.")


def test_readme_counts_the_seeds_of_the_page(results):
    page, readme = ((ROOT / name).read_text() for name in ("docs/results.md", "README.md"))
    seeds = len(re.findall(r"seed \d", page.partition("|---|")[0].rpartition("\n\n")[2]))
    values = []
    for label in ROWS:
        row = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", page, re.MULTILINE)
        values.append([float(each) for each in row[1].split("|")[:seeds]])
    shown = readme.partition(results.BEGIN)[2].partition(results.END)[0]
    assert seeds > 0 and shown.strip().startswith(results.counts(*values) + "\n\n|")
