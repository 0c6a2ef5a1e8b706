import json
import os
import shutil
import subprocess
import sys
from typing import get_args

import peft
import pytest
import torch
from safetensors.torch import load_file

from sppo.config.run import LARGEST_RANK, resolve
from sppo.errors import ConfigError
from sppo.models import adapters
from sppo.models.adapters import WEIGHTS, load_adapted, load_merged
from sppo.models.fetch import (
    ADAPTER_CONFIG,
    BASE_FILE,
    Base,
    Policy,
    causal_lm_config,
    check_safe,
    fetch_model,
    fetch_policy,
    model_digest,
)
from sppo.models.network import attention
from sppo.models.network.logprobs import ResponseLogprobs
from sppo.models.network.packing import Group
from sppo.models.policy import load_policy
from sppo.reporting.publish import publish
from sppo.store import keys, tables
from sppo.store.opening import open_store
from sppo.training.optimizer import RMSProp
from sppo.training.train import _load, train
from sppo.training.update import Batch, Updater, group_of
from sppo.training.workers.parallel import Workers
from tests.conftest import NO_OTHERS, lineage_of

RANK = 2
SETTINGS = {
    "seed": 3,
    "train.lora.rank": RANK,
    "train.learning_rate": 1e-2,
    "train.global_batch": 3,
    "train.micro_tokens": 40,
    "train.checkpoint_every": 1,
    "train.audit_fraction": 1.0,
}
ALONE = Workers(0, 1, torch.device("cpu"))
LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def pairs(tiny_llama):
    """Six pairs of random responses with the model's own log-probabilities."""
    attention.register()
    scorer = ResponseLogprobs(load_policy(tiny_llama, "float32", attention.NAME))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(6):
        prompt, *responses = (torch.randint(0, 256, (n,), generator=generator).tolist() for n in (5, 3 + i, 9 - i))
        with torch.no_grad():
            ((chosen, rejected),) = scorer.of([Group(prompt, responses)])
        row = {"prompt_id": f"prompt-{i}", "prompt": "?", "prompt_ids": prompt, "p_chosen": 0.9, "p_rejected": 0.2}
        row |= NO_OTHERS
        for index, (role, logprobs) in enumerate((("chosen", chosen), ("rejected", rejected))):
            row |= {role: "", f"{role}_index": index, f"{role}_ids": responses[index]}
            row[f"{role}_logprobs"] = logprobs.tolist()
        rows.append(row)
    return rows


@pytest.fixture
def table(tmp_path, pairs):
    path = tmp_path / "pairs.parquet"
    tables.write(path, tables.PAIRS, pairs)
    return path


def configure(folder, **changes):
    return resolve({"output_uri": str(folder), **SETTINGS, **changes})


def loaded(folder, **changes):
    """A policy with adapters, and its optimizer, as training makes them."""
    settings = configure(folder, **changes).train
    scorer = _load(Policy(folder, str(folder)), settings, ALONE, seed=1)
    return scorer, RMSProp(scorer, getattr(torch, settings.dtype), ALONE), settings


def updater_of(folder, **changes):
    scorer, optimizer, settings = loaded(folder, **changes)
    return Updater(scorer, optimizer, ALONE, settings)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=torch.arange(40)[None]).logits


def test_only_adapters_are_trained_and_only_they_have_state(tiny_llama, pairs):
    scorer, optimizer, settings = loaded(tiny_llama, **{"train.dtype": "bfloat16"})
    base = load_policy(tiny_llama, "float32")
    layers = [module for name, module in base.named_modules() if name.rpartition(".")[2] in LAYERS]
    adapters = sum(RANK * (layer.in_features + layer.out_features) for layer in layers)
    assert len(layers) == 14
    state = optimizer.state()
    assert sum(tensor.numel() for tensor in state.values()) == 2 * adapters
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    frozen = [parameter for parameter in scorer.parameters() if not parameter.requires_grad]
    assert sum(parameter.numel() for parameter in frozen) == base.num_parameters()
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}, "no float32 copy of what does not move"
    before = [parameter.clone() for parameter in frozen]
    Updater(scorer, optimizer, ALONE, settings).step(Batch(0, pairs), 1e-2)
    assert all(torch.equal(parameter, old) for parameter, old in zip(frozen, before, strict=True))
    assert all(parameter.grad is None for parameter in frozen)
    moved = {name.rpartition(".lora_B")[0] for name, weight in optimizer.weights.items() if "lora_B" in name}
    assert len(moved) == 14 and all(optimizer.weights[f"{name}.lora_B.default.weight"].any() for name in moved)


