"""Answers made by hand to prompts with verifiable instructions: one that follows them, and one that breaks each."""

import json
from collections.abc import Callable
from typing import Any

Values = dict[str, Any]

TEXT = "this is what they told us of it"
"""Without a comma, and without any word that a prompt forbids."""


def enough(values: Values) -> int:
    """How many of what is counted follow; there are none yet."""
    return count_of(values) if "at least" in values.values() else 0


def wrong(values: Values) -> int:
    """How many of what is counted just break the instruction."""
    return count_of(values) - ("at least" in values.values())


def count_of(values: Values) -> int:
    return next(value for value in values.values() if isinstance(value, int))


FOLLOW: dict[str, Callable[[str, Values], str]] = {
    "keywords:existence": lambda text, values: " ".join([text, *values["keywords"]]),
    "keywords:forbidden_words": lambda text, _: text,
    "keywords:frequency": lambda text, values: text + f" {values['keyword']}" * enough(values),
    "keywords:letter_frequency": lambda text, values: text + f" {values['letter']}" * enough(values),
    "length_constraints:number_words": lambda text, values: text + " and" * enough(values),
    "length_constraints:number_sentences": lambda text, values: text + ". It is." * enough(values),
    "change_case:capital_word_frequency": lambda text, values: text + " STOP" * enough(values),
    "detectable_format:number_highlighted_sections": lambda text, values: text + " *so*" * values["num_highlights"],
    "detectable_content:number_placeholders": lambda text, values: text + " [so]" * values["num_placeholders"],
    "punctuation:no_comma": lambda text, _: text,
    "detectable_format:number_bullet_lists": lambda text, values: (
        f"* {text}" + "\n* and so on" * (values["num_bullets"] - 1)
    ),
    "detectable_format:title": lambda text, _: f"<<so it is>>\n{text}",
    "detectable_content:postscript": lambda text, values: f"{text}\n{values['postscript_marker']} and so on",
    "detectable_format:multiple_sections": lambda text, values: "\n".join(
        f"{values['section_spliter']} {number}\n{text}" for number in range(1, values["num_sections"] + 1)
    ),
    "startend:end_checker": lambda text, values: f"{text}. {values['end_phrase']}",
    "detectable_format:json_format": lambda text, _: json.dumps({"answer": text}),
}
"""What is to be done to a text so that it follows a kind of instruction, in the order in which it is to be done."""

BROKEN: dict[str, Callable[[Values], str]] = {
    "keywords:existence": lambda values: " ".join([TEXT, *values["keywords"][1:]]),
    "keywords:forbidden_words": lambda values: f"{TEXT} {values['forbidden_words'][-1].upper()}",
    "keywords:frequency": lambda values: f"{TEXT}" + f" {values['keyword']}" * wrong(values),
    "keywords:letter_frequency": lambda values: "so" + f" {values['letter']}" * wrong(values),
    "length_constraints:number_words": lambda values: "so " * wrong(values),
    "length_constraints:number_sentences": lambda values: "It is so. " * wrong(values),
    "change_case:capital_word_frequency": lambda values: "They said" + " STOP" * wrong(values),
    "detectable_format:number_highlighted_sections": lambda values: TEXT + " *so*" * (values["num_highlights"] - 1),
    "detectable_content:number_placeholders": lambda values: TEXT + " [so]" * (values["num_placeholders"] - 1),
    "punctuation:no_comma": lambda _: f"so, {TEXT}",
    "detectable_format:number_bullet_lists": lambda values: "* so\n" * (values["num_bullets"] + 1),
    "detectable_format:title": lambda _: f"<so it is>\n{TEXT}",
    "detectable_content:postscript": lambda _: TEXT,
    "detectable_format:multiple_sections": lambda values: "".join(
        f"{values['section_spliter']} {number}\n{TEXT}\n" for number in range(1, values["num_sections"])
    ),
    "startend:end_checker": lambda values: f"{values['end_phrase']} {TEXT}",
    "detectable_format:json_format": lambda _: f"{{answer: {TEXT}}}",
}
"""A text that breaks an instruction of each kind, if only just."""


def following(instructions: dict[str, Values]) -> str:
    """An answer that follows all of a prompt's instructions, given with their values."""
    text = TEXT
    for name, step in FOLLOW.items():
        if name in instructions:
            text = step(text, instructions[name])
    return text
