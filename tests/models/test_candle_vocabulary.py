"""From a `tokenizer.json`, which anyone may have written, to a vocabulary."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models import candle_vocabulary
from llmstream_cli.models.candle_vocabulary import CONTROL, UNUSED, USER_DEFINED, read_vocabulary
from tests.candle_files import write_tokenizer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokenizer.json"


def small() -> dict[str, Any]:
    """The least that can be used."""
    return {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {"vocab": {"a": 0, "b": 1, "ab": 3}, "merges": ["a b"]},
        "added_tokens": [{"id": 2, "content": "<|endoftext|>", "special": True}],
    }


def read(path: Path, content: object, size: int = 6) -> candle_vocabulary.Vocabulary:
    path.write_text(json.dumps(content))
    return read_vocabulary(path, size)


def test_what_is_missing_up_to_the_models_size_is_made_up(path: Path) -> None:
    vocabulary = read(path, small())
    assert vocabulary.tokens == ["a", "b", "<|endoftext|>", "ab", "[PAD4]", "[PAD5]"]
    assert vocabulary.types == [1, 1, 3, 1, 5, 5]
    assert vocabulary.merges == ["a b"]
    assert vocabulary.end == 2


@pytest.mark.parametrize("pairs", [True, False])
def test_a_real_tokenizer_is_read_with_either_spelling_of_merges(path: Path, pairs: bool) -> None:
    tokenizer = write_tokenizer(path, pairs=pairs)
    assert isinstance(json.loads(path.read_text())["model"]["merges"][0], list) is pairs
    known = tokenizer.get_vocab_size()
    vocabulary = read_vocabulary(path, known + 9)
    assert vocabulary.tokens[:known] == [tokenizer.id_to_token(token) for token in range(known)]
    assert vocabulary.tokens[known:] == [f"[PAD{token}]" for token in range(known, known + 9)]
    assert vocabulary.types[known:] == [UNUSED] * 9
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert types["   "] == types["\t\t"] == USER_DEFINED
    assert vocabulary.types[vocabulary.end] == CONTROL
    assert vocabulary.merges[0] in {" ".join(m.split()) for m in vocabulary.merges}
    assert all(len(merge.split(" ")) == 2 for merge in vocabulary.merges)


def test_a_special_token_may_stand_in_the_vocabulary_too(path: Path) -> None:
    content = small()
    content["model"]["vocab"]["<|endoftext|>"] = 2
    assert read(path, content).types[2] == CONTROL


def _set(content: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    *keys, last = where.split(".")
    place = content
    for key in keys:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("where", "value", "complaint"),
    [
        ("model", [], "'model' is missing, or something else"),
        ("model.type", "Unigram", "no byte-level BPE tokenizer"),
        ("model.vocab", None, "'vocab' is missing"),
        ("model.vocab.c", -1, "the token 'c' has no number"),
        ("model.vocab.c", "4", "the token 'c' has no number"),
        ("model.vocab.c", True, "the token 'c' has no number"),
        ("model.vocab.c", 1, "two tokens with the number 1"),
        ("model.vocab.<|endoftext|>", 4, "two ids for one token"),
        ("model.vocab.c", 6, "has 7 tokens, and the model 6"),
        ("model.vocab.[PAD4]", 5, r"has the token \[PAD4\] at 5"),
        ("model.vocab.\ud800", 4, r"'\\ud800' is no valid text"),
        ("model.vocab", {"": 0}, "empty token"),
        ("model.merges", {}, "'merges' is missing"),
        ("model.merges", ["ab"], "'ab' is no merge"),
        ("model.merges", [["a", "b", "a"]], "is no merge"),
        ("model.merges", [["a b", "c"]], "is no merge"),
        ("model.merges", [7], "'7' is no merge"),
        ("added_tokens", [], r"no token <\|endoftext\|>"),
        ("added_tokens", ["x"], "'special' is missing"),
        (
            "added_tokens",
            [{"content": "x", "id": True, "special": True}],
            "the token 'x' has no number",
        ),
        ("pre_tokenizer", None, "'pre_tokenizer' is missing"),
        ("pre_tokenizer.type", "Metaspace", "no byte-level BPE tokenizer"),
        ("pre_tokenizer.add_prefix_space", True, "no byte-level BPE tokenizer"),
        ("pre_tokenizer.use_regex", False, "no byte-level BPE tokenizer"),
        ("normalizer", {"type": "NFC"}, "no byte-level BPE tokenizer"),
    ],
)
def test_another_tokenizer_is_refused(
    path: Path, where: str, value: object, complaint: str
) -> None:
    with pytest.raises(ModelError, match=rf"cannot use the tokenizer .*: .*{complaint}"):
        read(path, _set(small(), where, value))


def test_what_is_no_tokenizer_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        read_vocabulary(path, 6)
    monkeypatch.setattr(candle_vocabulary, "_MAX_BYTES", 1 << 20)
    for content, complaint in {
        b"": "no valid JSON",
        b"{": "no valid JSON",
        b"[" * 100_000: "no valid JSON",
        b"\xff\xfe": "no valid JSON",
        b"[1]": "'model' is missing",
        b" " * ((1 << 20) + 1): "more than 1 MiB",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"cannot use the tokenizer .*{complaint}"):
            read_vocabulary(path, 6)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.sampled_from(["model.vocab", "model.vocab.c", "model.merges", "added_tokens", "model"]),
    json_values,
)
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, where: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    with contextlib.suppress(ModelError):
        assert len(set(read(path, _set(small(), where, value)).tokens)) == 6
