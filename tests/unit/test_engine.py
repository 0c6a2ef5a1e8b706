import json
import shutil

import pytest
import torch

from sppo.config.sections.generate import GenerateConfig
from sppo.models.adapters import load_adapted
from sppo.models.fetch import Policy
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import load_policy
from sppo.preparing.chat import encode_prompt, load_tokenizer
from sppo.sampling.engine import Sampling
from sppo.sampling.load import load_engine

CONFIG = GenerateConfig(engine="transformers", dtype="float32")
SAMPLING = Sampling(responses=3, temperature=1.0, top_p=1.0, max_tokens=12)
TEXTS = ["Hi", "What is the capital of France?", "Why?"]


def engine_of(folder):
    return load_engine(Policy(folder, str(folder)), CONFIG, 200)


@pytest.fixture(scope="module")
def engine(tiny_llama):
    return engine_of(tiny_llama)


@pytest.fixture(scope="module")
def prompts(tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    return [encode_prompt(tokenizer, text) for text in TEXTS]


def folder_with(tiny_llama, target, **settings):
    folder = shutil.copytree(tiny_llama, target)
    own = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**own, **settings}))
    return folder


def test_each_prompt_gets_its_responses_and_the_same_seeds_give_the_same(engine, prompts):
    first = engine.sample(prompts, SAMPLING, [1, 2, 3])
    assert [len(group) for group in first] == [3, 3, 3]
    assert engine.sample(prompts[:1], SAMPLING, [9]) != [first[0]]
    assert engine.sample(prompts, SAMPLING, [1, 2, 3]) == first
    assert engine.sample(prompts, SAMPLING, [1, 2, 4]) != first
    assert len({tuple(response.token_ids) for group in first for response in group}) == 9


def test_log_probabilities_are_the_policys_own(engine, tiny_llama, prompts):
    """Those before temperature and top-p: what the trainer computes."""
    groups = engine.sample(prompts, Sampling(2, 0.7, 0.9, 10), [1, 2, 3])
    attention.register()
    scorer = ResponseLogprobs(load_policy(tiny_llama, "float32", attention.NAME))
    for prompt, group in zip(prompts, groups, strict=True):
        for response in group:
            with torch.no_grad():
                ((own,),) = scorer.of([Group(prompt, [response.token_ids])])
            assert response.logprobs == pytest.approx(own.tolist(), abs=1e-4)


def test_a_policy_with_an_adapter_samples_from_both(tiny_llama, tmp_path, prompts, adapter_of):
    policy = Policy(tiny_llama, str(tiny_llama), adapter_of(tiny_llama, tmp_path / "adapter"))
    groups = load_engine(policy, CONFIG, 200).sample(prompts, SAMPLING, [1, 2, 3])
    attention.register()
    both, base = (
        ResponseLogprobs(model)
        for model in (
            load_adapted(policy, "float32", attention.NAME),
            load_policy(tiny_llama, "float32", attention.NAME),
        )
    )
    packed = [Group(prompt, [each.token_ids for each in group]) for prompt, group in zip(prompts, groups, strict=True)]
    with torch.no_grad():
        own, without = (torch.cat([row for group in scorer.of(packed) for row in group]) for scorer in (both, base))
    told = torch.tensor([value for group in groups for each in group for value in each.logprobs])
    torch.testing.assert_close(told, own, rtol=0, atol=1e-4)
    assert float((told - without).abs().mean()) > 0.1


def test_a_model_without_an_end_token_is_sampled_to_the_limit(tiny_llama, tmp_path, prompts):
    folder = folder_with(tiny_llama, tmp_path / "model", eos_token_id=None)
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **{key: None for key in settings if key.startswith("eos")}}))
    responses = [each for group in engine_of(folder).sample(prompts, SAMPLING, [1, 2, 3]) for each in group]
    assert {(len(each.token_ids), each.finish_reason) for each in responses} == {(SAMPLING.max_tokens, "length")}


def test_a_response_that_ends_keeps_its_end_token(tiny_llama, tmp_path, prompts):
    """With many end tokens a random model soon meets one."""
    ends = list(range(64))
    engine = engine_of(folder_with(tiny_llama, tmp_path / "model", eos_token_id=ends))
    responses = [response for group in engine.sample(prompts, SAMPLING, [1, 2, 3]) for response in group]
    assert {response.finish_reason for response in responses} == {"stop", "length"}
    for response in responses:
        ended = [token in ends for token in response.token_ids]
        assert not any(ended[:-1]) and ended[-1] == (response.finish_reason == "stop")
        assert response.finish_reason == "stop" or len(response.token_ids) == 12
        assert len(response.logprobs) == len(response.token_ids)


def test_text_is_without_special_tokens(engine, tiny_llama, prompts):
    tokenizer = load_tokenizer(tiny_llama)
    for group in engine.sample(prompts, SAMPLING, [1, 2, 3]):
        for response in group:
            assert response.text == tokenizer.decode(response.token_ids, skip_special_tokens=True)


def test_greedy_answers_need_no_seed(engine, tiny_llama, prompts):
    greedy = Sampling(responses=1, temperature=0.0, top_p=1.0, max_tokens=6)
    groups = engine.sample(prompts, greedy, [1, 2, 3])
    assert engine.sample(prompts, greedy, [4, 5, 6]) == groups
    ids = prompts[1] + groups[1][0].token_ids
    logits = load_policy(tiny_llama, "float32")(torch.tensor([ids])).logits[0]
    assert logits[len(prompts[1]) - 1 : -1].argmax(-1).tolist() == groups[1][0].token_ids


def test_sampling_settings_of_the_model_do_not_hold(engine, tiny_llama, tmp_path, prompts):
    """A repetition penalty or top-k would make the responses those of another policy."""
    settings = {"repetition_penalty": 5.0, "top_k": 2, "temperature": 0.1, "do_sample": True, "min_p": 0.5}
    other = engine_of(folder_with(tiny_llama, tmp_path / "model", **settings))
    assert other.sample(prompts, SAMPLING, [1, 2, 3]) == engine.sample(prompts, SAMPLING, [1, 2, 3])


def test_sampling_follows_the_policy(engine, prompts):
    """The first tokens of many responses have the frequencies that the model gives them."""
    count = 600
    sampling = Sampling(responses=count, temperature=1.0, top_p=1.0, max_tokens=1)
    (responses,) = engine.sample(prompts[:1], sampling, [0])
    probabilities = engine.model(torch.tensor([prompts[0]])).logits[0, -1].detach().softmax(-1)
    drawn = torch.bincount(torch.tensor([r.token_ids[0] for r in responses]), minlength=len(probabilities)) / count
    assert float((drawn - probabilities).abs().sum() / 2) < 0.3
    top = probabilities.topk(5).indices
    error = (probabilities[top] * (1 - probabilities[top]) / count).sqrt()
    assert ((drawn[top] - probabilities[top]).abs() < 4 * error).all()


def test_next_tokens_have_the_models_own_log_probabilities(engine, tiny_llama, prompts):
    tokens = [7, 65, 3]
    found = engine.next_logprobs(prompts, tokens)
    assert found.shape == (3, 3)
    model = load_policy(tiny_llama, "float32")
    for ids, row in zip(prompts, found, strict=True):
        expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[tokens]
        assert row.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
