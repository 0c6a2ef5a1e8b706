import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from sppo_components.prepare import prepare

from sppo.store import keys

COMPONENTS = sorted((Path(__file__).parents[2] / "components").glob("*/*/component.py"))


def imported(nodes) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def is_standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.parent.name)
def test_a_component_loads_nothing_heavy_where_it_is_defined(path):
    """Who compiles a pipeline needs kfp and nothing else; the function's body runs in the stage's own image."""
    module = ast.parse(path.read_text())
    outside = {name for name in imported(module.body) if not is_standard(name)}
    assert outside == {"kfp", "sppo_components.images"}
    (function,) = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    inside = {name for name in imported(ast.walk(function)) if not is_standard(name)}
    assert inside <= {"sppo"}
    assert function.name == path.parent.name


@pytest.fixture
def run_prepare(tiny_llama, tmp_path, write_prompts, monkeypatch):
    """Runs the component as a pod does, with the fields of the form that are filled in."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    prompts = write_prompts([f"What is {i} + {i}?" for i in range(30)])

    def run(**fields):
        arguments = {
            "preset": "cpu",
            "base_model": str(tiny_llama),
            "prompts": str(prompts),
            "preference_model": "",
            "output_uri": str(tmp_path / "run"),
            "experiment": "",
            "iterations": 2,
            "shards": 0,
            "generation_gpus": "0",
            "ranking_gpus": "0",
            "training_gpus": "0",
            "training_nodes": 1.0,
            "max_iterations": 3.0,
            "several_nodes": False,
            "shard_iterations": 60.0,
            "run_config": SimpleNamespace(path=str(tmp_path / "out" / "config")),
            "prompt_tables": SimpleNamespace(path=str(tmp_path / "out" / "tables")),
        }
        settings = {
            "prepare.held_out": 6.0,
            "prepare": {"prompts_per_iteration": 0.0, "max_prompt_tokens": 100.0},
            "generate": {"max_tokens": 20.0, "chunk_size": 4.0},
            "evaluate.max_tokens": 20.0,
            "evaluate.instructions.count": 0.0,
            "evaluate.instructions.final": 0.0,
        }
        return prepare.python_func(**{**arguments, "config": settings, **fields}), tmp_path / "out"

    return run


def test_prepare_leaves_the_configuration_and_disjoint_prompts(run_prepare, tiny_llama):
    outputs, folder = run_prepare(shards=9)
    assert outputs.base_uri == str(tiny_llama)
    assert (outputs.shard_count, outputs.benchmarks) == (3, "no")
    assert outputs.shards == [0, 1, 2], "12 prompts an iteration are 3 chunks: more shards would have nothing to do"
    config = json.loads((folder / "config").read_text())
    assert (config["iterations"], config["preference_model"], config["prepare"]["held_out"]) == (2, "mixture", 6)
    tables = [keys.prompts_file(1), keys.prompts_file(2), keys.HELD_OUT_FILE]
    texts = [pq.read_table(folder / "tables" / name).column("prompt").to_pylist() for name in tables]
    assert [len(part) for part in texts] == [12, 12, 6]
    assert len({text for part in texts for text in part}) == 30


def test_prepare_again_gives_the_same(run_prepare, capsys):
    first, _ = run_prepare()
    assert run_prepare()[0] == first
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 4}, "iterations: 4, but this pipeline was compiled for at most 3"),
        ({"shards": 31}, "shards: 31 in 2 iterations do not fit into one workflow of Argo; at most 30 do"),
        ({"training_gpus": "all"}, "training_gpus: 'all' is no whole number; write one, such as 0 or 8"),
        ({"training_nodes": 2.0}, "training_nodes: 2, but this pipeline was compiled to train in one pod"),
        ({"preset": "paper", "config": {"preset": "cpu"}}, "config.preset: 'cpu', but the field preset says 'paper'"),
    ],
)
def test_what_the_form_lets_through_is_refused_by_prepare(run_prepare, capsys, fields, message):
    with pytest.raises(SystemExit) as ended:
        run_prepare(**fields)
    assert ended.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err
