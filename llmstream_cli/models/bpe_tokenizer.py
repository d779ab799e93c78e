"""A byte-level BPE vocabulary, from a Hugging Face `tokenizer.json` to what llama.cpp reads.

https://huggingface.co/docs/tokenizers/api/models; the file may come from anyone.
"""

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstream_cli.errors import ModelError
from llmstream_cli.models.gguf_header import opened, quoted

_MAX_BYTES = 64 << 20  # those of the largest vocabularies have 35 MB
_END = "<|endoftext|>"


class TokenType(enum.IntEnum):
    """What a token is to llama.cpp."""

    NORMAL = 1
    CONTROL = 3  # steers the model; no text
    USER_DEFINED = 4  # found in a text before it is split into words
    UNUSED = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What `tokenizer.ggml.*` says of a model.

    Attributes:
        tokens: the texts by their ids.
        types: what each is.
        merges: pairs of tokens that become one, with a space between, the first first.
        end: id of the token that ends a text; it begins one, and stands for the unknown, too.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    end: int


def read_vocabulary(path: Path, size: int) -> Vocabulary:
    """Read a vocabulary that has exactly `size` tokens: those that it lacks are made up, unused.

    Args:
        path: the `tokenizer.json`.
        size: how many tokens the model embeds.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is no byte-level BPE vocabulary, or has more tokens than the model.
    """
    try:
        return _vocabulary(_read_json(path), size)
    except _UnfitError as error:
        raise ModelError(f"cannot use the tokenizer {path}: {error}") from error


class _UnfitError(Exception):
    """The tokenizer is not one that can be used; the message says why."""


def _read_json(path: Path) -> Any:
    with opened(path) as (file, size):
        if size > _MAX_BYTES:
            raise _UnfitError(f"it has more than {_MAX_BYTES >> 20} MiB")
        data = file.read(size)  # with a bound to spare, Python would set that much memory aside
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _UnfitError("it is no valid JSON") from error


def _vocabulary(content: Any, size: int) -> Vocabulary:
    model = _get(content, "model", dict)
    if model.get("type", "BPE") != "BPE" or not _splits_as_gpt2(content):
        raise _UnfitError("it is no byte-level BPE tokenizer as GPT-2's")
    texts: dict[int, str] = {}
    types: dict[int, TokenType] = {}
    for text, token in _get(model, "vocab", dict).items():
        _add(texts, token, text)
        types[token] = TokenType.NORMAL
    for text, token, special in _added_tokens(content):
        _add(texts, token, text)
        types[token] = TokenType.CONTROL if special else TokenType.USER_DEFINED
    ids = {text: token for token, text in texts.items()}
    if len(ids) < len(texts):
        raise _UnfitError("it has two ids for one token")
    if max(texts, default=0) >= size:
        raise _UnfitError(f"it has {max(texts) + 1} tokens, and the model {size}")
    for token in range(size):
        if token not in texts:
            texts[token], types[token] = _unused(token, ids), TokenType.UNUSED
    if _END not in ids:
        raise _UnfitError(f"it has no token {_END}")
    tokens = [texts[token] for token in range(size)]
    merges = [_merge(merge) for merge in _get(model, "merges", list)]
    return Vocabulary(tokens, [types[token] for token in range(size)], merges, ids[_END])


def _splits_as_gpt2(content: Any) -> bool:
    """Tell whether texts are taken as they are, and split and spelled as GPT-2's are."""
    splitter = _get(content, "pre_tokenizer", dict)
    return (
        splitter.get("type") == "ByteLevel"
        and not splitter.get("add_prefix_space")
        and splitter.get("use_regex", True) is True
        and content.get("normalizer") is None
    )


def _added_tokens(content: Any) -> Iterator[tuple[str, int, bool]]:
    for entry in _get(content, "added_tokens", list):
        text, token = _get(entry, "content", str), _get(entry, "id", int)
        yield text, token, _get(entry, "special", bool)


def _add(texts: dict[int, str], token: Any, text: str) -> None:
    if not isinstance(token, int) or isinstance(token, bool) or token < 0:
        raise _UnfitError(f"the token {quoted(text)} has no number")
    if texts.setdefault(token, text) != text:
        raise _UnfitError(f"it has two tokens with the number {token}")
    _check_text(text)


def _check_text(text: str) -> None:
    if not text:
        raise _UnfitError("it has an empty token")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a character
        raise _UnfitError(f"{quoted(text)} is no valid text") from error


def _unused(token: int, ids: Mapping[str, int]) -> str:
    text = f"[PAD{token}]"
    if text in ids:
        raise _UnfitError(f"it has the token {text} at {ids[text]}")
    return text


def _merge(merge: Any) -> str:
    """Write a merge as llama.cpp reads it; newer files have two strings, older ones one."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    match pair:
        case [str(left), str(right)] if left and right and " " not in left + right:
            _check_text(left + right)
            return f"{left} {right}"
    raise _UnfitError(f"{quoted(str(merge))} is no merge of two tokens")


def _get(content: Any, key: str, kind: type) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _UnfitError(f"its {key!r} is missing, or something else than it should be")
    return value
