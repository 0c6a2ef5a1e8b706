"""What the sections say of who reads their values, held against what the stages read when they are played."""

import importlib
from collections import defaultdict

import pytest
from markupsafe import Markup

from sppo.config.identity import readers
from sppo.config.run import PreparedConfig, RunConfig, resolve
from sppo.config.sections.section import Free, FreeIf, Section
from sppo.reporting import charts
from sppo.reporting.report import plots
from sppo.store import keys

from .by_hand import few_tokens

BEFORE = {
    "prepare": set(),
    "generate": {"prepare"},
    "rank": {"prepare", "generate"},
    "train": {"prepare", "generate", "rank"},
    "answers": {"prepare"},
    "instructions": {"prepare"},
    "evaluate": {"prepare", "generate", "rank", "train", "answers", "instructions"},
    "publish": {"prepare", "generate", "rank", "train", "answers", "instructions", "evaluate"},
    "report": {"prepare", "generate", "rank", "train", "answers", "instructions", "evaluate", "publish"},
}
"""Stages whose values are in a stage's digest too, by what it is made from."""
FOLDERS = {
    "answers": "answers", "instruction-answers": "instructions", "published": "publish", "report": "report",
    "prepared": "prepare", "responses": "generate", "preferences": "rank", "model": "train", "evaluation": "evaluate",
}  # fmt: skip
"""Which stage commits a folder, by the word of its key."""
ELSEWHERE = ("judge.llm.", "judge.pairrm", "judge.mixture", "prepare.split")
"""Values that only language models, PairRM and mixtures as judges, and data sets of a hub read: none is played here."""
AROUND = {
    "generate": {"generate.chunk_size"},
    "instructions": {"generate.engine", "generate.dtype"},
    "report": {"evaluate.panel", *(f"prices.{stage}" for stage in ("generate", "rank", "train", "evaluate"))},
}
"""Values that are read before a stage's own work begins: for an engine, or with the rest of a report."""
VARIANTS = [
    {"rank.selection": "length-matched", "rank.length_tolerance": 1.0},
    {"train.lora.rank": 2, "rank.length_corrected": True, "rank.soft_duplicates": True, "rank.estimator": "official"},
    {"train.max_tokens": 48, "train.cut": "halves", "train.objective": "rspo"},
]


class Reads:
    """Values that are read while the work of a stage is done, by stage."""

    def __init__(self):
        self.found, self.doing = defaultdict(set), []

    def saw(self, key):
        if self.doing:
            self.found[self.doing[-1]].add(key)

    def recording(self, section, prefix=""):
        """The same section, which tells of every value that is read."""
        reads, kind = self, type(section)

        class Recording(kind):
            def __getattribute__(self, name):
                value = super().__getattribute__(name)
                if name in kind.model_fields and not isinstance(value, Section):
                    reads.saw(prefix + name)
                return value

            def read_by(self, *stages):
                return kind.read_by(section, *stages)

        Recording.__name__ = kind.__name__
        values = {name: getattr(section, name) for name in kind.model_fields}
        sections = {
            name: self.recording(value, f"{prefix}{name}.")
            for name, value in values.items()
            if isinstance(value, Section)
        }
        return Recording.model_construct(**values | sections)

    def watch(self, monkeypatch):
        """Have every stage's `run_once` tell when its work begins and ends."""
        from sppo.store.once import run_once

        def watched(store, key, inputs, work):
            words = {part.rpartition("-")[0] for part in key.split("/")} | {key.split("/")[0]}
            (stage,) = {FOLDERS[word] for word in words if word in FOLDERS}

            def told(output):
                self.doing.append(stage)
                try:
                    return work(output)
                finally:
                    self.doing.pop()

            return run_once(store, key, inputs, told)

        for name in ("preparing.prepare", "sampling.generate", "judging.rank", "training.train", "evaluation.evaluate",
                     "evaluation.ifeval", "reporting.publish"):  # fmt: skip
            monkeypatch.setattr(importlib.import_module(f"sppo.{name}"), "run_once", watched)


def play(config, folder):
    """All stages of one iteration, with a configuration that records."""
    from sppo.evaluation.evaluate import evaluate
    from sppo.evaluation.ifeval import write_instructions
    from sppo.judging.rank import rank
    from sppo.preparing.prepare import prepare
    from sppo.reporting.publish import publish
    from sppo.sampling.generate import generate
    from sppo.store import tables
    from sppo.training.train import train

    prompts = prepare(config, lambda _: None, write_instructions)
    rows = generate(config, 1, 0, 1, config.base_model, prompts / keys.prompts_file(1))
    responses = folder / "responses.parquet"
    tables.write(responses, tables.RESPONSES, rows)
    ranked = rank(config, 1, 0, 1, responses)
    figures = {"generate/truncated_fraction": 0.0}
    model, _ = train(config, 1, config.base_model, [ranked / keys.PAIRS_FILE], figures, [0.0] * 20)
    evaluate(config, 1, model, config.base_model, prompts / keys.HELD_OUT_FILE)
    publish(config)


@pytest.fixture(scope="module")
def found(tmp_path_factory, tiny_llama):
    """What each stage read, over all variants."""
    reads = Reads()
    with pytest.MonkeyPatch.context() as patch:
        reads.watch(patch)
        for place in (charts, plots):  # what is plotted is read by then, and takes seconds to draw
            patch.setattr(place, "draw", lambda *_: Markup())
        for number, variant in enumerate(VARIANTS):
            folder = tmp_path_factory.mktemp(f"variant-{number}")
            of_all = {
                **{"iterations": 1, "prepare.prompts_per_iteration": 0, "judge.cache": False},
                **{"evaluate.samples": 2, "evaluate.temperature": 1.0, "evaluate.instructions.count": 2},
                **{"evaluate.instructions.final": 2, "evaluate.instructions.max_tokens": 8},
            }
            values = few_tokens(folder, tiny_llama, **of_all)
            config = PreparedConfig(**resolve(values | variant).asked())
            play(reads.recording(config), folder)
    return reads.found


def declared(stage):
    """Values that a stage is said to read, and those that count only beside others."""
    by = readers(RunConfig).items()
    return {
        key
        for key, who in by
        if stage in (who.stages if isinstance(who, FreeIf) else () if isinstance(who, Free) else who)
    }


@pytest.mark.parametrize("stage", BEFORE)
def test_a_stage_reads_no_value_that_is_not_in_its_digest(found, stage):
    free = {key for key, by in readers(RunConfig).items() if isinstance(by, Free)} | {"contents", "continues"}
    known = set().union(*(declared(each) for each in {stage, *BEFORE[stage]}))
    assert found[stage] - free - known == set()


@pytest.mark.parametrize("stage", BEFORE)
def test_a_stage_reads_every_value_that_is_said_to_be_read(found, stage):
    unread = {key for key in declared(stage) - found[stage] if not key.startswith(ELSEWHERE)}
    assert unread == AROUND.get(stage, set())