def test_training_starts_from_the_reference(tiny_llama, pairs):
    row = updater_of(tiny_llama, **{"train.dtype": "float32"}).step(Batch(0, pairs), 1e-2)
    assert row["mean_abs_log_ratio"] == pytest.approx(0, abs=1e-4)


def test_the_first_values_follow_from_the_seed(tiny_llama):
    def first(seed):
        model = load_policy(tiny_llama, "float32")
        adapters.adapt(model, configure(tiny_llama).train.lora, torch.float32, seed)
        return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("load", [load_adapted, load_merged])
def test_what_is_saved_is_what_was_trained(tmp_path, tiny_llama, pairs, load):
    updater = updater_of(tiny_llama, **{"train.dtype": "float32"})
    for step in range(4):
        updater.step(Batch(step, pairs), 1e-2)
    weights = {name.removeprefix("model."): weight for name, weight in updater.optimizer.weights.items()}
    base = Base(uri=str(tiny_llama), sha256=model_digest(tiny_llama))
    adapters.save_adapter(updater.scorer.model, base, tmp_path, weights)
    saved = ResponseLogprobs(load(Policy(tiny_llama, str(tiny_llama), tmp_path), "float32", attention.NAME))
    before = ResponseLogprobs(load_policy(tiny_llama, "float32", attention.NAME))
    groups = [group_of(pair) for pair in pairs]
    with torch.no_grad():
        ours, theirs, old = (
            torch.cat([values for responses in scorer.of(groups) for values in responses])
            for scorer in (updater.scorer, saved, before)
        )
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert float((ours - old).abs().mean()) > 0.1


@pytest.mark.parametrize("targets", [["all-linear"], "down_proj", ["q_proj", "v_proj"]])
def test_a_training_gives_an_adapter_of_the_base(tmp_path, tiny_llama, table, targets):
    changes = {"train.epochs": 10, "train.schedule_epochs": 10, "train.eta": 10, "train.lora.target_modules": targets}
    config = configure(tmp_path / "run", **changes)
    uri, manifest = train(config, 1, str(tiny_llama), [table], {})
    folder = open_store(config.output_uri).fetch(lineage_of(config).model_key(1))
    losses = [json.loads(row)["loss"] for row in (folder / keys.TRAINING_LOG_FILE).read_text().splitlines()]
    assert min(losses[-2:]) < 0.5 * losses[0]
    check_safe(folder, str(folder))
    assert {file.path for file in manifest.files} == {
        ADAPTER_CONFIG, BASE_FILE, WEIGHTS, keys.TRAINING_LOG_FILE, keys.DISTRIBUTION_FILE
    }  # fmt: skip
    policy = fetch_policy(uri)
    assert policy == (tiny_llama, str(tiny_llama), folder) and policy.rank == RANK
    merged, base = load_merged(policy, "float32"), load_policy(tiny_llama, "float32")
    wanted = {targets} if isinstance(targets, str) else LAYERS if targets == ["all-linear"] else set(targets)
    for name, weight in merged.state_dict().items():
        change = weight - base.state_dict()[name]
        if name.split(".")[-2] in wanted:
            sizes = torch.linalg.svdvals(change)
            assert sizes[0] > 1e-3 and sizes[RANK] < 1e-3 * sizes[0], "the rank of an adapter"
        else:
            assert not change.any(), name
    theirs = peft.PeftModel.from_pretrained(load_policy(tiny_llama, "float32"), folder)
    torch.testing.assert_close(logits(theirs), logits(merged), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(merged), logits(base), atol=0.1)


