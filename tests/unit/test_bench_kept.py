"""What benchmarks paid a judge for outlives a kill, whenever that comes."""

from pathlib import Path

import pandas
import pytest

from sppo.bench import alpaca_eval, mt_bench
from sppo.config.sections.judge import LlmJudgeConfig
from sppo.judging.llm.endpoint import Endpoint

from .test_bench import config_for, judge, run  # noqa: F401 - fixtures


def test_verdicts_of_alpaca_eval_outlive_a_kill_while_they_are_written(config_for, judge, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(alpaca_eval, "_CHUNK", 1)
    written, write = [], pandas.DataFrame.to_json

    def killed_at_the_third(frame, path, **options):
        written.append(path)
        if len(written) == 3:
            Path(path).write_text('[\n  {"instr')
            raise SystemExit(137)
        write(frame, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pandas.DataFrame, "to_json", killed_at_the_third)
        with pytest.raises(SystemExit):
            run(config_for("alpaca_eval"))
    assert len(judge.bodies) == 3
    assert run(config_for("alpaca_eval"))["alpaca_eval"].figures["win_rate"] > 0
    assert len(judge.bodies) == 6, "the third verdict, which was not kept, and two new ones"


def test_a_judgement_that_a_kill_cut_off_costs_one_request_and_no_more(judge, tmp_path):  # noqa: F811
    endpoint = Endpoint(judge.uri, LlmJudgeConfig(requests_per_second=10000))
    asked = [{"messages": [{"role": "user", "content": f"Rate {i}."}], "max_tokens": 8} for i in range(3)]
    replies = mt_bench._grade(endpoint, asked, tmp_path)
    kept = tmp_path / mt_bench.JUDGMENTS_FILE
    kept.write_bytes(kept.read_bytes()[:-10])
    before = len(judge.bodies)
    for _ in range(3):
        assert mt_bench._grade(endpoint, asked, tmp_path) == replies
    assert len(judge.bodies) == before + 1
