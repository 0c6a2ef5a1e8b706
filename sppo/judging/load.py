"""Preference models: which of two responses to a prompt is better, and by how much."""

from __future__ import annotations

from sppo.config.identity import digest_of, values_read
from sppo.config.run import RunConfig
from sppo.config.sections.judge import JUDGED, JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.cache import JudgementCache
from sppo.judging.judge import Judge
from sppo.judging.on_demand import OnDemand
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import WeightsKind, kind_of
from sppo.judging.similarity import check_similarity
from sppo.store.local_cache import cached


def load_judge(uri: str, settings: JudgeConfig | None = None) -> Judge:
    """The preference model that a URI names, ready to judge; weights are loaded when a judgement is not known yet.

    Args:
        uri: see docs/judges.md; `package:sppo` is the embedded pairwise encoder.
        settings: how it computes, and whether its judgements are kept on disk; the defaults if None.

    Raises:
        ConfigError: if the URI names nothing, or a model of another kind.
        InfrastructureError: if a hub, store or server cannot be reached.
    """
    settings = settings or JudgeConfig()
    kind = kind_of(uri)
    if not settings.cache:
        return Judge(kind.load(uri, settings))
    model: PreferenceModel
    if isinstance(kind, WeightsKind):
        model = OnDemand(kind.name(uri), lambda: kind.load(uri, settings))
    else:
        model = kind.load(uri, settings)
    # A mixture's members are in its digest; each has a cache of its own, whatever it is mixed with.
    computes = {key: value for key, value in values_read(settings, *JUDGED).items() if key != "mixture"}
    digest = digest_of(computes, judge=judge_digest(uri, settings))
    return Judge(model, JudgementCache(cached("judgements", digest[:32])))


def check_judge(uri: str, settings: JudgeConfig) -> None:
    """Make sure that a URI names a preference model, without loading it; of a hub only the small files are asked for.

    Raises:
        ConfigError: if it names nothing, or a model of another kind.
        InfrastructureError: if a hub or store cannot be reached.
    """
    kind_of(uri).check(uri, settings)


def check_judges(config: RunConfig) -> None:
    """Make sure that a run's judge, and the second ones that it has, are preference models; see `check_judge`."""
    check_similarity(config.rank)
    judges = [config.preference_model]
    check_judge(config.preference_model, config.judge)
    if config.rank.prompt == "templated" and not kind_of(config.preference_model).reads_templates:
        raise ConfigError(
            f"rank.prompt: templated is for PairRM, not for {config.preference_model}; set rank.prompt=plain"
        )
    for uri in config.evaluate.second_judge:
        if uri in judges:
            known = "the training judge" if uri == judges[0] else "there twice"
            raise ConfigError(f"evaluate.second_judge: {uri} is {known}; name another one, or leave it empty")
        check_judge(uri, config.judge)
        judges.append(uri)


def judge_digest(uri: str, settings: JudgeConfig) -> str:
    """A digest of all that a judge's logits depend on, apart from `settings`; raises as `check_judge` does."""
    return kind_of(uri).digest(uri, settings)
