import hashlib
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.sections.judge import JudgeConfig, LlmJudgeConfig
from sppo.errors import ConfigError, InfrastructureError, SppoError
from sppo.judging.llm.verdict import FLOOR, Reply, letter_of, read_letters
from sppo.judging.load import check_judge, judge_digest, load_judge
from sppo.judging.preference_model import Comparison

SECRET = "sk-very-secret-1234"
FAST = {"requests_per_second": 1e6, "timeout": 60.0, "retries": 2}
ONE = [Comparison("Which?", "good", "bad")]


def top(*tokens):
    return [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in tokens]


def completion(listed):
    content = [{"token": listed[0]["token"], "logprob": listed[0]["logprob"], "top_logprobs": listed}] if listed else []
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A"}, "logprobs": {"content": content}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 1},
    }


def by_text(message):
    """P(A) is high where reply A is 'good', whatever B is."""
    a = "<reply A>\ngood" in message
    return completion(top(("A", -0.1 if a else -3.0), ("B", -3.0 if a else -0.1), (" A", -9.0), ("C", -12.0)))


class ChatServer:
    """An endpoint for chat completions with failures on demand; `answer` makes a completion of the user's message."""

    def __init__(self):
        self.bodies, self.keys, self.headers, self.times, self.faults = [], [], [], [], []
        self.answer, self.busy, self.most = by_text, 0, 0
        self.lock = threading.Lock()

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.times.append(time.monotonic())
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization"))
            self.headers.append(dict(handler.headers))
            self.busy += 1
            self.most = max(self.most, self.busy)
            status, headers, text = self.faults.pop(0) if self.faults else (200, {}, None)
        if text is None:
            time.sleep(0.005)
            text = json.dumps(self.answer(body["messages"][0]["content"]))
        with self.lock:
            self.busy -= 1
        if status == "slow":
            time.sleep(headers["seconds"])
            status, headers = 200, {}
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())


