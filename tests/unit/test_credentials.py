"""Each credential goes where the environment says, and never where a run's parameter, or a server's redirect, says.

Every server here is real and keeps the headers that it was sent; `other` is the one that must not be sent a secret.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from huggingface_hub import constants
from mlflow import MlflowClient
from sppo_pipelines.submission.client import Client

from sppo.bench import base as bench
from sppo.config.run import resolve
from sppo.config.sections.judge import JudgeConfig, LlmJudgeConfig
from sppo.errors import ConfigError, SppoError
from sppo.judging.load import check_judge, load_judge
from sppo.judging.preference_model import Comparison
from sppo.models.fetch import fetch_model
from sppo.models.weights import check_weights
from sppo.preparing.prompts import read_prompts
from sppo.store.s3 import S3Store
from tests.unit.hub import Hub

SECRETS = {
    "SPPO_JUDGE_KEY": "judge-5ecret",
    "AWS_ACCESS_KEY_ID": "aws-id-5ecret",
    "AWS_SECRET_ACCESS_KEY": "aws-5ecret",
    "AWS_SESSION_TOKEN": "aws-session-5ecret",
    "HF_TOKEN": "hf_5ecret",
    "MLFLOW_TRACKING_USERNAME": "sppo",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-5ecret",
    "SPPO_KFP_TOKEN": "kfp-5ecret",
    "SPPO_KFP_COOKIE": "session=cookie-5ecret",
}
ONE = [Comparison("Which?", "good", "bad")]


class Server(ThreadingHTTPServer):
    """Keeps what it is asked, and answers 404, or a redirect to the same path at another address."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.url = self.server_port, f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.elsewhere = ""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path}\n{self.headers}")
        self.send_response(307 if self.server.elsewhere else 404)
        if self.server.elsewhere:
            self.send_header("Location", f"{self.server.elsewhere}{self.path}")
            self.send_header("x-amz-bucket-region", "eu-west-1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ours() -> Iterator[Server]:
    """The server that the environment names."""
    with running(Server()) as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    """A server of somebody else's."""
    with running(Server()) as server:
        yield server


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("SPPO_JUDGE_HOSTS", "HTTP_PROXY", "http_proxy", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


# The judge's key


def endpoint(url: str) -> str:
    return f"openai:org/model@{url}/v1"


def judge(uri: str):
    llm = LlmJudgeConfig(retries=0, requests_per_second=1e6)
    return load_judge(uri, JudgeConfig(cache=False, llm=llm))


def test_this_machine_gets_the_judges_key(ours):
    with pytest.raises(ConfigError, match="404"):
        judge(endpoint(ours.url)).compare(ONE)
    assert "Bearer judge-5ecret" in ours.asked[0]


def test_a_host_that_only_a_run_names_gets_nothing(other, monkeypatch):
    """0.0.0.0 is an address that leads to this machine and that nobody may take for it."""
    place = f"0.0.0.0:{other.port}"
    monkeypatch.setenv("SPPO_JUDGE_HOSTS", "judge.example.org")
    told = f"export SPPO_JUDGE_HOSTS=judge.example.org,{place}; on a cluster: the key SPPO_JUDGE_HOSTS of the ConfigMap"
    for ask in (judge, lambda uri: check_judge(uri, JudgeConfig())):
        with pytest.raises(ConfigError, match=f"^preference_model: SPPO_JUDGE_KEY does not go to {place}.*{told}"):
            ask(endpoint(f"http://{place}"))
    monkeypatch.setenv("SPPO_JUDGE_HOSTS", place)
    with pytest.raises(ConfigError, match="SPPO_JUDGE_KEY goes by https only"):
        judge(endpoint(f"http://{place}"))
    assert other.asked == []
    monkeypatch.delenv("SPPO_JUDGE_KEY")
    with pytest.raises(ConfigError, match="404"):
        judge(endpoint(f"http://{place}")).compare(ONE)
    assert "5ecret" not in str(other.asked)


@pytest.mark.parametrize(
    ("hosts", "url", "may"),
    [
        ("judge.example.org", "https://judge.example.org", True),
        ("judge.example.org", "https://JUDGE.example.org:443", True),
        (" other.org , Judge.example.org ", "https://judge.example.org", True),
        ("judge.example.org:8443", "https://judge.example.org:8443", True),
        ("[2001:db8::1]", "https://[2001:db8::1]", True),
        ("", "http://localhost:8000", True),
        ("", "http://127.8.9.1:8000", True),
        ("", "https://[::1]", True),
        ("", "https://api.openai.com", False),
        ("judge.example.org", "https://judge.example.org:8443", False),
        ("judge.example.org:8443", "https://judge.example.org", False),
        ("judge.example.org", "https://judge.example.org.other.org", False),
        ("judge.example.org", "https://sub.judge.example.org", False),
        ("judge.example.org", "https://judge.example.org%2eother.org", False),
        ("judge.example.org", "https://other.org\\@judge.example.org", False),
        ("judge.example.org", "https://judge.example.org\\@other.org", False),
        ("judge.example.org", "http://judge.example.org:443", False),
        ("judge.example.org:80", "http://judge.example.org", False),
        ("", "http://127.0.0.1.other.org", False),
        ("", "http://localhost.other.org", False),
        ("https://judge.example.org", "https://judge.example.org", False),
        ("*", "https://judge.example.org", False),
    ],
)
def test_which_hosts_the_environment_allows(monkeypatch, hosts, url, may):
    monkeypatch.setenv("SPPO_JUDGE_HOSTS", hosts)
    if may:
        check_judge(endpoint(url), JudgeConfig())
    else:
        with pytest.raises(ConfigError) as told:
            check_judge(endpoint(url), JudgeConfig())
        assert "judge-5ecret" not in str(told.value)


def test_a_judge_of_the_benchmarks_is_refused_by_prepare(other):
    """Prepare calls `check`."""
    config = resolve({"bench.judge": endpoint(f"http://0.0.0.0:{other.port}"), "bench.benchmarks": ["alpaca_eval"]})
    with pytest.raises(ConfigError, match=r"^bench\.judge: SPPO_JUDGE_KEY does not go to 0\.0\.0\.0"):
        bench.check(config)
    assert other.asked == []


def test_a_redirect_does_not_carry_the_judges_key(ours, other):
    ours.elsewhere = other.url
    with pytest.raises(ConfigError, match="307"):
        judge(endpoint(ours.url)).compare(ONE)
    assert other.asked == []


def test_a_proxy_is_not_told_the_key_for_this_machine(ours, other, monkeypatch):
    monkeypatch.setenv("http_proxy", other.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ConfigError, match="404"):
        judge(endpoint(ours.url)).compare(ONE)
    assert ours.asked and other.asked == []


# S3


@pytest.mark.parametrize(
    "place", ["127.0.0.1:{port}/x", "{port}@127.0.0.1:{port}/x", "arn:aws:s3:::127.0.0.1:{port}/x"]
)
def test_a_bucket_leads_to_no_other_host(ours, other, monkeypatch, place):
    monkeypatch.setenv("AWS_ENDPOINT_URL", ours.url)
    with pytest.raises(SppoError):
        S3Store(f"s3://{place.format(port=other.port)}").read("key")
    assert other.asked == []


def test_a_redirect_does_not_carry_the_keys_of_s3(ours, other, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", ours.url)
    ours.elsewhere = other.url
    with pytest.raises(SppoError):
        S3Store("s3://bucket/prefix").read("key")
    assert "aws-session-5ecret" in str(ours.asked) and other.asked == []


# Hugging Face


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """What HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE set where the library is imported afterwards."""
    with running(Hub()) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def test_a_redirect_of_the_hub_does_not_carry_its_token(hub, tiny_llama):
    """The hub keeps large files at other hosts."""
    with running(Hub()) as storage:
        assert hub.push("org/tiny", tiny_llama) == storage.push("org/tiny", tiny_llama)
        hub.elsewhere = storage.url
        check_weights("hf://org/tiny", fetch_model("hf://org/tiny", weights=False))
        fetch_model("hf://org/tiny")
        assert "Bearer hf_5ecret" in str(hub.headers)
        assert storage.asked and "5ecret" not in str(storage.headers)


@pytest.mark.parametrize("name", ["http://127.0.0.1:{port}/a/b", "127.0.0.1:{port}/b", "/127.0.0.1:{port}/b", "a/../b"])
@pytest.mark.parametrize("read", [fetch_model, lambda uri: read_prompts(uri, resolve({}).prepare)])
def test_a_repositorys_name_leads_to_no_other_host(hub, other, name, read):
    with pytest.raises((SppoError, ValueError, OSError)):
        read(f"hf://{name.format(port=other.port)}")
    assert other.asked == []


# MLflow and Kubeflow Pipelines


def test_a_redirect_does_not_carry_mlflows_password(ours, other):
    ours.elsewhere = other.url
    with pytest.raises(Exception, match="404"):
        MlflowClient(ours.url).get_run("0" * 32)
    assert "Authorization: Basic" in str(ours.asked)
    assert other.asked and "Authorization" not in str(other.asked)


def test_a_redirect_does_not_carry_the_token_of_kubeflow_pipelines(ours, other):
    ours.elsewhere = other.url
    with pytest.raises(SppoError):
        Client(ours.url).get("runs")
    assert "kfp-5ecret" in str(ours.asked) and "cookie-5ecret" in str(ours.asked) and other.asked == []


# All of them


@pytest.mark.parametrize(
    "key",
    ["base_model", "prompts", "preference_model", "evaluate.second_judge", "evaluate.instructions.prompts",
     "output_uri"],
)  # fmt: skip
def test_an_address_of_the_web_is_no_place_for_what_a_run_reads(
    key, other, run_sppo, tmp_path, tiny_llama, write_prompts, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    form = {
        "output_uri": tmp_path / "run", "base_model": tiny_llama, "prompts": write_prompts([f"{i}?" for i in range(8)]),
        "iterations": 1, "prepare.held_out": 2, "prepare.prompts_per_iteration": 6, "prepare.max_prompt_tokens": 128,
        "generate.max_tokens": 32, "evaluate.max_tokens": 32, "evaluate.instructions.max_tokens": 32,
        key: f"{other.url}/model.jsonl",
    }  # fmt: skip
    ended = run_sppo("prepare", *(f"{name}={value}" for name, value in form.items()))
    assert ended.code == 2 and f"{other.url}/model.jsonl" in ended.err
    assert other.asked == []
