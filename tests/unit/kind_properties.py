"""What a model of any kind of preference model keeps to, whatever it thinks of the responses."""

import re
from typing import NamedTuple

import numpy as np
import pytest

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.preference_model import Comparison, PreferenceModel
from sppo.judging.registry import Kind, WeightsKind, kind_of, supported

PROMPTS = ("How is bread made?", "Name a colour.")
RESPONSES = ("Mix flour, water and yeast, let it rise, and bake the bread hot.", "A blue colour é🙂.", "")
"""Of different lengths, words and letters, so that a kind that looks at any of them has something to say."""
FORTH = [Comparison(prompt, *RESPONSES[i : i + 2]) for prompt in PROMPTS for i in range(2)]
BACK = [Comparison(prompt, second, first) for prompt, first, second in FORTH]
BOTH = [each for pair in zip(FORTH, BACK, strict=True) for each in pair]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # other batches round otherwise


class Subject(NamedTuple):
    """A kind, and a model of it."""

    kind: Kind
    uri: str
    settings: JudgeConfig
    model: PreferenceModel


def loaded(kind: Kind, uri: str, settings: JudgeConfig) -> Subject:
    """Load the model that a URI names."""
    return Subject(kind, uri, settings, kind.load(uri, settings))


def its_uri_is_known(subject: Subject) -> None:
    """And what an unknown one is answered with shows how it is written."""
    assert kind_of(subject.uri) is subject.kind
    subject.kind.check(subject.uri, subject.settings)
    assert subject.kind.example in supported()


def logits_are_finite_and_say_something(subject: Subject) -> None:
    logits = subject.model.compare(BOTH)
    assert logits.dtype == np.float32 and logits.shape == (len(BOTH),)
    assert np.isfinite(logits).all()
    assert np.ptp(logits) > 0, f"the same logit for all of {BOTH}"


def a_logit_does_not_depend_on_the_other_comparisons(subject: Subject) -> None:
    logits = subject.model.compare(BOTH)
    np.testing.assert_allclose(subject.model.compare(BOTH[:1]), logits[:1], **CLOSE)
    np.testing.assert_allclose(subject.model.compare(BOTH[:1:-1]), logits[:1:-1], **CLOSE)


def both_orders_are_asked_as_told(subject: Subject) -> None:
    forth, back = subject.model.compare(FORTH), subject.model.compare(BACK)
    np.testing.assert_allclose(subject.model.compare(BOTH), np.stack([forth, back], axis=1).ravel(), **CLOSE)
    assert not np.allclose(forth, back, **CLOSE), f"the same logits for {FORTH} as in the other order"


def name_and_digest_are_stable(subject: Subject) -> None:
    again = loaded(*subject[:3])
    subject.model.compare(FORTH[:1])
    assert subject.model.name == again.model.name and re.fullmatch(r"\S.*", again.model.name)
    digests = {each.kind.digest(each.uri, each.settings) for each in (subject, again)}
    assert len(digests) == 1 and re.fullmatch("[0-9a-f]{64}", *digests)


def figures_are_sums(subject: Subject) -> None:
    before = subject.model.figures()
    subject.model.compare(FORTH)
    once = subject.model.figures()
    subject.model.compare(FORTH)
    twice = subject.model.figures()
    assert {name: once[name] + once[name] - before[name] for name in before} == pytest.approx(twice)
    assert not before or any(twice[name] > before[name] for name in before)


def what_its_uri_does_not_name_is_one_configuration_error(subject: Subject) -> None:
    wrong = [f"{scheme}:no/such.thing" for scheme in subject.kind.schemes]
    assert wrong or isinstance(subject.kind, WeightsKind)
    for uri in wrong or ["no/such/folder"]:
        for ask in (subject.kind.check, subject.kind.load):
            with pytest.raises(ConfigError, match=r"\A\S+: .+\Z") as raised:
                ask(uri, subject.settings)
            assert "\n" not in str(raised.value)


PROPERTIES = (
    its_uri_is_known,
    logits_are_finite_and_say_something,
    a_logit_does_not_depend_on_the_other_comparisons,
    both_orders_are_asked_as_told,
    name_and_digest_are_stable,
    figures_are_sums,
    what_its_uri_does_not_name_is_one_configuration_error,
)