@pytest.fixture
def server():
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            assert self.path == "/v1/chat/completions"
            chat.handle(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    chat.uri = f"openai:org/model@http://127.0.0.1:{http.server_port}/v1"
    yield chat
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def ask(server, monkeypatch):
    """Judges comparisons at the server, with settings of `judge.llm`; no key is set."""
    monkeypatch.delenv("SPPO_JUDGE_KEY", raising=False)

    def judge(comparisons, **llm):
        model = load_judge(server.uri, JudgeConfig(cache=False, llm=LlmJudgeConfig(**{**FAST, **llm})))
        return model, model.compare(comparisons)

    return judge


@pytest.mark.parametrize(
    ("token", "letter"),
    [("A", "A"), (" B", "B"), ("**A", "A"), ("▁B", "B"), ("ĠA", "A"), ("(A)", "A"), ("\nB.", "B")]
    + [(token, None) for token in ("a", "An", "AB", "", " ", "Both", "reply", "С")],  # noqa: RUF001 - Cyrillic
)
def test_tokens_that_say_a_letter(token, letter):
    assert letter_of(token) == letter


LOGPROBS = st.floats(-40, 0)
TOKENS = st.lists(st.tuples(st.sampled_from(["A", " A", "B", "B.", "C", "The"]), LOGPROBS), max_size=6)


@given(TOKENS)
def test_swapping_the_letters_turns_the_logit_round(tokens):
    swapped = [({"A": "B", " A": "B.", "B": "A", "B.": " A"}.get(token, token), value) for token, value in tokens]
    logits = [Reply(*read_letters(each), 0, 0).logit for each in (tokens, swapped)]
    assert logits[0] == pytest.approx(-logits[1])
    assert abs(logits[0]) <= -FLOOR + math.log(6)


@given(TOKENS, LOGPROBS)
def test_a_letter_beyond_the_list_makes_the_logit_no_larger_than_it_is(tokens, less):
    """With the whole distribution known, the logit is no nearer to 0 than with its most likely part."""
    tokens = [(token, value) for token, value in tokens if letter_of(token) != "B"]
    unseen = min([less, *(value for _, value in tokens)])
    listed, whole = (Reply(*read_letters(each), 0, 0).logit for each in (tokens, [*tokens, ("B", unseen)]))
    if any(letter_of(token) == "A" for token, _ in tokens):
        assert listed <= whole + 1e-9
    else:
        assert listed == 0


def test_both_orders_are_asked_and_read_from_the_first_token(server, ask):
    judge, _ = ask([])
    (matrix,) = judge.logits(["Which?"], [["good", "bad", "bad"]])
    expected = np.logaddexp(-0.1, -9.0) + 3.0
    assert matrix[0, 1] == pytest.approx(expected, abs=1e-6)
    assert matrix[1, 0] == pytest.approx(np.logaddexp(-3.0, -9.0) + 0.1, abs=1e-6)
    assert len(server.bodies) == 2
    for body in server.bodies:
        assert body["model"] == "org/model" and body["max_tokens"] == 1
        assert body["logprobs"] is True and body["top_logprobs"] == 20
        assert "Which?" in body["messages"][0]["content"]
    figures = judge.figures()
    assert (figures["requests"], figures["prompt_tokens"], figures["completion_tokens"]) == (2, 200, 2)
    assert figures["letter_mass"] == pytest.approx(2 * (math.exp(-0.1) + math.exp(-3) + math.exp(-9)))


def test_a_reply_with_neither_letter_is_undecided(server, ask):
    replies = [top(("The", -0.1), ("I", -3.0)), []]
    server.answer = lambda message: completion(replies["first" in message])
    judge, logits = ask([Comparison("p", "first", "x"), Comparison("p", "other", "x")])
    assert logits.tolist() == [0, 0]
    assert judge.figures()["undecided"] == 2


def test_refusals_for_now_are_asked_again_when_the_server_wants_it(server, ask):
    server.faults = [(429, {"Retry-After": "1"}, "slow down"), (500, {}, "oops")]
    judge, logits = ask(ONE)
    assert logits[0] > 2
    assert server.times[1] - server.times[0] >= 1
    assert judge.figures()["retries"] == 2 and judge.figures()["requests"] == 3


def test_tries_have_an_end(server, ask):
    server.faults = [(503, {"Retry-After": "0"}, "down\nfor now")] * 9
    with pytest.raises(InfrastructureError, match=r"503 in 3 tries \(down for now\)"):
        ask(ONE)
    assert len(server.bodies) == 3


def test_silence_is_an_infrastructure_error(server, ask):
    server.faults = [("slow", {"seconds": 0.6}, None)] * 3
    with pytest.raises(InfrastructureError, match=r"no answer in 2 tries .*ReadTimeoutError"):
        ask(ONE, timeout=0.2, retries=1)


@pytest.mark.parametrize(
    "text", ["<html>", '{"choices": []}', "[]", '{"choices": [{"logprobs": {"content": [{"top_logprobs": [3]}]}}]}']
)
def test_what_is_no_completion_is_an_infrastructure_error(server, ask, text):
    server.faults = [(200, {}, text)]
    with pytest.raises(InfrastructureError, match=r"not JSON|no chat completion"):
        ask(ONE)


def test_a_server_that_is_not_there_is_an_infrastructure_error():
    model = load_judge("openai:m@http://127.0.0.1:9/v1", JudgeConfig(cache=False, llm=LlmJudgeConfig(retries=0)))
    with pytest.raises(InfrastructureError, match="no answer in 1 tries"):
        model.compare(ONE)


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, f"Incorrect key {SECRET}", "refuses the key; set SPPO_JUDGE_KEY"),
        (404, "no such model", "correct preference_model"),
        (400, f"bad {SECRET}", r"bad \*\*\*"),
        (302, "", "302"),
        (200, '{"choices": [{"logprobs": null}]}', "gives no top_logprobs"),
    ],
)
def test_what_cannot_help_to_repeat_is_a_configuration_error(
    server, ask, monkeypatch, capsys, caplog, status, text, message
):
    monkeypatch.setenv("SPPO_JUDGE_KEY", SECRET)
    model = load_judge(server.uri, JudgeConfig(cache=False, llm=LlmJudgeConfig(**FAST)))
    server.faults = [(status, {"Location": "http://127.0.0.1:9/"}, text)]
    with pytest.raises(ConfigError, match=message) as failed:
        model.compare(ONE)
    assert len(server.bodies) == 1
    assert server.keys == [f"Bearer {SECRET}"]
    said = capsys.readouterr()
    assert SECRET not in f"{failed.value} {model.name} {said.out} {said.err} {caplog.text}"


def test_without_a_key_none_is_sent(server, ask):
    ask(ONE)
    assert server.keys == [None]


def test_what_is_set_for_other_clients_goes_nowhere(server, ask, monkeypatch):
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Secret: {SECRET}")
    ask(ONE)
    (sent,) = server.headers
    assert sent.keys() == {"Host", "Accept-Encoding", "Content-Type", "Content-Length", "User-Agent"}
    assert SECRET not in str(sent)


def test_a_key_that_cannot_be_one_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("SPPO_JUDGE_KEY", "secret\nInjected: header")
    with pytest.raises(ConfigError, match="SPPO_JUDGE_KEY") as failed:
        load_judge(server.uri, JudgeConfig(cache=False))
    assert "Injected" not in str(failed.value)


MANY = [Comparison("Which?", "good", f"bad {number}") for number in range(12)]


def test_no_more_requests_than_allowed(server, ask):
    with pytest.raises(ConfigError, match=r"judge\.llm\.max_requests: 12 more requests would make 12, 11 are allowed"):
        ask(MANY, max_requests=11)
    assert not server.bodies
    judge, _ = ask(MANY[:6], max_requests=11)
    with pytest.raises(ConfigError, match="6 more requests would make 12"):
        judge.compare(MANY[6:])


