"""From a user's message to the token ids that the policy sees; the only place where a prompt is tokenised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sppo.errors import ConfigError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        ConfigError: if there is none, it is damaged, or it has no chat template.
    """
    from transformers import AutoTokenizer

    # Without a vocabulary, transformers makes an empty tokenizer of the model's class.
    if not any(path for pattern in _VOCABULARIES for path in folder.glob(pattern)):
        raise ConfigError(f"{folder}: no tokenizer in that folder (such as tokenizer.json); save it beside the model")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (KeyError, TypeError, ValueError) as error:  # a file that lacks a part, has a foreign one, is of no format
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{folder}: the tokenizer is damaged ({reason}); download or save it again") from error
    if not tokenizer.chat_template:
        raise ConfigError(f"{folder}: the tokenizer has no chat template; use a chat (instruct) model")
    return tokenizer


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a single-turn chat up to where the assistant's answer begins."""
    return encode_chat(tokenizer, [{"role": "user", "content": prompt}])


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a chat up to where the assistant's next answer begins.

    Args:
        tokenizer: of the model.
        messages: each with its role and its content.

    Raises:
        ConfigError: see `template_errors`.
    """
    with template_errors(tokenizer):
        ids: list[int] = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
        )
    return ids


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """A single-turn chat as text, up to where the assistant's answer begins; raises as `encode_chat`."""
    with template_errors(tokenizer):
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
    return text


@contextmanager
def template_errors(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Turn what a chat template raises into one line: it is a program, which comes with the model.

    Raises:
        ConfigError: if it is not Jinja, refuses these messages, or has several names and no default.
    """
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        named = tokenizer.chat_template
        if isinstance(named, dict) and "default" not in named:
            reason = f"there are {', '.join(sorted(named))}, and none is named default"
        else:
            reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(
            f"{tokenizer.name_or_path}: the chat template cannot be used ({reason}); mend it in the model's folder, or "
            "use another chat (instruct) model"
        ) from error


def special_token_in(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The first special token written out in a text, which would be read as control and not as text, or None."""
    specials = {str(token) for token in tokenizer.all_special_tokens}
    specials |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return next((token for token in sorted(specials) if token in text), None)


def plain_text(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with a space in the place of every special token that is written out in it."""
    while (token := special_token_in(tokenizer, text)) is not None:
        text = text.replace(token, " ")
    return text
