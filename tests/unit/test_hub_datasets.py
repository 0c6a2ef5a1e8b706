"""Data sets of a hub as prompts, read by the library datasets over HTTP."""

import re
import threading

import datasets
import pytest
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.utils import _http

from sppo.config.sections.prepare import PrepareConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.preparing.datasets import count_rows
from sppo.preparing.prompts import Row, read_prompts
from tests.unit.hub import Hub

CONFIGURATIONS = (
    "---\nconfigs:\n- {config_name: easy, data_files: a.jsonl}\n- {config_name: hard, data_files: b.jsonl}\n---\n"
)
COUNTED = "---\ndataset_info: {splits: [{name: train, num_examples: 19766, num_bytes: 1}]}\n---\n"
SETS = {
    "org/counted": {"README.md": COUNTED, "train.jsonl": '{"prompt": "a"}\n'},
    "org/plain": {"train.jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n', "test.jsonl": '{"prompt": "c"}\n'},
    "org/many": {"README.md": CONFIGURATIONS, "a.jsonl": '{"prompt": "e"}\n', "b.jsonl": '{"prompt": "h"}\n'},
    "org/cut": {"train.jsonl": '{"prompt": \n'},
    "org/columns": {"train-1.jsonl": '{"prompt": "a"}\n', "train-2.jsonl": '{"question": "b"}\n'},
    "org/no-parquet": {"train.parquet": "no"},
    "org/no-data": {"notes.bin": "no"},
    "org/script": {"script.py": "raise SystemExit"},
    "org/card": {"README.md": "---\n: [\n---\n", "train.jsonl": '{"prompt": "a"}\n'},
}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, files in SETS.items():
        folder = tmp_path_factory.mktemp("set")
        for path, content in files.items():
            (folder / path).write_text(content)
        server.push(name, folder)
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def hub(pushed, tmp_path, monkeypatch):
    """What HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE set where the libraries are imported afterwards."""
    for place, name, value in [
        (constants, "ENDPOINT", pushed.url),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", pushed.url + "/{repo_id}/resolve/{revision}/{filename}"),
        (constants, "HF_HUB_CACHE", str(tmp_path / "hub")),
        (constants, "HF_HUB_OFFLINE", False),
        (datasets.config, "HF_ENDPOINT", pushed.url),
        (datasets.config, "HF_HUB_OFFLINE", False),
        (datasets.config, "HUB_DATASETS_URL", pushed.url + "/datasets/{repo_id}/resolve/{revision}/{path}"),
        (datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets"),
        (pushed, "status", 0),
        (_http.time, "sleep", lambda seconds: None),
    ]:
        monkeypatch.setattr(place, name, value)
    HfFileSystem.clear_instance_cache()
    return pushed


@pytest.mark.parametrize(
    ("uri", "split", "prompts"),
    [
        ("hf://org/plain", "", ["a", "b"]),
        ("hf://org/plain", "test", ["c"]),
        ("hf://org/plain:/test", "", ["c"]),
        ("hf://org/plain:/test", "test", ["c"]),
        ("hf://org/plain:default/test@main", "", ["c"]),
        ("hf://org/plain:/train[1:]", "", ["b"]),
        ("hf://org/many:hard", "", ["h"]),
        ("hf://org/many:easy/train", "", ["e"]),
    ],
)
def test_a_uri_names_configuration_split_and_revision(hub, uri, split, prompts):
    assert [row.text for row in read_prompts(uri, PrepareConfig(split=split))] == prompts


def test_a_folder_of_the_same_name_is_not_taken_for_the_data_set(hub, tmp_path, monkeypatch):
    (tmp_path / "org" / "plain").mkdir(parents=True)
    (tmp_path / "org" / "plain" / "train.jsonl").write_text('{"prompt": "another"}\n')
    monkeypatch.chdir(tmp_path)
    assert read_prompts("hf://org/plain", PrepareConfig()) == [Row("a"), Row("b")]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "hf://org/many",
            "available configs: ['easy', 'hard']; a data set is written hf://org/name:config/split@revision",
        ),
        ("hf://org/many:soft", "BuilderConfig 'soft' not found. Available: ['easy', 'hard']"),
        ("hf://org/many:hard/test", """Unknown split "test". Should be one of ['train']"""),
        ("hf://org/cut", "a file of it cannot be read (JSON parse error"),
        ("hf://org/columns", "a file of it cannot be read (Couldn't cast"),
        ("hf://org/no-parquet", "Parquet file size is 2 bytes"),
        ("hf://org/no-data", "No (supported) data files found"),
        ("hf://org/script", "Dataset scripts are no longer supported"),
        ("hf://org/card", "its README.md does not begin with YAML"),
        ("hf://org/none", "Dataset 'org/none' doesn't exist on the Hub"),
        ("hf://org/plain@none", "Revision 'none' doesn't exist"),
        ("hf://org/na me", "Repo id must use alphanumeric chars"),
        ("hf://json", "names no organisation; write hf://org/name"),
        ("hf://datasets/org/plain", "write hf://org/plain"),
        ("https://huggingface.co/datasets/org/plain/viewer/easy/test", "write hf://org/plain:easy/test"),
        ("hf://https://hf.co/datasets/org/plain/tree/v2", "write hf://org/plain@v2"),
    ],
)
def test_what_cannot_be_read_is_one_line(hub, uri, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_prompts(uri, PrepareConfig())
    assert uri in str(caught.value) and "\n" not in str(caught.value)


def test_two_splits_are_refused(hub):
    with pytest.raises(ConfigError, match=r"prepare.split: 'train', but prompts is hf://org/plain:/test"):
        read_prompts("hf://org/plain:/test", PrepareConfig(split="train"))


def test_a_busy_hub_is_no_mistake_of_the_user(hub, monkeypatch):
    monkeypatch.setattr(hub, "status", 503)
    with pytest.raises(
        InfrastructureError, match="hf://org/plain: not in the local cache and the hub cannot be reached"
    ):
        read_prompts("hf://org/plain", PrepareConfig())


def test_a_set_says_on_its_card_how_many_rows_it_has(hub):
    assert count_rows("hf://org/counted", "") == 19766
    for uri, split in (("hf://org/plain", ""), ("hf://org/counted", "test")):
        with pytest.raises(ConfigError, match=f"{uri}: its card does not say how many rows {split or 'train'} has"):
            count_rows(uri, split)
