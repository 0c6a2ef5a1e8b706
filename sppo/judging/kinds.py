"""The kinds of preference models: what each is good for, how its URI is recognised, and how it is loaded.

A URI whose scheme names no kind is a model's (`sppo.models.fetch.fetch_model`), whose config.json tells the kind.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

from sppo.config.sections.judge import JudgeConfig, MixtureMember
from sppo.errors import ConfigError
from sppo.judging.preference_model import PreferenceModel
from sppo.models.fetch import causal_lm_config, fetch_model, model_digest
from sppo.store.base import file_sha256


class Kind(Protocol):
    """One kind of preference models."""

    example: str
    """How its URI is written, for messages."""

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """Make sure that the URI names a model of this kind, without loading it.

        Raises:
            ConfigError: if it does not.
            InfrastructureError: if a hub or store cannot be reached.
        """
        ...

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """A digest of all that its logits depend on, apart from `settings`."""
        ...

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """The model, ready to judge; raises as `check` does."""
        ...


class _Weights:
    """Kinds whose URI is a folder of weights."""

    def check(self, uri: str, settings: JudgeConfig) -> None:
        fetch_model(uri, weights=False)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        return model_digest(fetch_model(uri))


class Pairwise(_Weights):
    """The embedded judge, and what `sppo train-preference` makes: small and fast, no more than a beginning."""

    example = "package:sppo (the embedded judge), a folder, s3://… or hf://… of `sppo train-preference`"

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.pairwise.encoder import PairwiseEncoder

        return PairwiseEncoder(fetch_model(uri), uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)


class PairRanker(_Weights):
    """PairRM: the paper's judge, in either of the layouts in which it is published."""

    example = "hf://llm-blender/PairRM, hf://llm-blender/PairRM-hf, or a folder in their layouts"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        from sppo.judging.pairrm.files import read_checkpoint

        read_checkpoint(fetch_model(uri, weights=False), uri)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; the backbone's configuration may lie outside of the folder."""
        from sppo.judging.pairrm.files import read_backbone

        folder = fetch_model(uri)
        backbone = read_backbone(folder, uri).to_json_string()
        return hashlib.sha256(f"{model_digest(folder)} {backbone}".encode()).hexdigest()

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        folder = fetch_model(uri)
        if settings.pairrm == "llm-blender":
            from sppo.judging.pairrm.llm_blender import LlmBlenderPairRM

            return LlmBlenderPairRM(folder, uri, dtype=settings.dtype)
        from sppo.judging.pairrm.ranker import PairRM

        return PairRM(folder, uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)


class Reward(_Weights):
    """A reward model: the best judge of its size for what it was trained on; scores are transitive."""

    example = "hf://ORG/NAME or a folder of a reward model (…ForSequenceClassification with one label)"

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.reward import RewardModel

        return RewardModel(fetch_model(uri), uri, batch_tokens=settings.batch_tokens, dtype=settings.dtype)


class RemoteLlm:
    """A language model behind an endpoint: the best taste that money buys; costs two requests a pair."""

    example = "openai:MODEL@https://HOST/v1 (an endpoint for chat completions)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`; the endpoint is not asked."""
        from sppo.judging.llm.endpoint import parse

        parse(uri)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; which weights answer to the model's name only the endpoint knows."""
        from sppo.judging.llm.verdict import MESSAGE

        self.check(uri, settings)
        return _sha256(uri, MESSAGE)

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.llm.endpoint import Endpoint
        from sppo.judging.llm.verdict import LlmJudge

        return LlmJudge(Endpoint(uri, settings.llm), settings.llm.max_characters)


class LocalLlm:
    """A chat model in this process: an LLM's taste offline, at the price of a GPU that holds it."""

    example = "vllm:URI or transformers:URI (a chat model, hf://…, s3://… or a folder)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        model = uri.partition(":")[2]
        causal_lm_config(fetch_model(model, weights=False), model)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`; the engine belongs to it, because their arithmetic differs in the last digits."""
        from sppo.judging.llm.verdict import MESSAGE

        engine, _, model = uri.partition(":")
        return _sha256(engine, MESSAGE, model_digest(fetch_model(model)))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.llm.in_process import InProcess
        from sppo.judging.llm.verdict import LlmJudge

        return LlmJudge(InProcess(uri, settings), settings.llm.max_characters)


class Function:
    """A Python function of one's own: for tasks whose answers can be verified, such as mathematics or code."""

    example = "rules:MODULE:FUNCTION (a Python function)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        from sppo.judging.rules import load_function

        load_function(uri.partition(":")[2])

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`: of the function's module; what that imports is not looked at."""
        from sppo.judging.rules import module_source

        return _sha256(uri, file_sha256(module_source(uri.partition(":")[2])))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.rules import Rules, load_function

        return Rules(f"{uri} ({self.digest(uri, settings)[:12]})", load_function(uri.partition(":")[2]))


