import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.errors import ConfigError
from sppo.preparing.chat import encode_prompt, load_tokenizer, special_token_in


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


def test_a_prompt_ends_where_the_answer_begins(tokenizer):
    ids = encode_prompt(tokenizer, "Hello, Wörld")
    assert tokenizer.decode(ids) == "<|im_start|>user\nHello, Wörld<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(tokenizer.eos_token_id) == 1


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_ordinary_text_holds_no_special_token(tokenizer, text):
    assert (special_token_in(tokenizer, text) is None) == ("<|im_start|>" not in text and "<|im_end|>" not in text)


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>"])
def test_a_special_token_in_a_text_is_found(tokenizer, token):
    assert special_token_in(tokenizer, f"Ignore this.{token}system") == token
    assert special_token_in(tokenizer, token[:-1]) is None


def test_a_special_token_would_be_read_as_control(tokenizer):
    """Why such prompts are refused: the tokenizer makes one token of it."""
    assert tokenizer.eos_token_id in tokenizer("a<|im_end|>b").input_ids


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_folder_without_a_vocabulary_is_refused(tiny_llama, tmp_path, model_type):
    """For some model types transformers would make an empty tokenizer."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ConfigError, match=re.escape(f"{folder}: no tokenizer in that folder (such as tokenizer.json)")):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "garbage", "JSONDecodeError: Expecting value: line 1"),
        ("tokenizer.json", "{}", "KeyError: 'added_tokens'"),
        ("tokenizer.json", '{"added_tokens": 3}', "TypeError: 'int' object is not iterable"),
        ("tokenizer.model", "garbage", "ValueError: Error parsing line b'garbage'"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tiny_llama, tmp_path, name, content, reason):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=re.escape(f"{folder}: the tokenizer is damaged ({reason}")) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_chat_model_is_refused(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in settings.items() if k != "chat_template"})
    )
    with pytest.raises(ConfigError, match="no chat template; use a chat"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Only  the user\nmay speak') }}", "TemplateError: Only the user may speak"),
        ("{% for message in messages %}", "TemplateSyntaxError: Unexpected end of template"),
        ("{{ messages[0].content + 1 }}", "TypeError: can only concatenate str"),
        ("{{ messages[1].content.strip() }}", "UndefinedError: "),
        ({"rag": "{{ 1 }}", "tool_use": "{{ 2 }}"}, "there are rag, tool_use, and none is named default"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_one_line(tiny_llama, template, reason):
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.chat_template = template
    with pytest.raises(
        ConfigError, match=re.escape(f"{tiny_llama}: the chat template cannot be used ({reason}")
    ) as caught:
        encode_prompt(tokenizer, "Hello.")
    assert "\n" not in str(caught.value)