@pytest.mark.parametrize(
    "changes",
    [{}, {"train.lora.dropout": 0.3}, {"train.gradient_checkpointing": True, "train.dtype": "float32"}],
    ids=["plain", "dropout", "gradient checkpointing"],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path, tiny_llama, table, monkeypatch, changes):
    changes = {"train.epochs": 2, "train.schedule_epochs": 2, **changes}
    _, whole = train(configure(tmp_path / "whole", **changes), 1, str(tiny_llama), [table], {})
    config = configure(tmp_path / "cut", **changes)
    step = Updater.step

    def failing(updater, batch, rate):
        if batch.step == 2:
            raise KeyboardInterrupt
        return step(updater, batch, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(config, 1, str(tiny_llama), [table], {})
    checkpoint = tmp_path / "cut" / lineage_of(config).checkpoints_key(1) / "step-000002"
    names = {name for path in checkpoint.glob("*.safetensors") for name in load_file(path)}
    assert len(names) == 2 * 2 * 14 and all(".lora_" in name for name in names), "adapters and their state only"
    _, resumed = train(config, 1, str(tiny_llama), [table], {})
    assert resumed.digest() == whole.digest(), "weights, adapters and log, bit for bit"


def test_gradient_checkpointing_changes_no_result(tiny_llama, pairs):
    weights = []
    for switch in (False, True):
        updater = updater_of(tiny_llama, **{"train.dtype": "float32", "train.gradient_checkpointing": switch})
        updater.scorer.train()
        updater.step(Batch(0, pairs), 1e-3)
        assert updater.scorer.model.is_gradient_checkpointing is switch
        weights.append(updater.optimizer.weights)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)


TRAIN = """
import multiprocessing, os, socket, sys
from pathlib import Path
import peft, torch.distributed.checkpoint.state_dict, transformers.models.llama.modeling_llama
from sppo.config.run import read_config
from sppo.training.train import train

def work(rank, port, iteration, uri):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(place)
    train(read_config(Path(sys.argv[1])), iteration, uri, [Path(sys.argv[2])], {})

for iteration, uri in enumerate(sys.argv[3:], start=1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(rank, port, iteration, uri)) for rank in "01"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(f"iteration {iteration}: {[process.exitcode for process in processes]}")
"""
"""Every iteration has two workers, forked from a process that has imported everything."""


def test_two_workers_give_what_one_gives_and_go_on_from_it(tmp_path, tiny_llama, table):
    alone, both = (
        configure(tmp_path / name, **{"train.dtype": "float32", "train.learning_rate": 1e-3}) for name in ("1", "2")
    )
    (tmp_path / "config.json").write_text(both.model_dump_json())
    uris = [str(tiny_llama)]
    for iteration in (1, 2):
        uris.append(train(alone, iteration, uris[-1], [table], {})[0])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "config.json"), str(table), *uris[:2]]
    subprocess.run(command, check=True, env={**environment, "OMP_NUM_THREADS": "1"})
    for iteration in (1, 2):
        runs = [lineage_of(config) for config in (alone, both)]
        one, two = (load_file(run.store.fetch(run.model_key(iteration)) / WEIGHTS) for run in runs)
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)
        slopes = [run.store.manifest(run.model_key(iteration)).figures["train/export_slope"] for run in runs]
        assert slopes == pytest.approx([1, 1], abs=0.05)


def test_iterations_go_on_training_one_adapter_and_publishing_merges_it(tmp_path, tiny_llama, table, s3, play_run):
    config = configure(s3.uri)
    uri, first = train(config, 1, str(tiny_llama), [table], {})
    second_uri, second = train(config, 2, uri, [table], {})
    assert second.inputs["reference"] == fetch_policy(uri).digest() == first.digest()
    two = fetch_policy(second_uri)
    one, base = load_merged(fetch_policy(uri), "float32"), load_policy(tiny_llama, "float32").state_dict()
    for name, weight in load_merged(two, "float32").state_dict().items():
        if name.split(".")[-2] in LAYERS:
            sizes = torch.linalg.svdvals(weight - base[name])
            assert not torch.equal(weight, one.state_dict()[name]) and sizes[RANK] < 1e-3 * sizes[0]
    run = play_run(model=two.adapter)
    publish(run.config)
    published = run.store.fetch(lineage_of(run.config).published_key)
    weights = load_policy(published, "float32").state_dict()
    for name, weight in load_merged(two, run.config.publish.dtype).state_dict().items():
        assert torch.equal(weights[name], weight.float())
    assert not list(published.rglob("adapter*")), "they are of use beside their own base only"


