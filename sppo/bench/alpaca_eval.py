"""AlpacaEval 2: how often a judge prefers the model's answers to a reference's, by the package alpaca_eval.

The judge's prompt, the random order of the two answers, the reading of the verdict from the log-probabilities of the
first token, the cache of verdicts and the win rates are the package's own (its annotator
`weighted_alpaca_eval_gpt4_turbo`); only the requests go through `sppo.judging.llm.endpoint`, for its limits and its
key.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from sppo.bench.base import Message, Result, Subject, answers_once, load_judge, reply_cache, result_once
from sppo.config.identity import sha256_of
from sppo.errors import ConfigError, InfrastructureError
from sppo.evaluation.length_control import length_controlled_win_rate
from sppo.judging.llm.endpoint import Endpoint, text_of
from sppo.models.hub import hub_errors
from sppo.preparing.jsonl import read_rows
from sppo.sampling.engine import Sampling
from sppo.seeds import derive_seed
from sppo.store.opening import fetch_file

ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
"""The package's configuration of AlpacaEval 2's judge, all of which is kept but the model."""
PUBLISHED = "hf://tatsu-lab/alpaca_eval"
_BASELINE, _GAMED = "alpaca_eval_gpt4_baseline.json", "df_gamed.csv"
_CHUNK = 32
"""Comparisons that the package asks for, and then keeps, together."""
ANNOTATIONS_FILE = "annotations.json"


class _Row(BaseModel):
    """A row of the reference; whatever else it holds is not read."""

    model_config = ConfigDict(frozen=True)
    instruction: str
    output: str


def measure(subject: Subject) -> Result:
    """Answer the instructions, have the answers judged, and commit the win rates in percent.

    Raises:
        ConfigError: for a reference that is none, or a judge that refuses.
        InfrastructureError: if the hub or the judge cannot be reached.
    """
    wanted, judge = subject.config.bench.alpaca_eval, load_judge(subject.config)
    rows = _reference(wanted.reference)[: wanted.count]
    prompts_digest = sha256_of([row.model_dump() for row in rows])
    inputs = subject.inputs("alpaca_eval", prompts_digest)
    answers = answers_once(subject, "alpaca_eval", inputs, lambda: _answer(subject, rows))
    judged_by = {**inputs, "judge": judge.name}

    def work(output: Path) -> Result:
        annotations = _annotate(judge, rows, answers, reply_cache(subject.config, judged_by))
        (output / ANNOTATIONS_FILE).write_text(json.dumps(annotations, indent=1), encoding="utf-8")
        figures = {**_win_rates(annotations, wanted.reference == PUBLISHED), "cost": judge.figures()["cost"]}
        return Result(
            benchmark="alpaca_eval",
            model=subject.uri,
            model_digest=subject.digest,
            judge=judge.name,
            prompts=wanted.reference,
            prompts_digest=prompts_digest,
            requests=int(judge.figures()["requests"]),
            figures=figures,
        )

    return result_once(subject, "alpaca_eval", judged_by, work)


def _reference(uri: str) -> list[_Row]:
    """The instructions with the reference's answers.

    Raises:
        ConfigError: if there is no such file, or it is no list of instruction and output.
    """
    if uri == PUBLISHED:
        _from_hub(_GAMED)  # before anything is paid for
        path = _from_hub(_BASELINE)
    else:
        form = "give hf://tatsu-lab/alpaca_eval, a .json file, or s3://… to one"
        path = fetch_file(uri, f"bench.alpaca_eval.reference: {uri}: no such file; {form}")
    name, wanted = f"bench.alpaca_eval.reference: {uri}", "; it is a JSON list of objects with instruction and output"
    rows = [row for _, row in read_rows(path, name, _Row, wanted)]
    if len({row.instruction for row in rows}) < max(len(rows), 2):
        raise ConfigError(f"bench.alpaca_eval.reference: {uri}: needs two instructions or more, each of them once")
    return rows


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors(f"bench.alpaca_eval.reference: {PUBLISHED}: {name}"):
        return Path(hf_hub_download("tatsu-lab/alpaca_eval", name, repo_type="dataset"))


def _answer(subject: Subject, rows: Sequence[_Row]) -> list[dict[str, Any]]:
    wanted = subject.config.bench.alpaca_eval
    chats: list[list[Message]] = [[{"role": "user", "content": row.instruction}] for row in rows]
    seeds = [derive_seed(subject.config.seed, "alpaca_eval", row.instruction) for row in rows]
    sampling = Sampling(1, wanted.temperature, wanted.top_p, wanted.max_tokens)
    texts = subject.answer(chats, sampling, seeds)
    return [{"instruction": row.instruction, "output": text} for row, text in zip(rows, texts, strict=True)]


def _annotate(
    judge: Endpoint, rows: Sequence[_Row], answers: Sequence[dict[str, Any]], cache: Path | None
) -> list[dict[str, Any]]:
    """The package's verdicts: `preference` is 1 where the reference is preferred, 2 where the model is."""
    package = _package()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "judge" / "configs.yaml"
        path.parent.mkdir()
        settings = _settings(package, judge)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        annotator = package.annotators.PairwiseAnnotator(
            annotators_config=path,
            caching_path=cache / ANNOTATIONS_FILE if cache else None,
            fn_completions=lambda prompts, **body: _complete(package, judge, prompts, body),
        )
        if cache is not None:
            annotator.save = partial(_save_whole, annotator.save, cache)
        annotations = annotator.annotate_head2head(
            outputs_1=[{**row.model_dump(), "generator": "reference"} for row in rows],
            outputs_2=[{**answer, "generator": "model"} for answer in answers],
            chunksize=_CHUNK,
        )
    kept = ("instruction", "output_1", "output_2", "preference")
    lines: list[dict[str, Any]] = [{name: each[name] for name in kept} for each in annotations]
    for line in lines:
        undecided = line["preference"] is None or np.isnan(line["preference"])
        line["preference"] = None if undecided else float(line["preference"])
    return lines


