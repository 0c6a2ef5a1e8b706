import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.run import resolve
from sppo.evaluation.gate import ENOUGH, decide
from sppo.models.adapters import load_merged
from sppo.models.fetch import fetch_policy
from sppo.models.policy import load_policy, save_policy
from sppo.reporting.publish import publish
from sppo.reporting.report import collect
from sppo.reporting.report.verdict import headline
from sppo.training.audit import FEWEST, Audit
from sppo.training.export import slope
from sppo.training.train import train
from tests.conftest import lineage_of
from tests.unit.training.conftest import SETTINGS

GENTLE = {
    **SETTINGS,
    "train.dtype": "bfloat16",
    "generate.dtype": "bfloat16",
    "train.learning_rate": 2e-5,
    "train.epochs": 4,
}
"""Steps that are far smaller than the spacing of bfloat16 numbers around the weights of the tiny Llama."""


def trained(folder, base, table, **changes):
    config = resolve({"output_uri": str(folder), **GENTLE, "train.schedule_epochs": 4, **changes})
    uri, manifest = train(config, 1, str(base), [table], {})
    return config, uri, manifest


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20).filter(any), st.floats(-2, 2))
def test_the_slope_is_the_share_that_is_seen(values, share):
    log_ratios = torch.tensor(values, dtype=torch.float64)
    if float(log_ratios.square().sum()) > 1e-12:
        assert slope(log_ratios, share * log_ratios) == pytest.approx(share, abs=1e-9)


def test_the_slope_is_that_of_numpys_least_squares():
    import numpy as np

    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 30, dtype=torch.float64, generator=generator)
    assert slope(one, other) == pytest.approx(np.linalg.lstsq(one.numpy()[:, None], other.numpy())[0][0])
    assert slope(torch.zeros(3), torch.zeros(3)) == 1, "nothing was trained, nothing is lost"


def test_all_weights_are_handed_on_as_they_were_trained(tmp_path, tiny_llama, table):
    """The trainer computes with the same bfloat16 copies that a sampler makes of the float32 weights."""
    _, _, manifest = trained(tmp_path / "run", tiny_llama, table)
    assert manifest.figures["train/export_slope"] == 1
    assert manifest.figures["train/publish_slope"] == manifest.figures["train/export_slope"]


def test_a_model_that_is_sampled_in_float32_is_measured_as_it_is_published_in_bfloat16(tmp_path, tiny_llama, table):
    _, _, manifest = trained(
        tmp_path / "run", tiny_llama, table, **{"train.dtype": "float32", "generate.dtype": "float32"}
    )
    assert manifest.figures["train/export_slope"] == 1
    assert manifest.figures["train/publish_slope"] != manifest.figures["train/export_slope"]


def test_an_adapter_is_handed_on_as_it_was_trained_where_a_merged_model_is_not(tmp_path, tiny_llama, table, play_run):
    """A base in bfloat16, as most are: what is added to a weight is lost if it is below half of the spacing."""
    base = tmp_path / "bfloat16"
    save_policy(load_policy(tiny_llama, "bfloat16"), tiny_llama, base)
    _, uri, manifest = trained(tmp_path / "trained", base, table, **{"train.lora.rank": 4})
    assert manifest.figures["train/export_slope"] == 1
    assert manifest.figures["train/publish_slope"] < ENOUGH
    policy = fetch_policy(uri)
    run = play_run(model=policy.adapter, trained=dict(manifest.figures))
    publish(run.config)
    published = load_policy(run.store.fetch(lineage_of(run.config).published_key), "float32").state_dict()
    for name, weight in load_merged(policy, "float32").state_dict().items():
        assert torch.equal(published[name], weight), "in float32, which loses nothing"
    card = (run.store.fetch(lineage_of(run.config).published_key) / "README.md").read_text()
    assert "before its type was changed to float32" in card


@pytest.mark.parametrize(("slope", "said"), [(0.16, True), (0.89, True), (0.9, False), (1.0, False)])
def test_the_verdict_says_what_was_lost(play_run, slope, said):
    run = play_run(trained={"train/export_slope": slope, "train/publish_slope": slope})
    report = collect(run.config, run.store)
    sentence = f"the saved model shows only {slope:.2f} of what was trained"
    assert (sentence in headline(report)) is said
    figures = {
        "eval/win_rate_vs_previous": 0.6, "eval/win_rate_vs_previous_low": 0.5, "eval/win_rate_vs_previous_high": 0.7,
        "eval/mean_length": 5.0, "eval/mean_length_base": 5.0, "train/export_slope": slope,
    }  # fmt: skip
    verdict = decide(run.config, 1, figures)
    assert verdict.decision == "continue"
    assert (f"the saved model shows {slope:.2f} of what was trained" in verdict.reason) is said


def test_few_pairs_are_all_drawn_and_of_many_enough(pairs):
    many = [{**pair, "prompt_id": f"{i}-{pair['prompt_id']}"} for i in range(20) for pair in pairs]
    for fraction, count in ((0.02, FEWEST), (0.2, 32), (1.0, 160)):
        config = resolve({"train.audit_fraction": fraction}).train
        assert len(Audit(many, config, 0).drawn) == count
        assert len(Audit(pairs, config, 0).drawn) == len(pairs)
