"""What unit and integration tests share: a chat model small enough to train in milliseconds, and files of prompts."""

import inspect
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings
from werkzeug.wsgi import get_input_stream

from sppo.process.surroundings import wait_briefly

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it: no test may depend on the network
wait_briefly()

settings.register_profile("sppo", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("sppo")


def _stack(context: int = 1) -> list[inspect.FrameInfo]:
    """The frames above, without their files' text."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found


# kfp asks for the whole stack to tell a caller's name, a hundred times a package. Under pytest some frames have no
# file, and for each of them `inspect` looks through all modules: ten seconds a package in place of one.
inspect.stack = _stack


@pytest.fixture(scope="session", autouse=True)
def _judgements_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Judgements that an earlier session left in the cache would hide what this one breaks; models are only read."""
    from sppo.store.local_cache import cache_folder

    models, folder = cache_folder() / "models", tmp_path_factory.mktemp("cache")
    models.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(models)
    before = os.environ.get("SPPO_CACHE")
    os.environ["SPPO_CACHE"] = str(folder)
    yield
    del os.environ["SPPO_CACHE"]
    if before is not None:
        os.environ["SPPO_CACHE"] = before


NO_OTHERS: dict[str, list[Any]] = {"other_indices": [], "p_others": [], "other_ids": [], "other_logprobs": []}
"""What `tables.PAIRS` holds beside a pair of which only the two responses are trained on."""
COUNTED = (
    "seconds", "judge/asked", "judge/cached", "squared_margin", "entries", "duplicates", "responses", "cycles",
    "triads", "different", "orders_agree", "bias", "decided", "longer", "pairs", "prompts", "p_chosen", "p_rejected",
    "chosen_tokens", "rejected_tokens", *(f"p_bin_{index:02}" for index in range(20)),
)  # fmt: skip
"""What rank counts in a shard."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 40 thousand weights, and a tokenizer of single bytes with a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _byte_tokenizer():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def adapter_of() -> Callable[..., Path]:
    """Writes a random adapter of a model and gives its folder."""

    def write(folder: Path, target: Path, rank: int = 2, size: float = 0.1) -> Path:
        import torch

        from sppo.config.sections.train import LoraConfig
        from sppo.models.adapters import adapt, save_adapter
        from sppo.models.fetch import Base, model_digest
        from sppo.models.policy import load_policy

        model = load_policy(folder, "float32")
        adapt(model, LoraConfig(rank=rank), torch.float32, seed=0)
        generator = torch.Generator().manual_seed(0)
        weights = {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora_" in name}
        for name, weight in weights.items():
            if ".lora_B." in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
        target.mkdir()
        save_adapter(model, Base(uri=str(folder), sha256=model_digest(folder)), target, weights)
        return target

    return write


def documents(text: str | bytes) -> list[Any]:
    """The documents of a YAML file; a compiled package takes seconds without libyaml."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@pytest.fixture
def write_prompts(tmp_path: Path) -> Callable[..., Path]:
    """Writes prompts as a .jsonl file and gives its path."""

    def write(prompts: list[str], column: str = "prompt") -> Path:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({column: prompt}) + "\n" for prompt in prompts))
        return path

    return write


class FaultyS3:
    """moto's S3 behind HTTP, with failures on demand."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self.application = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()  # a conditional write of moto checks, then writes; S3 does both at once
        self.uri = ""
        self.requests: list[str] = []
        self.ranges: list[tuple[str, str]] = []
        self.faults: list[dict[str, Any]] = []
        self.conditional = True
        """Whether `If-None-Match` is heeded, as older servers and some gateways do not."""

    def fail(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        status: int = 503,
        code: str = "SlowDown",
        times: int = 1,
        late: bool = False,
    ):
        """Answer the next requests with this in their path and query with an error; `late` ones take effect, though."""
        self.faults.append(
            {"method": method, "path": path, "query": query, "status": status, "code": code, "times": times,
             "late": late}
        )  # fmt: skip

    def _fault(self, environ: dict[str, Any]) -> dict[str, Any] | None:
        for fault in self.faults:
            asked = fault["path"] in environ["PATH_INFO"] and fault["query"] in environ.get("QUERY_STRING", "")
            if fault["times"] and asked and fault["method"] == environ["REQUEST_METHOD"]:
                return fault
        return None

    def keys(self) -> list[str]:
        """Every object of the bucket."""
        import boto3

        bucket = self.uri.removeprefix("s3://").partition("/")[0]
        return [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        if not self.conditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if method == "GET":
            self.ranges.append((path, environ.get("HTTP_RANGE", "")))
        fault = self._fault(environ)
        with self.lock:
            if fault is None or fault["late"]:
                answer = list(self.application(environ, start_response if fault is None else lambda *_: None))
            if fault is None:
                return answer
        if not fault["late"]:
            get_input_stream(environ).read()
        fault["times"] -= 1
        start_response(f"{fault['status']} Failed", [("Content-Type", "application/xml"), ("Connection", "close")])
        return [f"<Error><Code>{fault['code']}</Code><Message>injected</Message></Error>".encode()]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[FaultyS3, str]]:
    """A server of S3 for the whole session, and its address."""
    from moto.server import MotoRequestHandler
    from werkzeug.serving import make_server

    faulty = FaultyS3()
    server = make_server("127.0.0.1", 0, faulty, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield faulty, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def s3(s3_server: tuple[FaultyS3, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    """A place in an empty bucket (`.uri`), found through the environment as on a cluster, and an empty cache."""
    faulty, address = s3_server
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SPPO_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which keeps the credentials that it first saw

    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    faulty.faults.clear()
    faulty.conditional = True
    faulty.uri = f"s3://{bucket}/some/run"
    return faulty


def lineage_of(run: Any) -> Any:
    """The stages of a run: of a configuration, or of the last one that was started in a place.

    Args:
        run: a configuration, or a folder or `s3://…`.
    """
    from sppo.config.run import RunConfig
    from sppo.preparing.recorded import recorded_config
    from sppo.store.lineage import Lineage
    from sppo.store.opening import open_store

    config = run if isinstance(run, RunConfig) else recorded_config(str(run))
    return Lineage(config, open_store(config.output_uri))


def prepare(config: Any) -> Path:
    """What `sppo.stages` does before a run's first stage; gives the folder with its prompts."""
    from sppo.stages import named, prepared

    _, folder = prepared(named(config))
    return folder
