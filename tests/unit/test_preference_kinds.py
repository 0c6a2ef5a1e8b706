"""What every kind of preference model has to keep: its digest, and the properties of `kind_properties`."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import sppo.judging.kinds
from sppo.config.sections.judge import JudgeConfig, LlmJudgeConfig
from sppo.errors import ConfigError
from sppo.judging import registry
from sppo.judging.load import check_judge, judge_digest, load_judge

from ..judge_server import judge_server
from .kind_properties import PROMPTS, PROPERTIES, loaded
from .pairrm_checkpoints import write_checkpoint
from .real_commands import ROOT
from .reward_models import write_reward_model
from .untrained_encoders import write_encoder

NO_CACHE = JudgeConfig(cache=False)
RULES = b"def score(prompt, response):\n    return float(len(response))\n"
INSTRUCTIONS = b'{"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n'
SECTION = (ROOT / "docs" / "extending.md").read_text().partition("\n## A preference model\n")[2]
EXAMPLE = SECTION.partition("```python\n")[2].partition("```")[0]
EMPTY_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # safetensors without a tensor
MEMBERS = ({"model": "rules:pinned_rules:score", "weight": 3}, {"model": "openai:m@https://h/v1", "temperature": 0.5})


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """A folder with one file of every kind, whose bytes never change."""
    (tmp_path / "pinned_rules.py").write_bytes(RULES)
    (tmp_path / "instructions.jsonl").write_bytes(INSTRUCTIONS)
    for name, config in {
        "encoder": {"model_type": "sppo-pairwise-encoder"},
        "gpm": {"model_type": "sppo-general-preference"},
        "reward": {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
        "chat": {"model_type": "llama"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SPPO_RULES", "pinned_rules")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("uri", "digest"),
    {
        "package:sppo": "701151a6b68fbd6e45aa2ca347227e192bc349b8183df7026bae9f5af2a584b4",
        "package:sppo/second": "4d2a2b4e7e3d9689e46a0298f8b5ad0cdbf111fdf15d9055d7de45fc98b127e8",
        "encoder": "4acca6f5158e70f55797b861529128369d4cad60c9a74b8dd784687e15135a59",
        "gpm": "16247ab5abed35cf3c00d44f39941a118a778b496c983349d3a28db783bd5fe7",
        "reward": "4239e60b5fea104a12e4208d5433add6ff71489646f446ef1349f15de5d631bb",
        "openai:m@https://h/v1": "5c8daf771f45ee9e7c7db276d17865947b349d32d275f030a62a228ddc5f77e0",
        "vllm:chat": "5452aab8e2e36b03024027bc337babcae55ef54f84af833539136b6ca6e18444",
        "transformers:chat": "811cab4518b7109492792db5c82c9f1265f78cd63c4156bebefaff2da13c5743",
        "rules:pinned_rules:score": "8389dee9422cfb6a10c294315807c766cc674aac690616535e19d5693e35ad76",
        "instructions:instructions.jsonl": "8fdddbbc689ff91f8ee202080d8881183d188c1b63f6f353834cebe2195b6695",
        "unbroken": "d1ac5bcee2ac44694c0fd85d57e452ebcc945eeaaf6391da70d5a52720c9df3a",
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For the models of this module; its Python modules can be imported."""
    place = tmp_path_factory.mktemp("trials")
    (place / "trial_rules.py").write_bytes(RULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        patch.delenv("SPPO_JUDGE_KEY", raising=False)
        patch.setenv("SPPO_RULES", "trial_rules:score")
        yield place


@pytest.fixture(scope="module")
def trial_pairrm(folder):
    return str(write_checkpoint(folder / "PairRM", "llm-blender")), NO_CACHE


@pytest.fixture(scope="module")
def trial_general_preference(folder):
    return str(write_encoder(folder / "gpm", "gpm")), NO_CACHE


@pytest.fixture(scope="module")
def trial_reward(folder, tiny_llama):
    return str(write_reward_model(folder / "reward", tiny_llama)), NO_CACHE


@pytest.fixture(scope="module")
def trial_chat_model(folder, tiny_llama):
    """The tiny chat model, with room for a comparison."""
    model = shutil.copytree(tiny_llama, folder / "chat")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return f"transformers:{model}", NO_CACHE


def letters(body):
    """A completion whose log-probabilities of the letters follow from what is asked, in no way that means anything."""
    a = -0.1 - hashlib.sha256(body["messages"][0]["content"].encode()).digest()[0] / 100
    tokens = [{"token": token, "logprob": logprob} for token, logprob in (("A", a), ("B", -1.0))]
    choice = {"message": {"content": "A"}, "logprobs": {"content": [{**tokens[0], "top_logprobs": tokens}]}}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 1}}


@pytest.fixture(scope="module")
def trial_chat_endpoint():
    with judge_server() as server:
        server.answer = letters
        yield server.uri, NO_CACHE.model_copy(update={"llm": LlmJudgeConfig(requests_per_second=1e6)})


