"""Tasks of the Open LLM Leaderboard through lm-eval, which loads, asks and scores."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from sppo.bench.base import Result, Subject, result_once, write_jsonl
from sppo.config.identity import sha256_of
from sppo.errors import ConfigError, InfrastructureError
from sppo.progress import heartbeat
from sppo.sampling.lm_eval_model import load_lm_eval_model
from sppo.store.base import file_sha256

AVERAGED = {
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "truthfulqa_mc2": "acc",
    "mmlu": "acc",
    "winogrande": "acc",
    "gsm8k": "exact_match_strict-match",
}
"""The six tasks of the paper's table 3, each with the figure that its average takes."""
SAMPLES_FILE = "samples.jsonl"
_KEY = "bench.leaderboard"


def measure(subject: Subject) -> Result:
    """Run the tasks and commit lm-eval's figures, as shares.

    Raises:
        ConfigError: for a task that lm-eval does not know, or a folder that is none.
        InfrastructureError: if a task's questions cannot be fetched.
    """
    wanted = subject.config.bench.leaderboard
    scorer = f"lm-eval {version('lm-eval')}"
    inputs = {
        **subject.inputs("leaderboard", sha256_of(_own_files(wanted.include_path))),
        "scorer": scorer,
    }

    def work(output: Path) -> Result:
        found = _evaluate(subject)
        samples = {name: _unfiltered(rows) for name, rows in found["samples"].items()}
        write_jsonl(output / SAMPLES_FILE, (_line(name, row) for name in samples for row in found["samples"][name]))
        asked = sorted(
            [name, *(str(row[key]) for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash"))]
            for name, rows in samples.items()
            for row in rows
        )
        return Result(
            benchmark="leaderboard",
            model=subject.uri,
            model_digest=subject.digest,
            judge=scorer,
            prompts=", ".join(wanted.tasks),
            prompts_digest=sha256_of(asked),
            requests=sum(len(row["arguments"]) for rows in samples.values() for row in rows),
            figures=flatten({**found["results"], **found.get("groups", {})}) | {"questions": float(len(asked))},
        )

    return result_once(subject, "leaderboard", inputs, work)


def _evaluate(subject: Subject) -> Mapping[str, Any]:
    from datasets.exceptions import DatasetNotFoundError
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    config, wanted = subject.config, subject.config.bench.leaderboard
    own = [wanted.include_path] if wanted.include_path else []
    manager = TaskManager(include_path=[str(files("sppo") / "bench" / "tasks"), *own])
    for name in wanted.tasks:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, 1)
            hint = f"did you mean {near[0]}?" if near else "set bench.leaderboard.include_path where it is your own"
            raise ConfigError(f"{_KEY}.tasks: {name!r} is no task of lm-eval; {hint}")
    subject.engine.close()
    with heartbeat(f"running {', '.join(wanted.tasks)} in lm-eval"), rouge_left_out():
        model = load_lm_eval_model(subject.engine.policy, config.generate, config.bench.context, config.seed)
        try:
            found = simple_evaluate(
                model=model,
                tasks=list(wanted.tasks),
                task_manager=manager,
                limit=wanted.limit or None,
                random_seed=config.seed,
                numpy_random_seed=config.seed,
                torch_random_seed=config.seed,
                fewshot_random_seed=config.seed,
            )
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{_KEY}.tasks: a task needs the package {error.name}, which is not installed; install it, or leave "
                "the task out"
            ) from error
        except (ConnectionError, DatasetNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise InfrastructureError(
                f"{_KEY}.tasks: the questions of a task cannot be fetched ({reason}); let the hub be reached once, or "
                "name tasks of your own in bench.leaderboard.include_path"
            ) from error
    assert found is not None
    result: Mapping[str, Any] = found
    return result


@contextmanager
def rouge_left_out() -> Iterator[None]:
    """Let lm-eval load TruthfulQA's tasks without rouge_score, where that is not installed: it has no wheel.

    The module of these tasks imports it for the generative one alone, which the leaderboard does not have; whatever
    uses it is told so.
    """
    if find_spec("rouge_score") is not None:
        yield
        return
    sys.modules["rouge_score"] = _Absent("rouge_score")
    try:
        yield
    finally:
        del sys.modules["rouge_score"]


class _Absent(ModuleType):
    """A module that can be imported from, but not used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(self)(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ConfigError(f"{_KEY}.tasks: a task needs {self.__name__}; pip install rouge-score, or leave the task out")


def _own_files(folder: str) -> list[tuple[str, str]]:
    """The files of a user's tasks, each with its digest."""
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise ConfigError(f"{_KEY}.include_path: {folder}: no such folder; give one with lm-eval's YAML files")
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [(str(path.relative_to(folder)), file_sha256(path)) for path in paths]


def _unfiltered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question once: lm-eval lists it once for each way of reading the answers."""
    return list({row["doc_id"]: row for row in rows}.values())


def _line(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader may want to check of an answer; its question can be found by its hash."""
    kept = {name: row[name] for name in ("doc_id", "doc_hash", "filter")}
    scores = {name: row[name] for name in row["metrics"] if isinstance(row[name], int | float)}
    return {"task": task, **kept, "answer": str(row["filtered_resps"])[:2000], **scores}


def flatten(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """lm-eval's figures by `task/metric`, with the filter of the answers in the name where there is one.

    Their average over the paper's six tasks is added where all six were run.

    Args:
        results: of each task and group, by names such as `acc,none` and `exact_match_stderr,strict-match`.
    """
    figures: dict[str, float] = {}
    for task, measured in results.items():
        for key, value in measured.items():
            metric, _, how = key.partition(",")
            if how and isinstance(value, int | float):
                figures[f"{task}/{metric if how == 'none' else f'{metric}_{how}'}"] = float(value)
    six = [figures.get(f"{task}/{metric}") for task, metric in AVERAGED.items()]
    known = [value for value in six if value is not None]
    return {**figures, "average": sum(known) / len(six)} if len(known) == len(six) else figures
