"""Training with an objective that holds the policy to the base: whose log-probabilities are computed, and when."""

import pytest
import torch

from sppo.models.policy import load_policy, save_policy
from sppo.store import keys, tables
from sppo.store.opening import open_store
from sppo.training import base_policy
from sppo.training import train as work
from tests.conftest import lineage_of
from tests.unit.training.conftest import configure

RSPO = {"train.objective": "rspo", "train.eta": 1.0, "train.rspo.reverse": 4.0}


@pytest.fixture
def other(tiny_llama, tmp_path):
    """Another model than pi_t, as the base of a later iteration is."""
    model, generator = load_policy(tiny_llama, "float32"), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    save_policy(model, tiny_llama, tmp_path / "other")
    return tmp_path / "other"


def by_itself(folder, prompt, response):
    """log pi(response | prompt) by the model's own forward pass."""
    model = load_policy(folder, "float32").requires_grad_(False)
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(response)), response].sum())


def test_the_base_is_asked_once_and_what_it_said_is_committed(tmp_path, tiny_llama, other, of_many, monkeypatch):
    path = tmp_path / "pairs.parquet"
    tables.write(path, tables.PAIRS, of_many)
    config = configure(tmp_path / "run", base_model=str(other), iterations=2, **RSPO)
    _, manifest = work.train(config, 2, str(tiny_llama), [path], {})
    key = lineage_of(config).base_logprobs_key(2)
    store = open_store(config.output_uri)
    rows = tables.read(store.fetch(key) / keys.BASE_FILE, tables.BASE_LOGPROBS)
    for pair, row in zip(of_many, rows, strict=True):
        responses = [pair["chosen_ids"], pair["rejected_ids"], *pair["other_ids"]]
        assert row["prompt_id"] == pair["prompt_id"]
        assert row["logprobs"] == pytest.approx(
            [by_itself(other, pair["prompt_ids"], ids) for ids in responses], abs=1e-3
        )
    # By hand: no log-ratio yet, s = log pi_t - log mu.
    losses = []
    for pair, row in zip(of_many, rows, strict=True):
        p = torch.tensor([pair["p_chosen"], pair["p_rejected"], *pair["p_others"]])
        own = [pair["chosen_logprobs"], pair["rejected_logprobs"], *pair["other_logprobs"]]
        s = torch.tensor([sum(each) for each in own]) - torch.tensor(row["logprobs"])
        assert float(s.abs().max()) > 0.1, "the two models differ"
        losses.append(float(((p - 0.5) ** 2 + 4.0 * s.square() / 2).mean()))
    assert manifest.figures["train/loss_at_start"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)

    store.delete(lineage_of(config).model_key(2))
    monkeypatch.setattr(base_policy, "token_logprobs", lambda *_: pytest.fail("the base was asked again"))
    assert work.train(config, 2, str(tiny_llama), [path], {})[1].digest() == manifest.digest()


def test_in_the_first_iteration_the_reference_is_the_base(tmp_path, tiny_llama, table, monkeypatch):
    monkeypatch.setattr(work, "base_logprobs", lambda *_: pytest.fail("the base was asked"))
    config = configure(tmp_path / "run", base_model=str(tiny_llama), **RSPO)
    _, manifest = work.train(config, 1, str(tiny_llama), [table], {})
    plain = configure(tmp_path / "plain", base_model=str(tiny_llama), **{"train.eta": 1.0})
    _, without = work.train(plain, 1, str(tiny_llama), [table], {})
    assert manifest.figures["train/loss_at_start"] == without.figures["train/loss_at_start"]
    assert manifest.digest() != without.digest(), "the weight of r^2 is another"


@pytest.mark.parametrize("objective", ["dpo", "ipo"])
def test_the_baselines_are_trained_on_the_same_stages(tmp_path, tiny_llama, table, objective):
    changes = {"train.objective": objective, "train.eta": 100.0, "train.epochs": 8, "train.schedule_epochs": 8}
    config = configure(tmp_path / "run", **changes, **{"train.global_batch": 8})
    _, manifest = work.train(config, 1, str(tiny_llama), [table], {})
    start = {"dpo": 0.6931472, "ipo": 2500.0}[objective]
    assert manifest.figures["train/loss_at_start"] == pytest.approx(start, rel=1e-6)
    assert manifest.figures["train/first_loss"] == pytest.approx(start, rel=1e-3)
    assert manifest.figures["train/loss"] < start