@pytest.fixture(scope="module")
def trial_function(folder):
    return "rules:trial_rules:score", NO_CACHE


@pytest.fixture(scope="module")
def trial_instructions(folder):
    ids = ["punctuation:no_comma", "change_case:english_lowercase"]
    rows = [{"prompt": prompt, "instruction_id_list": ids, "kwargs": [{}, {}]} for prompt in PROMPTS]
    (folder / "trial.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"instructions:{folder / 'trial.jsonl'}", NO_CACHE


@pytest.fixture(scope="module")
def trial_mixture(trial_reward, trial_function):
    members = ({"model": trial_reward[0], "temperature": 0.5}, {"model": trial_function[0], "weight": 2})
    return "mixture", JudgeConfig(cache=False, mixture=members)


def file_of(kind):
    return type(kind).__module__.rpartition(".")[2]


@pytest.fixture(scope="module", params=registry.kinds(), ids=file_of)
def subject(request):
    kind = request.param
    if kind.trial_uri is not None:
        return loaded(kind, kind.trial_uri, NO_CACHE)
    try:
        return loaded(kind, *request.getfixturevalue(f"trial_{file_of(kind)}"))
    except pytest.FixtureLookupError:
        pytest.fail(f"{file_of(kind)}: give the kind a trial_uri, or write a fixture trial_{file_of(kind)} here", False)


@pytest.mark.parametrize("keeps", PROPERTIES, ids=lambda keeps: keeps.__name__)
def test_every_kind_keeps_the_properties(subject, keeps):
    keeps(subject)


# Kinds that are added


@pytest.fixture
def kind_of_the_page(new_kinds, tmp_path, monkeypatch):
    """The complete example of docs/extending.md, as a file of the package of kinds."""
    (tmp_path / "shorter.py").write_text(EXAMPLE)
    monkeypatch.setattr(sppo.judging.kinds, "__path__", [*sppo.judging.kinds.__path__, str(tmp_path)])
    return registry.kind_of("shorter:100")


@pytest.mark.parametrize("keeps", PROPERTIES, ids=lambda keeps: keeps.__name__)
def test_the_kind_of_the_page_keeps_them_too(kind_of_the_page, keeps):
    keeps(loaded(kind_of_the_page, kind_of_the_page.trial_uri, NO_CACHE))


def test_the_kind_of_the_page_is_one_short_file_and_prefers_what_is_shorter(kind_of_the_page):
    assert len(EXAMPLE.splitlines()) <= 60
    (matrix,) = load_judge("shorter:10", NO_CACHE).logits(["p"], [["x" * 30, "x" * 10]])
    np.testing.assert_array_equal(matrix, np.array([[0, -2], [2, 0]], np.float32))
    with pytest.raises(ConfigError, match=r"shorter:0: .*shorter:100"):
        check_judge("shorter:0", NO_CACHE)


def test_an_installed_package_can_bring_a_kind(new_kinds, tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text(EXAMPLE)
    (tmp_path / "brought-1.dist-info").mkdir()
    (tmp_path / "brought-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
    (tmp_path / "brought-1.dist-info" / "entry_points.txt").write_text(f"[{registry.GROUP}]\nshorter = brought\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(registry.kind_of("shorter:100")).__module__ == "brought"


def test_a_scheme_is_one_kinds_alone(new_kinds):
    class Second(type(registry.kind_of("mixture"))):
        pass

    with pytest.raises(ValueError, match="Second: another kind has the scheme mixture:"):
        registry.register(Second)


@pytest.mark.parametrize("uri", ["ruels:a:b", "pairrm", "none"])
def test_what_is_not_known_is_answered_with_the_kinds(uri):
    with pytest.raises(ConfigError, match=rf"^{uri}: no such model folder, and no kind .*supported: .*rules:MODULE"):
        registry.kind_of(uri)


def test_a_path_where_nothing_is_is_answered_with_how_a_judge_is_made():
    with pytest.raises(ConfigError, match=r"^/none: no such model folder; `sppo train-preference` makes one"):
        registry.kind_of("/none")


@pytest.mark.parametrize(
    "file", sorted(Path(sppo.judging.kinds.__file__).parent.glob("[a-z]*.py")), ids=lambda f: f.stem
)
def test_every_file_registers_its_kind(file):
    modules = {type(kind).__module__ for kind in registry.kinds()}
    assert f"sppo.judging.kinds.{file.stem}" in modules, f"{file.name}: no kind in it has @register"


@pytest.mark.parametrize("model_type", ["sppo-pairwise-encoder", "sppo-general-preference"])
def test_an_encoder_that_is_not_here_is_told_before_anything_is_played(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "encoder": "package:not-here"}))
    (tmp_path / "adapter.safetensors").write_bytes(save({}))
    told = f"^preference model {tmp_path} needs an encoder, package:not-here: no such package is installed"
    with pytest.raises(ConfigError, match=told):
        check_judge(str(tmp_path), JudgeConfig())