def _save_whole(save: Callable[[Path], None], cache: Path) -> None:
    """Keep the verdicts by a rename: the package writes all of them anew in place, and a kill would leave a part."""
    with TemporaryDirectory(prefix=".tmp-", dir=cache) as folder:
        save(Path(folder) / ANNOTATIONS_FILE)
        (Path(folder) / ANNOTATIONS_FILE).replace(cache / ANNOTATIONS_FILE)


def _package() -> Any:
    """The package, imported without its side effects: it reads a `.env` file, and makes every library log."""
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
    level = logging.getLogger().level
    import alpaca_eval

    logging.getLogger().setLevel(level)
    return alpaca_eval


def _settings(package: Any, judge: Endpoint) -> dict[str, Any]:
    """The package's configuration of the judge, with another model in it."""
    folder = package.constants.EVALUATORS_CONFIG_DIR
    settings = dict(yaml.safe_load((folder / ANNOTATOR / "configs.yaml").read_text(encoding="utf-8"))[ANNOTATOR])
    del settings["fn_completions"], settings["completions_kwargs"]["model_name"]
    settings["prompt_template"] = str(folder / settings["prompt_template"])
    return {judge.name: settings}


def _complete(package: Any, judge: Endpoint, prompts: Sequence[str], body: dict[str, Any]) -> dict[str, list[Any]]:
    """Ask the judge, in the form of the package's decoders."""
    bodies = [{"messages": package.utils.prompt_to_chatml(prompt.strip()), **body} for prompt in prompts]
    choices: list[Any] = [None] * len(bodies)
    for row, choice in judge.complete(bodies, lambda answer: _choice(answer, judge.place.url)):
        choices[row] = choice
    return {"completions": [choice["text"] for choice in choices], "completions_all": choices}


def _choice(answer: Any, url: str) -> dict[str, Any]:
    """A completion's choice, which must hold what the package reads of it.

    Raises:
        ConfigError: if the endpoint gives no log-probabilities.
        InfrastructureError: if it is no completion.
    """
    try:
        choice: dict[str, Any] = answer["choices"][0]
        content = (choice.get("logprobs") or {}).get("content")
        if content is None or any(not token.get("top_logprobs") for token in content):
            raise ConfigError(f"{url}: gives no top_logprobs, which AlpacaEval reads; choose a model that does")
    except (LookupError, TypeError, AttributeError) as error:
        raise InfrastructureError(f"{url}: the answer is no chat completion ({error}); run again") from None
    return {**choice, "text": text_of(answer, url)}


def _win_rates(annotations: Sequence[dict[str, Any]], published: bool) -> dict[str, float]:
    """Win rates in percent, of which the length-controlled one is the published method's for the published set.

    The difficulties of other instructions are not known: for them the regression has only the model and the length.
    """
    import pandas as pd

    metrics = _package().metrics
    decided = [each for each in annotations if each["preference"] is not None]
    if len(decided) < 2:
        raise ConfigError(
            f"bench.judge: decided {len(decided)} of {len(annotations)} comparisons; choose another judge"
        )
    frame = pd.DataFrame(decided).assign(generator_1="reference", generator_2="model", annotator="judge")
    # The package joins the difficulties by position.
    frame["index"] = [row for row, each in enumerate(annotations) if each["preference"] is not None]
    lengths = {name: np.array([len(each[name]) for each in decided], dtype=float) for name in ("output_1", "output_2")}
    if published:
        found = metrics.get_length_controlled_winrate(frame.set_index("index"), save_weights_dir=None)
        controlled = float(found["length_controlled_winrate"])
    else:
        found = metrics.get_winrate(frame)
        wins = frame["preference"].to_numpy(dtype=float) - 1
        controlled = 100 * float(length_controlled_win_rate(wins, lengths["output_2"] - lengths["output_1"]))
    return {
        "win_rate": float(found["win_rate"]),
        "win_rate_standard_error": float(found["standard_error"]),
        "length_controlled_win_rate": controlled,
        "mean_characters": float(lengths["output_2"].mean()),
        "undecided": float(len(annotations) - len(decided)),
        "instructions": float(len(annotations)),
    }