class InstructionChecks:
    """Checks of what prompts ask for in so many words, such as a number of sentences: for IFEval's kind of prompts."""

    example = "instructions:FILE (.jsonl with prompt, instruction_id_list and kwargs)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        from sppo.judging.instruction_checks import read_instructions
        from sppo.judging.rules import instructions_file

        read_instructions(instructions_file(uri), uri)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`."""
        from sppo.judging.instruction_checks import VERSION
        from sppo.judging.rules import FOLLOWED, instructions_file

        return _sha256(file_sha256(instructions_file(uri)), VERSION, str(FOLLOWED))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`."""
        from sppo.judging.rules import load_instructions

        return load_instructions(uri)


class Mixed:
    """Several of the other kinds together: for members with different faults, such as a reward model and rules."""

    example = "mixture (its members are judge.mixture)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        for member in self._members(uri, settings):
            kind_of(member.model).check(member.model, settings)

    def _members(self, uri: str, settings: JudgeConfig) -> tuple[MixtureMember, ...]:
        if uri != "mixture" or not settings.mixture:
            raise ConfigError("judge.mixture: a mixture needs members; give [{model: URI, weight: 1}, …]")
        for member in settings.mixture:
            if kind_of(member.model) is MIXTURE:
                raise ConfigError("judge.mixture: a mixture cannot be a member of itself; list the models themselves")
        return settings.mixture

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`."""
        members = self._members(uri, settings)
        return _sha256(*(f"{m.weight} {m.temperature} {kind_of(m.model).digest(m.model, settings)}" for m in members))

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`; every member keeps its own judgements, so that other weights ask for none again."""
        from sppo.judging.load import load_judge
        from sppo.judging.mixture import Mixture

        members = self._members(uri, settings)
        return Mixture(members, [load_judge(member.model, settings) for member in members])


PAIRWISE, PAIR_RANKER, REWARD, MIXTURE = Pairwise(), PairRanker(), Reward(), Mixed()
SCHEMES: dict[str, Kind] = {
    "openai": RemoteLlm(),
    "vllm": LocalLlm(),
    "transformers": LocalLlm(),
    "rules": Function(),
    "instructions": InstructionChecks(),
    "mixture": MIXTURE,
}
"""Kinds whose URI begins with a word of their own and a colon."""
WEIGHTS: tuple[Kind, ...] = (PAIRWISE, PAIR_RANKER, REWARD)


def kind_of(uri: str) -> Kind:
    """The kind of the preference model that a URI names; of a hub only the small files are asked for.

    Raises:
        ConfigError: if it names nothing, or a model that is no preference model.
        InfrastructureError: if a hub or store cannot be reached.
    """
    scheme = uri.partition(":")[0]
    if scheme in SCHEMES:
        return SCHEMES[scheme]
    path = fetch_model(uri, weights=False) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{uri}: no config.json; supported preference models: {supported()}")
    kind = _of_weights(json.loads(path.read_bytes()), uri)
    if kind is None:
        raise ConfigError(f"{uri}: not a preference model; supported: {supported()}")
    return kind


def _of_weights(config: dict[str, Any], uri: str) -> Kind | None:
    if config.get("model_type") == "sppo-pairwise-encoder":
        return PAIRWISE
    if config.get("ranker_type") == "pairranker" or "DebertaV2PairRM" in (config.get("architectures") or []):
        return PAIR_RANKER
    if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        # transformers writes the labels down unless they are two.
        labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
        if labels != 1:
            raise ConfigError(f"{uri}: a classifier with {labels} labels; a reward model has one")
        return REWARD
    return None


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def supported() -> str:
    """The URIs of all kinds, in words."""
    return "; ".join(dict.fromkeys(kind.example for kind in (*WEIGHTS, *SCHEMES.values())))
