"""What `train.max_tokens` leaves of a pair, and what becomes of its reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.run import resolve
from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError
from sppo.training.audit import Audit
from sppo.training.cutting import cut
from sppo.training.update import group_of, reference_of

from .conftest import ALONE, scorer_of

LENGTHS = st.integers(1, 40)


def pair_of(prompt, responses):
    chosen, rejected, *others = [[100 * i + j for j in range(length)] for i, length in enumerate(responses, start=1)]
    logprobs = [[-float(value) for value in ids] for ids in (chosen, rejected, *others)]
    return {
        "prompt_ids": list(range(prompt)), "chosen_ids": chosen, "rejected_ids": rejected, "other_ids": others,
        "chosen_logprobs": logprobs[0], "rejected_logprobs": logprobs[1], "other_logprobs": logprobs[2:],
    }  # fmt: skip


def released(prompt, responses, limit, half):
    """The lengths that `tokenize_row` of the released trainer leaves, its end and start tokens aside."""
    longest = max(responses)
    if prompt + longest > limit:
        prompt = min(prompt, half)
    if prompt + longest > limit:
        responses = [min(each, limit - half) for each in responses]
    return prompt, responses


@given(LENGTHS, st.lists(LENGTHS, min_size=2, max_size=4), st.integers(1, 20))
def test_halves_are_what_the_released_trainer_leaves(prompt, responses, half):
    pair, limit = pair_of(prompt, responses), 2 * half
    (found,), count = cut([pair], TrainConfig(max_tokens=limit, cut="halves"))
    group = group_of(found)
    assert (len(group.prompt), [*map(len, group.responses)]) == released(prompt, responses, limit, half)
    assert group.prompt == pair["prompt_ids"][prompt - len(group.prompt) :], "a prompt keeps its end"
    for own, whole in zip(group.responses, group_of(pair).responses, strict=True):
        assert own == whole[: len(own)], "a response keeps its beginning"
    assert count == (found != pair) == (prompt + max(responses) > limit)


@given(LENGTHS, st.lists(LENGTHS, min_size=2, max_size=4), st.integers(2, 40))
def test_fit_cuts_no_more_than_it_must(prompt, responses, limit):
    (found,), count = cut([pair_of(prompt, responses)], TrainConfig(max_tokens=limit, cut="fit"))
    group = group_of(found)
    longest = max(map(len, group.responses))
    if not count:
        assert prompt + max(responses) <= limit
        return
    assert len(group.prompt) + longest == limit, "nothing is left unused"
    assert len(group.prompt) >= min(prompt, limit // 2) and longest >= min(max(responses), limit - limit // 2)


@given(LENGTHS, st.lists(LENGTHS, min_size=2, max_size=4), st.sampled_from(["fit", "halves"]))
def test_log_probabilities_are_kept_where_the_whole_prompt_is(prompt, responses, how):
    pair = pair_of(prompt, responses)
    (found,), _ = cut([pair], TrainConfig(max_tokens=20, cut=how))
    for ids, own, before in zip(group_of(found).responses, reference_of(found), reference_of(pair), strict=True):
        assert own == (before[: len(ids)] if len(found["prompt_ids"]) == prompt else [])


def test_nothing_is_cut_unless_it_is_asked_for():
    pair = pair_of(40, [30, 50])
    assert cut([pair], TrainConfig()) == ([pair], 0)
    with pytest.raises(ConfigError, match="cut=halves needs max_tokens"):
        resolve({"train.cut": "halves"})
    with pytest.raises(ConfigError, match="1 has no room"):
        resolve({"train.max_tokens": 1})


@pytest.mark.parametrize("long", [3, 8])
def test_the_reference_of_a_cut_prompt_is_computed_for_what_is_left(tiny_llama, pairs, long):
    for pair in pairs[:long]:
        pair["prompt_ids"] = 3 * pair["prompt_ids"]
    settings, all_cut = TrainConfig(dtype="float32", audit_fraction=1.0, max_tokens=16), long == len(pairs)
    done, count = cut(pairs, settings)
    assert count == long == sum(not all(reference_of(pair)) for pair in done)
    figures = Audit(done, settings, 0).reference(scorer_of(tiny_llama), ALONE)
    assert figures["train/reference_recomputed"] == all_cut
    assert ("train/reference_audit_mean_abs" in figures) is not all_cut
    scorer = scorer_of(tiny_llama)
    for pair in done:
        for own, true in zip(reference_of(pair), scorer.of([group_of(pair)])[0], strict=True):
            assert own == pytest.approx(true.tolist(), abs=1e-4)