def test_repetitions_count_as_requests(server, ask):
    server.faults = [(500, {}, "")] * 2
    with pytest.raises(SppoError, match="max_requests"):
        ask(MANY, max_requests=12, concurrency=1)
    assert len(server.bodies) <= 12


def test_no_more_is_spent_than_allowed(server, ask):
    with pytest.raises(ConfigError, match=r"judge\.llm\.max_cost: 0\.20 are spent, 0\.20 are allowed"):
        ask(MANY, concurrency=1, prompt_price=1000.0, max_cost=0.2)
    assert len(server.bodies) == 2
    with pytest.raises(ValueError, match="max_cost needs prompt_price"):
        LlmJudgeConfig(max_cost=1.0)


def test_rate_and_concurrency_are_kept(server, ask):
    ask(MANY, requests_per_second=50.0, concurrency=3)
    assert min(later - earlier for earlier, later in pairwise(sorted(server.times))) > 0.001
    assert max(server.times) - min(server.times) >= 0.9 * 11 / 50
    assert server.most <= 3


def test_what_was_judged_before_a_failure_is_not_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path))
    monkeypatch.delenv("SPPO_JUDGE_KEY", raising=False)
    settings = JudgeConfig(llm=LlmJudgeConfig(**FAST | {"retries": 0, "concurrency": 1}))
    server.answer = lambda message: by_text(message) if "bad 7" not in message else {}
    with pytest.raises(InfrastructureError):
        load_judge(server.uri, settings).compare(MANY)
    server.answer = by_text
    asked = len(server.bodies)
    assert asked >= 8
    raised = settings.model_copy(update={"llm": settings.llm.model_copy(update={"max_requests": 5, "concurrency": 2})})
    again = load_judge(server.uri, raised)
    assert (again.compare(MANY) > 2).all()
    assert len(server.bodies) == asked + again.figures()["asked"] and again.figures()["cached"] >= 7
    assert again.figures()["asked"] <= 5


def test_what_was_paid_for_before_a_process_is_told_to_end_is_not_asked_again(server, tmp_path, monkeypatch):
    """A signal ends a stage by SystemExit, or at once: each reply is on the disk before the next one is looked at."""
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path))
    monkeypatch.delenv("SPPO_JUDGE_KEY", raising=False)
    settings = JudgeConfig(llm=LlmJudgeConfig(**FAST | {"concurrency": 1}))
    judge, replies = load_judge(server.uri, settings), []

    def told_to_end(*reply):
        replies.append(reply)
        if len(replies) == 5:
            raise SystemExit(143)

    monkeypatch.setattr(judge.model, "_note", told_to_end)
    with pytest.raises(SystemExit):
        judge.compare(MANY)
    again = load_judge(server.uri, settings)
    again.compare(MANY)
    assert again.figures()["cached"] == 4


def test_without_a_cache_a_failure_is_told_as_it_is(server, ask):
    judge, _ = ask([], retries=0, concurrency=1)
    server.answer = lambda message: by_text(message) if "bad 7" not in message else {}
    with pytest.raises(InfrastructureError):
        judge.compare(MANY)


def test_the_transcript_tells_every_verdict(server, ask, tmp_path):
    judge, logits = ask([*ONE, Comparison("\ud800 {prompt}", "é", "")])
    judge.save(tmp_path)
    entries = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    assert sorted(entry["logit"] for entry in entries) == pytest.approx(sorted(logits.tolist()))
    (entry,) = (entry for entry in entries if entry["prompt"] == "Which?")
    shown = {hashlib.sha256(body["messages"][0]["content"].encode("utf-8", "surrogatepass")).hexdigest(): body
             for body in server.bodies}  # fmt: skip
    assert {each["message_sha256"] for each in entries} == set(shown)
    assert entry["first"] == "good" and entry["second"] == "bad"
    assert entry["logprobs"]["B"] == -3.0 and entry["prompt_tokens"] == 100


def test_long_texts_are_cut(server, ask):
    ask([Comparison("p" * 500, "a" * 500, "short")], max_characters=100)
    message = server.bodies[0]["messages"][0]["content"]
    assert "p" * 100 + " [cut]" in message and "a" * 101 not in message and "short\n" in message


def test_uris_of_endpoints():
    settings = JudgeConfig()
    check_judge("openai:org/a@b:c@https://host:8000/x/v1", settings)
    for wrong in ("openai:", "openai:m", "openai:m@ftp://h/v1", "openai:@https://h/v1", "openai:m@https://h/v1?k=1"):
        with pytest.raises(ConfigError, match=r"write openai:MODEL@https://HOST/v1"):
            check_judge(wrong, settings)
    with pytest.raises(ConfigError, match="holds a user or password") as failed:
        check_judge(f"openai:m@https://me:{SECRET}@h/v1", settings)
    assert SECRET not in str(failed.value)
    digests = {judge_digest(f"openai:{m}@https://h/v1", settings) for m in ("a", "b")}
    assert len(digests) == 2
