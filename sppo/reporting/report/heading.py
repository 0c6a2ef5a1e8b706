"""What stands around a report's verdict: which run this is, and what its reader can do next."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime

from sppo.config.run import RunConfig, flatten, resolve
from sppo.config.sections.evaluate import EvaluateConfig
from sppo.reporting.report.card import overrides
from sppo.reporting.report.collect import RunReport, Sample
from sppo.reporting.report.provenance import duration
from sppo.reporting.report.titles import judge_title
from sppo.reporting.revision import source_revision
from sppo.store.uri import last_part


def facts(report: RunReport) -> list[tuple[str, str]]:
    """Which run it is, when and where it was played, for how long, and by what; what is not known is left out."""
    config, last = report.config, report.iterations[-1]
    work = sum(seconds for each in report.iterations for seconds in each.seconds.values())
    machines = dict.fromkeys(name for each in report.iterations for name in each.machines)
    known = {
        "run": last_part(config.output_uri),
        "played": _span(report.began, last.ended),
        "work": duration(work or None),
        "on": "; ".join(machines),
        "by": _software(),
        "arithmetic": ", ".join(dict.fromkeys((config.generate.dtype, config.judge.dtype, config.train.dtype))),
        "seed": str(config.seed),
        "iterations": f"{len(report.iterations)} of {config.iterations} evaluated",
        "judge": judge_title(config),
    }
    return [(label, value) for label, value in known.items() if value]


def _software() -> str:
    """The version that writes this, and its commit where that is known; "-dirty" where files differ from it."""
    commit, _, changed = source_revision().partition("-")
    known = "" if commit == "unknown" else f", commit {commit[:9]}{changed and '-'}{changed}"
    return f"sppo {importlib.metadata.version('sppo')}{known}"


def _span(began: str, ended: str) -> str:
    """From when to when, in UTC, to the minute; empty for runs of versions that did not note it."""
    if not began or not ended:
        return ""
    first, last = (datetime.fromisoformat(at) for at in (began, ended))
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {end} UTC"


def changed_values(config: RunConfig) -> list[str]:
    """What differs from the preset, as it is written on a command line, but for what its `auto` became here."""
    here = flatten(resolve({"preset": config.preset}).model_dump(mode="json"))
    changed = {
        key: value
        for key, value in flatten(overrides(config, without=("output_uri",))).items()
        if value != here.get(key)
    }
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changed.items()]


def next_steps(report: RunReport) -> list[tuple[str, str]]:
    """What to do with the run, and the command or place for it."""
    place = shlex.quote(report.config.output_uri)
    use = [("use its model; the card there shows how", report.published)] if report.published else []
    return [
        *use,
        ("compare it with a run before it", f"sppo compare OTHER {place} --html compared.html"),
        ("measure its model on benchmarks", f"sppo bench {place} --benchmarks leaderboard"),
        *([("play one iteration more", shlex.join(["sppo", "run", *_values(report.config)]))] * _has_prompts(report)),
        ("look at it in MLflow", f"experiment {report.config.experiment}, run {last_part(report.config.output_uri)}"),
    ]


def _has_prompts(report: RunReport) -> bool:
    """Whether one iteration more would have prompts: those kept, or a place of its own."""
    config, wanted = report.config, report.config.prepare
    if not isinstance(config.prompts, str):
        return len(config.prompts) > config.iterations
    needed = wanted.held_out + wanted.prompts_per_iteration * (config.iterations + 1)
    return report.prepare["prepare/kept"] >= needed


def _values(config: RunConfig) -> Iterator[str]:
    """All that a run was given, with an iteration more: what is not named again is the preset's."""
    preset = [f"preset={config.preset}"] if config.preset != "cpu" else []
    kept = [value for value in changed_values(config) if not value.startswith("iterations=")]
    yield from (*preset, f"output_uri={config.output_uri}", *kept, f"iterations={config.iterations + 1}")


def sampled(config: EvaluateConfig) -> str:
    """How the answers came about, which people are shown."""
    if config.temperature == 0:
        return "They are greedy: each token is the most likely one."
    return f"They are sampled at temperature {config.temperature:g}."


def shown_first(samples: Sequence[Sample], each: int = 4) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Which answers a reader sees first: where the model changed the most, and some that nobody chose.

    Args:
        samples: of an iteration.
        each: how many of either.

    Returns:
        Those whose answer is least like the base's by its words, some at random (by a hash of the prompt, so that they
        are the same in every report), and the others.
    """

    def likeness(sample: Sample) -> tuple[float, str]:
        return difflib.SequenceMatcher(None, sample.base.split(), sample.new.split()).ratio(), sample.prompt_id

    changed = sorted(samples, key=likeness)[:each]
    rest = [sample for sample in samples if sample not in changed]
    drawn = sorted(rest, key=lambda sample: hashlib.sha256(sample.prompt_id.encode()).digest())[:each]
    return changed, drawn, [sample for sample in rest if sample not in drawn]
