"""What several unit tests start from: a small run whose stages are all committed, as the stages commit them."""

import gc
import importlib
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import pytest
from sppo_pipelines.cli import main

from sppo.config.run import PreparedConfig, resolve
from sppo.judging import registry
from sppo.models.fetch import model_digest
from sppo.preparing.recorded import record
from sppo.reporting.report import RunReport
from sppo.reporting.report.figures import FIGURES
from sppo.store import keys, tables
from sppo.store.lineage import Lineage
from sppo.store.local import LocalStore
from sppo.store.once import run_once

pytest.register_assert_rewrite(f"{__package__}.kind_properties")  # or its failures would not say what was found

HELD_OUT = 3


@pytest.fixture(scope="module", autouse=True)
def _loaded_stays() -> None:
    """Garbage is not looked for in what was there before: in all the libraries it takes half a second each time."""
    gc.collect()
    gc.freeze()


class Result(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def benchmark_script() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script of benchmarks/ as scripts import each other; the names of all are forgotten afterwards."""
    folder, before = str(Path(__file__).parents[2] / "benchmarks"), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]


@pytest.fixture
def run_sppo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Result]]:
    """Runs `sppo` with arguments, here in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["sppo", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        return Result(code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def new_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What kinds of judges the test registers is forgotten afterwards, with their modules."""
    monkeypatch.setattr(registry, "_KINDS", list(registry.kinds()))
    before = set(sys.modules)
    registry._import_all.cache_clear()
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "register", None) is registry.register:
            del sys.modules[name]
    registry._import_all.cache_clear()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """MLflow's tables, made once: creating them takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def tracked_folder(tmp_path: Path, empty_database: bytes) -> Path:
    """The folder of a run that is called `my-run`, with MLflow's tables beside it."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    return folder


class PlayedRun(NamedTuple):
    """A run in a store, and the URIs of the models that it trained."""

    config: PreparedConfig
    store: LocalStore
    models: list[str]


@pytest.fixture
def play_run(tmp_path: Path) -> Callable[..., PlayedRun]:
    """Writes a run; see `_play` for its arguments."""
    return lambda **wanted: _play(tmp_path, **wanted)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> PlayedRun:
    """What `play_run` writes when it is asked for nothing, once: only to be read."""
    return _play(tmp_path_factory.mktemp("plain"))


def with_every_figure(report: RunReport) -> RunReport:
    """The same report with iterations that measured everything there is."""
    everything = [replace(each, figures=dict.fromkeys(FIGURES, 0.5) | each.figures) for each in report.iterations]
    return replace(report, iterations=everything)


def _play(
    folder: Path,
    decisions: Sequence[str] = ("continue", "stop"),
    lows: Sequence[float] = (0.41, 0.52),
    text: str = "A plain answer.",
    model: Path | None = None,
    name: str = "run",
    loss: float = 1000.0,
    win_rates: Sequence[Sequence[float]] = (),
    trained: Mapping[str, float] = MappingProxyType({}),
    evaluated: Mapping[str, float] = MappingProxyType({}),
    **overrides: Any,
) -> PlayedRun:
    """Commit a run with one iteration a decision.

    Args:
        folder: Where the run's folder and its base model's lie.
        decisions: Of the gate.
        lows: Of each iteration, the lower end of the win rate over the base.
        text: Part of every prompt and answer.
        model: The folder that every iteration 'trained'.
        name: Of the run's folder; runs of several names have the same base model.
        loss: In the training log, and so what tells the trained models of two runs apart.
        win_rates: Of each iteration over the base, one of each held-out prompt.
        trained: Further figures of every training.
        evaluated: Further figures of every evaluation.
        overrides: Of the configuration.
    """
    base = folder / "base"
    if model is None:
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text("{}")
    else:
        _copy(model, base)
    asked = resolve({"output_uri": str(folder / name), "base_model": str(base), "iterations": 3, **overrides})
    config, store = PreparedConfig(**asked.asked()), LocalStore(folder / name)
    lineage = Lineage(config, store)
    run_once(store, lineage.prepared_key, {"stage": lineage.prepared}, _prepared)
    record(config, store, {})
    lineage = Lineage(config, store)
    uris = [str(base)]
    policy, best = uris[0], 0
    over_base = win_rates or [[0.25 * i + 0.125 for i in range(HELD_OUT)]] * len(decisions)
    for t, (decision, low, rates) in enumerate(zip(decisions, lows, over_base, strict=True), start=1):
        key = lineage.model_key(t)
        previous, uri = policy, f"{store.uri}/{key}"
        run_once(store, key, {"pairs": str(t)}, lambda output, t=t: _trained(t, model, loss, output) | trained)
        policy, best = (previous, best) if decision == "keep-previous" else (uri, t)
        roles = {"new": uri, "previous": previous, "base": str(base)}
        answers = {
            role: _answered(lineage, _name(place, base), place, text, len(rates)) for role, place in roles.items()
        }
        verdict = {
            "iteration": t,
            "decision": decision,
            "reason": f"the win rate is what it is in iteration {t}",
            "best_iteration": best,
            "policy_uri": policy,
            "model_uri": uri,
            "previous_uri": previous,
            "base_uri": str(base),
            "answers": answers,
        }
        inputs = {"held_out": "aa" * 32, "judge": "bb" * 32}
        inputs |= {role: model_digest(Path(place)) for role, place in roles.items()}
        e = (verdict, low, rates)
        run_once(store, lineage.evaluation_key(t), inputs, lambda output, e=e: _evaluated(*e, output) | evaluated)
        uris.append(uri)
    return PlayedRun(config, store, uris[1:])


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _prepared(output: Path) -> dict[str, float]:
    rows = [{"prompt_id": f"q{i}", "prompt": f"Question {i}?", "prompt_ids": [i]} for i in range(HELD_OUT)]
    for t in range(1, 4):
        tables.write(output / keys.prompts_file(t), tables.PROMPTS, rows)
    return {"prepare/read": 40.0, "prepare/kept": 37.0}


def _trained(t: int, model: Path | None, loss: float, output: Path) -> dict[str, float]:
    if model is not None:
        _copy(model, output)
    rows = [
        {
            "step": step,
            "loss": loss + t - 10 * step,
            "learning_rate": 1e-5,
            "grad_norm": 3.0,
            "chosen_log_ratio": 0.1 * step,
            "rejected_log_ratio": -0.2 * step,
            "mean_log_ratio": -0.05 * step,
            "mean_abs_log_ratio": 0.15 * step,
        }
        for step in range(4)
    ]
    (output / keys.TRAINING_LOG_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = [float(abs(2 * index - 19)) for index in range(20)]
    (output / keys.DISTRIBUTION_FILE).write_text(json.dumps(counts))
    return {
        "train/loss": 987.5 + t,
        "train/mean_abs_log_ratio": 1.25 * t,
        "train/kl": 0.0625 * t,
        "train/tokens_per_second": 321.0,
        "generate/tokens_per_second": 654.0,
        "rank/saturation": 0.375,
        "rank/duplicate_fraction": 0.125,
        "rank/intransitive_fraction": 0.0625,
        "pairs/mean_p_chosen": 0.6875,
        "pairs/mean_p_rejected": 0.3125,
        "train/a_figure_of_tomorrow": 0.777,
    }


def _name(uri: str, base: Path) -> str:
    return "base" if uri == str(base) else Path(uri).parent.name


def _answered(lineage: Lineage, name: str, uri: str, text: str, prompts: int) -> str:
    """Two answers of a model to each held-out prompt; a model that answered already does not answer again."""
    store, key = lineage.store, keys.answers(model_digest(Path(uri)), lineage.answers())
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"Prompt {i}: {text}",
            "sample": sample,
            "text": f"{name} {i}.{sample}: {text}",
            "tokens": 5,
        }
        for i in range(prompts)
        for sample in range(2)
    ]

    def work(output: Path) -> dict[str, float]:
        tables.write(output / keys.ANSWERS_FILE, tables.ANSWERS, rows)
        return {}

    if store.manifest(key) is None:
        run_once(store, key, {"model": uri}, work)
    return key


def _evaluated(verdict: dict[str, Any], low: float, over_base: Sequence[float], output: Path) -> dict[str, float]:
    rows = [
        {"prompt_id": f"p{i}", "opponent": opponent, "win_rate": rate, "probability": 0.3 + 0.1 * (i % 4) + lift}
        for opponent, lift, rates in (("previous", 0.0, [0.5] * len(over_base)), ("base", 0.125, over_base))
        for i, rate in enumerate(rates)
    ]
    tables.write(output / keys.COMPARISONS_FILE, tables.COMPARISONS, rows)
    (output / keys.VERDICT_FILE).write_text(json.dumps(verdict))
    t = verdict["iteration"]
    return {
        "eval/win_rate_vs_base": low + 0.1,
        "eval/win_rate_vs_base_low": low,
        "eval/win_rate_vs_base_high": low + 0.2,
        "eval/win_rate_vs_previous": 0.53,
        "eval/win_rate_vs_previous_low": 0.43,
        "eval/win_rate_vs_previous_high": 0.63,
        "eval/mean_probability_vs_base": 0.5625,
        "eval/mean_probability_vs_previous": 0.5125,
        "eval/lc_win_rate_vs_base": 0.518,
        "eval/mean_length": 40.5 + t,
        "eval/mean_length_base": 39.25,
        "gate/continue": float(verdict["decision"] == "continue"),
    }


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their charts, which take seconds to draw and are tested elsewhere."""
    from sppo.reporting.report import plots

    monkeypatch.setattr(plots, "drawings", lambda report: plots.Drawings([], []))