def test_dropout_changes_nothing_that_is_held_against_the_reference(tmp_path, tiny_llama, table):
    """The second iteration's: its adapters are not 0, so that dropout would show."""
    plain, dropping = configure(tmp_path), configure(tmp_path, **{"train.lora.dropout": 0.5})
    uri, _ = train(plain, 1, str(tiny_llama), [table], {})
    figures = [train(config, 2, uri, [table], {})[1].figures for config in (plain, dropping)]
    audits = [{name: value for name, value in each.items() if "reference" in name} for each in figures]
    assert audits[0] and audits[0] == audits[1]


def test_an_adapter_whose_base_changed_is_refused(tmp_path, tiny_llama, table):
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    uri, _ = train(configure(tmp_path / "run"), 1, str(base), [table], {})
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "rope_theta": 5000.0}))
    with pytest.raises(ConfigError, match=f"is an adapter of {base}, which changed since"):
        fetch_policy(uri)


def test_another_adapter_than_the_one_asked_for_is_refused(tmp_path, tiny_llama, table):
    uri, _ = train(configure(tmp_path / "run"), 1, str(tiny_llama), [table], {})
    other = configure(tmp_path / "other", **{"train.lora.rank": RANK + 1})
    with pytest.raises(ConfigError, match=r"holds other adapters than train\.lora asks for"):
        train(other, 2, uri, [table], {})


def test_an_adapter_is_no_base_model(tmp_path, tiny_llama, table):
    uri, _ = train(configure(tmp_path / "run"), 1, str(tiny_llama), [table], {})
    with pytest.raises(ConfigError, match="holds an adapter alone; give a whole model"):
        causal_lm_config(fetch_model(uri), uri)


def test_a_rank_that_vllm_does_not_know_is_refused():
    from vllm.config.lora import MaxLoRARanks  # an import of ten seconds

    assert max(get_args(MaxLoRARanks)) == LARGEST_RANK
    with pytest.raises(ConfigError, match=r"vLLM takes adapters of rank 512 at most, not 513; lower it, or set"):
        resolve({"train.lora.rank": 513})
    assert resolve({"train.lora.rank": 513, "generate.engine": "transformers"}).train.lora.rank == 513


def test_adapters_are_the_same_whatever_order_python_gives_to_sets(tmp_path, tiny_llama, table):
    config = configure(tmp_path / "run")
    train(config, 1, str(tiny_llama), [table], {})
    settings = json.loads((tmp_path / "run" / lineage_of(config).model_key(1) / ADAPTER_CONFIG).read_text())
    assert settings["target_modules"] == sorted(LAYERS)
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (RANK, 16, "LORA")


@pytest.mark.parametrize("wrong", [["q_porj", "v_proj"], ["q_porj"], ["lm_head", "q_porj"]])
def test_a_layer_that_does_not_exist_is_told_with_those_that_do(tmp_path, tiny_llama, table, wrong):
    config = configure(tmp_path / "run", **{"train.lora.target_modules": wrong})
    missing = ", ".join(sorted(set(wrong) - LAYERS))
    with pytest.raises(ConfigError) as caught:
        train(config, 1, str(tiny_llama), [table], {})
    assert str(caught.value) == (
        f"train.lora.target_modules: LlamaForCausalLM has no linear layer named {missing}; it has "
        "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_adapters_are_part_of_what_decides_a_run():
    assert resolve({}).train.lora.rank == 0
    assert len({resolve(values).digest() for values in ({}, {"train.lora.rank": 4}, {"train.lora.rank": 8})}) == 3


def test_values_of_adapters_without_adapters_are_refused():
    with pytest.raises(ConfigError, match=r"train\.lora: alpha, dropout needs a rank of at least 1"):
        resolve({"train.lora": {"alpha": 32, "dropout": 0.1}})
