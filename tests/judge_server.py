"""A judge behind HTTP, as an endpoint for chat completions, for the tests of the benchmarks."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def prefers_the_first(body: dict[str, Any]) -> dict[str, Any]:
    """For AlpacaEval the output shown first wins with P = 0.8; for MT-Bench every answer gets 7."""
    if body.get("logprobs"):
        tops = [{"token": "m", "logprob": -0.2231436}, {"token": "M", "logprob": -1.6094379}]
        message, logprobs = "m", {"content": [{**tops[0], "top_logprobs": tops}]}
    else:
        message, logprobs = "It answers the question. Rating: [[7]]", None
    choice = {"index": 0, "message": {"role": "assistant", "content": message}, "logprobs": logprobs}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}


class JudgeServer:
    """What was asked, and how it answers; an answer None is the status 500."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], dict[str, Any] | None] = prefers_the_first
        self.uri = ""


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """A server at a free port of this machine."""
    judge = JudgeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.bodies.append(body)
            answer = judge.answer(body)
            data = json.dumps(answer).encode()
            self.send_response(200 if answer else 500)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    judge.uri = f"openai:org/judge@http://127.0.0.1:{http.server_port}/v1"
    yield judge
    http.shutdown()
    thread.join()
    http.server_close()


def write_mt_bench(folder: Any) -> None:
    """Three questions in FastChat's published form, with judge's prompts of the same fields."""

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    questions = [("writing", "Write a poem."), ("math", "What is 2 + 2?"), ("stem", "What is a cell?")]
    write(
        "mt_bench/question.jsonl",
        [
            {"question_id": 81 + number, "category": category, "turns": [text, "Say it shorter."]}
            for number, (category, text) in enumerate(questions)
        ],
    )
    write(
        "mt_bench/reference_answer/gpt-4.jsonl",
        [{"question_id": 82, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["It is 4.", "4."]}]}],
    )
    both = "Q {question_1} A {answer_1} Q {question_2} A {answer_2}"
    templates = {
        "single-v1": "Grade {question}: {answer}",
        "single-math-v1": "Grade {question}: {answer}, right is {ref_answer_1}",
        "single-v1-multi-turn": both,
        "single-math-v1-multi-turn": both + " right is {ref_answer_1} {ref_answer_2}",
    }
    write(
        "judge_prompts.jsonl",
        [{"name": name, "system_prompt": "Be fair.", "prompt_template": text} for name, text in templates.items()],
    )
