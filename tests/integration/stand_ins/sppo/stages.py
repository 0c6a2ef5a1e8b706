"""The functions that the components call, with the signatures of `sppo.stages`."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple


class Form(NamedTuple):
    fields: Any
    config: Any


class Limits(NamedTuple):
    max_iterations: int
    several_nodes: bool
    shard_iterations: int | None


PLAN = json.loads(os.environ["STAND_IN_PLAN"])


def _called(*what):
    with open(os.environ["STAND_IN_TRACE"], "a") as trace:
        trace.write(json.dumps(what) + "\n")
    if what[0] == PLAN.get("fails"):
        _fail(*what)


def _fail(stage, iteration, shard=0, *_):
    if "exits" not in PLAN:
        raise RuntimeError(f"{stage} was to fail")
    code, error = PLAN["exits"]
    if shard:
        time.sleep(1)
        code, error = 1, "the other shard fails later"
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code)


def _leave(path, text=""):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def prepare(form, gpus, nodes, limits, config_path, prompts_path):
    _called("prepare", limits.max_iterations)
    _leave(config_path)
    _leave(prompts_path)
    return SimpleNamespace(
        shards=list(range(PLAN["shards"])), base_uri="pi_1", benchmarks=PLAN.get("benchmarks", False)
    )


def generate(config_path, iteration, shard, shards, model_uri, prompts_path, responses_path):
    _called("generate", iteration, shard, shards, model_uri)
    _leave(responses_path, f"responses {iteration}/{shard}")


def rank(config_path, iteration, shard, shards, responses_path, preferences_path, pairs_path):
    _called("rank", iteration, shard, shards, Path(responses_path).read_text())
    _leave(preferences_path)
    _leave(pairs_path, f"pairs {iteration}/{shard}")
    return {}


def train(config_path, iteration, model_uri, prompts_path, pairs_paths):
    _called("train", iteration, model_uri, sorted(Path(path).read_text() for path in pairs_paths))
    return SimpleNamespace(model_uri=f"pi_{iteration + 1}", figures={})


def Pods(**given):
    return SimpleNamespace(**given)


def launch(config_path, iteration, model_uri, prompts_path, pairs_paths, pods):
    _called("launch", iteration, vars(pods))
    return train(config_path, iteration, model_uri, prompts_path, pairs_paths)


def evaluate(config_path, iteration, model_uri, previous_uri, prompts_path, html_path, markdown_path):
    decision = PLAN["decisions"][iteration - 1]
    _called("evaluate", iteration, model_uri, previous_uri)
    _leave(html_path)
    _leave(markdown_path)
    kept = previous_uri if decision == "keep-previous" else model_uri
    return SimpleNamespace(decision=decision, policy_uri=kept, figures={})


def publish(config_path, html_path, markdown_path):
    _called("publish")
    _leave(html_path)
    _leave(markdown_path)
    return SimpleNamespace(model_uri="published", passed=PLAN.get("passed", True), figures={})


def bench(config_path, model_uri, markdown_path):
    _called("bench", model_uri)
    _leave(markdown_path)
    return {}


def finish(output_uri, state):
    _called("finish", state)
