"""Checks of what prompts ask for in so many words, such as a number of sentences: for IFEval's kind of prompts."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.instruction_checks import VERSION, read_instructions
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import Kind, register, text_sha256
from sppo.judging.rules import FOLLOWED, instructions_file, load_instructions
from sppo.store.base import file_sha256


@register
class InstructionChecks(Kind):
    """The share of its prompt's instructions that a response follows."""

    schemes = ("instructions",)
    scores = True
    example = "instructions:FILE (.jsonl with prompt, instruction_id_list and kwargs), instructions:package:sppo"

    def place(self, uri: str) -> str:
        """See `Kind.place`."""
        return uri.partition(":")[2]

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        with instructions_file(uri) as path:
            read_instructions(path, uri)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`."""
        with instructions_file(uri) as path:
            return text_sha256(file_sha256(path), VERSION, str(FOLLOWED))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        return load_instructions(uri)
