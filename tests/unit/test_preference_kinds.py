"""What every kind of preference model has to keep: its digest, and the properties of `kind_properties`."""

import hashlib
import json

import pytest

from sppo.config.sections.judge import JudgeConfig
from sppo.judging.load import judge_digest

from .pairrm_checkpoints import write_checkpoint

RULES = b"def score(prompt, response):\n    return float(len(response))\n"
INSTRUCTIONS = b'{"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n'
EMPTY_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # safetensors without a tensor
MEMBERS = ({"model": "rules:pinned_rules:score", "weight": 3}, {"model": "openai:m@https://h/v1", "temperature": 0.5})


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """A folder with one file of every kind, whose bytes never change."""
    (tmp_path / "pinned_rules.py").write_bytes(RULES)
    (tmp_path / "instructions.jsonl").write_bytes(INSTRUCTIONS)
    for name, config in {
        "encoder": {"model_type": "sppo-pairwise-encoder"},
        "reward": {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
        "chat": {"model_type": "llama"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("uri", "digest"),
    {
        "package:sppo": "767059a638321307ceb35c36e8ad73335381f66cdbc7ce06db9e7e33c5f0b392",
        "encoder": "4acca6f5158e70f55797b861529128369d4cad60c9a74b8dd784687e15135a59",
        "reward": "4239e60b5fea104a12e4208d5433add6ff71489646f446ef1349f15de5d631bb",
        "openai:m@https://h/v1": "5c8daf771f45ee9e7c7db276d17865947b349d32d275f030a62a228ddc5f77e0",
        "vllm:chat": "5452aab8e2e36b03024027bc337babcae55ef54f84af833539136b6ca6e18444",
        "transformers:chat": "811cab4518b7109492792db5c82c9f1265f78cd63c4156bebefaff2da13c5743",
        "rules:pinned_rules:score": "8389dee9422cfb6a10c294315807c766cc674aac690616535e19d5693e35ad76",
        "instructions:instructions.jsonl": "8fdddbbc689ff91f8ee202080d8881183d188c1b63f6f353834cebe2195b6695",
        "mixture": "0c38e199575b530636f5c4a44bb8949913da19f0b9db1e656fd66f8d2b95cc16",
    }.items(),
)
def test_the_digest_of_a_kind_never_changes(pinned, uri, digest):
    """Otherwise runs that began with a judge refuse to go on with it, and its judgements are asked for again."""
    assert judge_digest(uri, JudgeConfig(mixture=MEMBERS)) == digest


def test_the_digest_of_pairrm_never_changes(tmp_path):
    """The backbone's configuration, which is part of it, names the version of transformers: no constant holds."""
    from transformers import AutoConfig

    folder = write_checkpoint(tmp_path / "PairRM", "llm-blender")
    names = sorted(path for path in folder.iterdir() if path.suffix != ".md")
    listed = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in names)
    weights = hashlib.sha256(listed.encode()).hexdigest()
    backbone = AutoConfig.from_pretrained(f"{folder}-backbone").to_json_string()
    assert judge_digest(str(folder), JudgeConfig()) == hashlib.sha256(f"{weights} {backbone}".encode()).hexdigest()
