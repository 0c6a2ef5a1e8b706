"""Several of the other kinds together: for members with different faults, such as a reward model and rules."""

from __future__ import annotations

from sppo.config.sections.judge import JudgeConfig, MixtureMember
from sppo.errors import ConfigError
from sppo.judging.load import check_judge, judge_digest, load_judge
from sppo.judging.mixture import Mixture
from sppo.judging.preference_model import PreferenceModel
from sppo.judging.registry import Kind, kind_of, register, text_sha256


@register
class Mixed(Kind):
    """The preference models that `judge.mixture` lists."""

    schemes = ("mixture",)
    example = "mixture (its members are judge.mixture)"

    def check(self, uri: str, settings: JudgeConfig) -> None:
        """See `Kind.check`."""
        for member in self._members(uri, settings):
            check_judge(member.model, settings)

    def digest(self, uri: str, settings: JudgeConfig) -> str:
        """See `Kind.digest`."""
        members = self._members(uri, settings)
        return text_sha256(*(f"{m.weight} {m.temperature} {judge_digest(m.model, settings)}" for m in members))

    def passes(self, uri: str, settings: JudgeConfig, responses: int) -> int:
        """See `Kind.passes`: the sum of its members'."""
        members = self._members(uri, settings)
        return sum(kind_of(member.model).passes(member.model, settings, responses) for member in members)

    def load(self, uri: str, settings: JudgeConfig) -> PreferenceModel:
        """See `Kind.load`; every member keeps its own judgements, so that other weights ask for none again."""
        members = self._members(uri, settings)
        return Mixture(members, [load_judge(member.model, settings) for member in members])

    def _members(self, uri: str, settings: JudgeConfig) -> tuple[MixtureMember, ...]:
        if uri != "mixture" or not settings.mixture:
            raise ConfigError("judge.mixture: a mixture needs members; give [{model: URI, weight: 1}, …]")
        if any(kind_of(member.model) is self for member in settings.mixture):
            raise ConfigError("judge.mixture: a mixture cannot be a member of itself; list the models themselves")
        return settings.mixture
