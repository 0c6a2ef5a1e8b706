"""Preference models: which of two responses to a prompt is better, and by how much."""

from __future__ import annotations

import hashlib

from sppo.config.run import RunConfig
from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.cache import JudgementCache
from sppo.judging.judge import Judge
from sppo.judging.registry import kind_of
from sppo.store.local_cache import cached


def load_judge(uri: str, settings: JudgeConfig | None = None) -> Judge:
    """The preference model that a URI names, ready to judge.

    Args:
        uri: see docs/judges.md; `package:sppo` is the embedded pairwise encoder.
        settings: how it computes, and whether its judgements are kept on disk; the defaults if None.

    Raises:
        ConfigError: if the URI names nothing, or a model of another kind.
        InfrastructureError: if a hub, store or server cannot be reached.
    """
    settings = settings or JudgeConfig()
    model = kind_of(uri).load(uri, settings)
    if not settings.cache:
        return Judge(model)
    # A mixture's members are in its digest; each has a cache of its own, whatever it is mixed with.
    what = settings.model_dump_json(exclude={**JudgeConfig.FREE, "mixture": True}) + judge_digest(uri, settings)
    return Judge(model, JudgementCache(cached("judgements", hashlib.sha256(what.encode()).hexdigest()[:32])))


def check_judge(uri: str, settings: JudgeConfig) -> None:
    """Make sure that a URI names a preference model, without loading it; of a hub only the small files are asked for.

    Raises:
        ConfigError: if it names nothing, or a model of another kind.
        InfrastructureError: if a hub or store cannot be reached.
    """
    kind_of(uri).check(uri, settings)


def check_judges(config: RunConfig) -> None:
    """Make sure that a run's judge, and its second one if it has one, are preference models; see `check_judge`."""
    check_judge(config.preference_model, config.judge)
    second = config.evaluate.second_judge
    if second == config.preference_model:
        raise ConfigError(f"evaluate.second_judge: {second} is the training judge; name another one, or none")
    if second:
        check_judge(second, config.judge)


def judge_digest(uri: str, settings: JudgeConfig) -> str:
    """A digest of all that a judge's logits depend on, apart from `settings`; raises as `check_judge` does."""
    return kind_of(uri).digest(uri, settings)
