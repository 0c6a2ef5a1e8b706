"""The preset `paper` played end to end: a small model, PairRM's layout, everything else as it is, smaller."""

import json
from pathlib import Path

import numpy as np
import pytest

from sppo.algorithm.probability import mean_logits
from sppo.store import keys, tables
from tests.conftest import lineage_of
from tests.integration.conftest import REPORTS, Command, shared
from tests.unit.pairrm_checkpoints import write_checkpoint

SETS, EACH, HELD_OUT = 3, 4, 2
LONG = "Summarise this: " + "the tide came in and the tide went out, and the gulls stayed. " * 8
DIVIDED = [
    f"prepare.held_out={HELD_OUT}",
    "generate.max_tokens=24",
    "train.max_tokens=72",
    "train.global_batch=2",
    "evaluate.max_tokens=12",
    "evaluate.bootstrap=100",
    # Not sizes: less on the disk, the arithmetic that this processor is good at, an engine that starts in seconds, no
    # further prompts, and no gate that a random judge could close.
    "publish.keep=best",
    "generate.dtype=auto",
    "judge.dtype=auto",
    "train.dtype=auto",
    "generate.engine=transformers",
    "evaluate.instructions.count=0",
    "evaluate.instructions.final=0",
    "evaluate.gate.keep_previous_below=0",
    "evaluate.gate.max_length_growth=0",
    "evaluate.gate.required_vs_base=0",
]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, worker_id: str, small_model: Path) -> Path:
    """The folder of a run of three iterations, with its sets of prompts and its judge beside it."""
    with shared(tmp_path_factory, worker_id, "paper") as folder:
        run = folder / "run"
        if not any(run.glob(REPORTS)):
            judge = write_checkpoint(folder / "PairRM", "llm-blender")
            sets = [folder / f"set-{number}.jsonl" for number in range(1, SETS + 1)]
            for number, path in enumerate(sets, start=1):
                texts = [f"Set {number}: what is {i} plus {i}?" for i in range(1, EACH + HELD_OUT * (number == 1))]
                rows = [{"prompt": f"{LONG}{number}", "part": "train"}, *({"prompt": text} for text in texts)]
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            places = json.dumps([str(path) for path in sets])
            Command(
                "run", "--preset", "paper", f"output_uri={run}", f"base_model={small_model}", f"prompts={places}",
                f"preference_model={judge}", *DIVIDED,
            ).succeed()  # fmt: skip
    return run


def test_the_preset_is_played_whole(played: Path) -> None:
    lineage = lineage_of(played)
    prepared = played / lineage.prepared_key
    held_out = [row["prompt"] for row in tables.read(prepared / keys.HELD_OUT_FILE, tables.PROMPTS)]
    assert len(held_out) == HELD_OUT and all("Set 1" in text for text in held_out)
    assert lineage.evaluated() == [1, 2, 3] and lineage.config.preset == "paper"
    for t in range(1, SETS + 1):
        prompts = [row["prompt"] for row in tables.read(prepared / keys.prompts_file(t), tables.PROMPTS)]
        assert len(prompts) == EACH and all(f"Set {t}" in text or text == LONG + str(t) for text in prompts)
        check_iteration(played, t)
    assert (played / lineage.published_key / "model.safetensors").is_file()


def check_iteration(played: Path, t: int) -> None:
    """Pairs by mean logit with P as their targets, some cut, and a learning rate that never leaves its warm-up."""
    lineage = lineage_of(played)
    ranked = played / lineage.preferences_key(t, 0, 1)
    rows = {row["prompt_id"]: row for row in tables.read(ranked / keys.PREFERENCES_FILE, tables.PREFERENCES)}
    pairs = tables.read(ranked / keys.PAIRS_FILE, tables.PAIRS)
    assert pairs and all(row["responses"] == 5 for row in rows.values())
    for pair in pairs:
        row = rows[pair["prompt_id"]]
        scores = mean_logits(np.array(row["logits"]).reshape(5, 5))
        assert scores[pair["chosen_index"]] == scores.max() and scores[pair["rejected_index"]] == scores.min()
        assert pair["p_chosen"] == row["win_probabilities"][pair["chosen_index"]]
    model = lineage.model_key(t)
    figures = lineage.store.manifest(model).figures
    assert 0 < figures["train/cut_fraction"] <= 1
    assert figures["train/reference_audit_mean_abs"] < lineage.config.train.audit_tolerance
    log = [json.loads(line) for line in (played / model / keys.TRAINING_LOG_FILE).read_text().splitlines()]
    rates = [row["learning_rate"] for row in log]
    assert len(log) == -(-len(pairs) // 2) and rates == sorted(rates) and rates[-1] < lineage.config.train.learning_rate
