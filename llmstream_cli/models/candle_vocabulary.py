"""A byte-level BPE vocabulary, from a Hugging Face `tokenizer.json` to what llama.cpp reads.

https://huggingface.co/docs/tokenizers/api/models; the file is untrusted.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstream_cli.errors import ModelError
from llmstream_cli.models.gguf import opened, quoted

_MAX_BYTES = 64 << 20  # those of the largest vocabularies have 35 MB
_END = "<|endoftext|>"

# llama.cpp's types of tokens. Control tokens are no text; user defined ones are found in a text
# before it is split into words.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What `tokenizer.ggml.*` says of a model."""

    tokens: list[str]  # by their ids
    types: list[int]
    merges: list[str]  # pairs of tokens that become one, with a space between, the first first
    end: int  # id of the token that ends a text; it begins one, and stands for the unknown, too


def read_vocabulary(path: Path, size: int) -> Vocabulary:
    """Read a vocabulary that has exactly `size` tokens: those that it lacks are made up, unused."""
    with opened(path) as (file, num_bytes):
        data = file.read(min(num_bytes, _MAX_BYTES + 1))
    try:
        return _vocabulary(_parse_json(data), size)
    except ModelError as error:
        raise ModelError(f"cannot use the tokenizer {path}: {error}") from error


def _parse_json(data: bytes) -> Any:
    if len(data) > _MAX_BYTES:
        raise ModelError(f"it has more than {_MAX_BYTES >> 20} MiB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError("it is no valid JSON") from error


def _vocabulary(content: Any, size: int) -> Vocabulary:
    model = _get(content, "model", dict)
    if model.get("type", "BPE") != "BPE" or not _splits_as_gpt2(content):
        raise ModelError("it is no byte-level BPE tokenizer as GPT-2's")
    tokens: dict[int, tuple[str, int]] = {}
    for text, token, token_type in _tokens(content, model):
        _check_text(text)
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise ModelError(f"the token {quoted(text)} has no number")
        if tokens.get(token, (text,))[0] != text:
            raise ModelError(f"it has two tokens with the number {token}")
        tokens[token] = text, token_type
    ids = {text: token for token, (text, _) in tokens.items()}
    if len(ids) < len(tokens):
        raise ModelError("it has two ids for one token")
    if max(tokens, default=0) >= size:
        raise ModelError(f"it has {max(tokens) + 1} tokens, and the model {size}")
    if _END not in ids:
        raise ModelError(f"it has no token {_END}")
    for token in set(range(size)) - tokens.keys():
        text = f"[PAD{token}]"
        if text in ids:
            raise ModelError(f"it has the token {text} at {ids[text]}")
        tokens[token] = text, UNUSED
    texts, types = zip(*(tokens[token] for token in range(size)), strict=True)
    merges = [_merge(merge) for merge in _get(model, "merges", list)]
    return Vocabulary([*texts], [*types], merges, ids[_END])


def _splits_as_gpt2(content: Any) -> bool:
    """Tell whether texts are taken as they are, and split and spelled as GPT-2's are."""
    splitter = _get(content, "pre_tokenizer", dict)
    return (
        splitter.get("type") == "ByteLevel"
        and not splitter.get("add_prefix_space")
        and splitter.get("use_regex", True) is True
        and content.get("normalizer") is None
    )


def _tokens(content: Any, model: Any) -> Iterator[tuple[str, Any, int]]:
    for text, token in _get(model, "vocab", dict).items():
        yield text, token, NORMAL
    for entry in _get(content, "added_tokens", list):
        token_type = CONTROL if _get(entry, "special", bool) else USER_DEFINED
        yield _get(entry, "content", str), _get(entry, "id", int), token_type


def _check_text(text: str) -> None:
    if not text:
        raise ModelError("it has an empty token")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a character
        raise ModelError(f"{quoted(text)} is no valid text") from error


def _merge(merge: Any) -> str:
    """Write a merge as llama.cpp reads it; newer files have two strings, older ones one."""
    match merge.split(" ") if isinstance(merge, str) else merge:
        case [str(left), str(right)] if left and right and " " not in left + right:
            _check_text(left + right)
            return f"{left} {right}"
    raise ModelError(f"{quoted(str(merge))} is no merge of two tokens")


def _get(content: Any, key: str, kind: type) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ModelError(f"its {key!r} is missing, or something else than it should be")
    return value
