"""The reader of GGUF headers, on good files, and on files that are anything but."""

import contextlib
import ctypes
import importlib.util
import re
import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.gguf import WEIGHT_TYPES, Array, GGUFHeader, read_header
from tests import gguf_files
from tests.models.gguf_mutants import Raw, mutants, text

WRITERS = [
    gguf_files.write_llama,
    gguf_files.write_phi2,
    gguf_files.write_gemma3,
    gguf_files.write_mamba,
    gguf_files.write_lfm2,
]
HUGE = (1 << 64) - 1
UINT32, STRING, ARRAY = 4, 8, 9
TOKENS = "tokenizer.ggml.tokens"


def counts(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def outcome(content: bytes) -> GGUFHeader | str:
    """Read a file of this content; what is wrong with it is told in a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(content)
        try:
            return read_header(path, strings=(TOKENS,))
        except ModelError as error:
            return str(error)


def read(content: bytes) -> GGUFHeader:
    header = outcome(content)
    assert isinstance(header, GGUFHeader), header
    return header


def complaint(content: bytes) -> str:
    message = outcome(content)
    assert isinstance(message, str)
    assert message.isprintable()  # and so of one line
    return message


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_model_is_read_as_the_gguf_package_reads_it(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path / "model.gguf")
    header, reader = read_header(path, strings=(TOKENS,)), GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, value in header.metadata.items():
        if not isinstance(value, Array):
            assert value == fields[key].contents()
        elif key == TOKENS:
            tokens = [text.encode() for text in fields[key].contents()]
            assert value == Array(STRING, len(tokens), strings=tokens)
        else:
            assert value.length == len(fields[key].data)
            assert value.values is None or list(value.values) == fields[key].contents()
    assert header.data_offset == reader.data_offset
    assert header.file_size == path.stat().st_size
    assert [
        (t.name, list(t.shape), t.type.id, header.data_offset + t.offset, t.size)
        for t in header.tensors.values()
    ] == [
        (t.name, t.shape.tolist(), int(t.tensor_type), t.data_offset, t.n_bytes)
        for t in reader.tensors
    ]
    assert read_header(path).metadata[TOKENS] == Array(STRING, len(tokens))


def test_weights_have_the_sizes_that_llama_cpp_has() -> None:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    ggml = ctypes.CDLL(str(next(folder.glob("*ggml-base.*"))))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    known = {number for number in range(max(WEIGHT_TYPES) + 1) if ggml.ggml_blck_size(number)}
    assert known == WEIGHT_TYPES.keys()
    for number, weight_type in WEIGHT_TYPES.items():
        assert weight_type.block_size == ggml.ggml_blck_size(number)
        assert weight_type.block_bytes == ggml.ggml_type_size(number)
        assert weight_type.name.lower() == ggml.ggml_type_name(number).decode().lower()


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    raw = Raw.read(gguf_files.write_llama(tmp_path / "model.gguf"))
    newer = read(raw.content())
    raw.version = 2
    older = read(raw.content())
    assert (older.version, newer.version) == (2, 3)
    assert (older.metadata, older.tensors) == (newer.metadata, newer.tensors)


def test_short_arrays_of_numbers_are_kept_and_long_ones_are_skipped() -> None:
    short = struct.pack("<IQ3i", 5, 3, 8, -8, 0)
    long = struct.pack("<IQ", 7, 5000) + bytes(5000)
    header = read(counts(keys=2) + entry(b"short", ARRAY, short) + entry(b"long", ARRAY, long))
    assert header.metadata["short"] == Array(5, 3, (8, -8, 0))
    assert header.metadata["long"] == Array(7, 5000)


ONE = struct.pack("<I", 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"GG", "is not a GGUF file"),
        (b"GGML" + bytes(30), "is not a GGUF file"),
        (b"GGUF", "ends within its header: it has 4 bytes and is incomplete"),
        (counts(version=1), "has version 1 of GGUF"),
        (counts(version=4), "has version 4 of GGUF"),
        (counts(version=3 << 24), "is written for big-endian machines"),
        (counts(tensors=HUGE), "claims to have 18446744073709551615 tensors"),
        (counts(keys=1 << 40), "claims to have 1099511627776 keys"),
        (counts(keys=1), "ends within its header"),
        (counts(keys=1) + entry(b"", UINT32, ONE), "a key has no name"),
        (counts(keys=1) + struct.pack("<Q", HUGE), "keys and values have more than 64 MiB"),
        (counts(keys=2) + entry(b"a\n\x1b", UINT32, ONE) * 2, r"the key 'a\\n\\x1b' twice"),
        (counts(keys=1) + entry(b"a", 13, ONE), "'a' has the unknown type 13"),
        (counts(keys=1) + entry(b"a", ARRAY, struct.pack("<IQ", 99, 1)), "the unknown type 99"),
        (counts(keys=1) + entry(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1)), "array of arrays"),
        (counts(keys=1) + entry(b"a", ARRAY, struct.pack("<IQ", UINT32, HUGE)), "ends within"),
        (counts(keys=1) + entry(b"a", ARRAY, struct.pack("<IQ", STRING, HUGE)), "strings"),
        (counts(keys=1) + entry(b"a", ARRAY, struct.pack("<IQ", STRING, 9)), "ends within"),
        (counts(keys=1) + entry(b"general.alignment", STRING, text(b"x")), "no 32-bit number"),
        (counts(keys=1) + entry(b"general.alignment", UINT32, bytes(4)), "is no power of two"),
        (counts(tensors=1) + tensor(b"", [1]), "a tensor has no name"),
        (counts(tensors=1) + tensor(b"x" * 64, [1]), "name of the tensor .* is too long"),
        (counts(tensors=2) + tensor(b"x", [1]) * 2, "has the tensor 'x' twice"),
        (counts(tensors=1) + tensor(b"x", [1] * 5), "'x' has 5 dimensions"),
        (counts(tensors=1) + tensor(b"x", [1], kind=4), "'x' has the unknown type 4"),
        (counts(tensors=1) + tensor(b"x", [0, 4]), "cannot have 0 by 4 F32 weights"),
        (counts(tensors=1) + tensor(b"x", [1 << 62, 4]), "cannot have .* F32 weights"),
        (counts(tensors=1) + tensor(b"x", [100, 4], kind=12), "cannot have 100 by 4 Q4_K weights"),
        (counts(tensors=1) + tensor(b"x", [1])[:-1], "ends within its header"),
    ],
)
def test_a_header_that_contradicts_the_format_is_refused(content: bytes, expected: str) -> None:
    assert re.search(expected, complaint(content))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="is a directory"):
        read_header(tmp_path)


def test_a_header_cut_anywhere_is_refused(tmp_path: Path) -> None:
    raw = Raw.read(gguf_files.write_phi2(tmp_path / "model.gguf"))
    header = raw.header()
    for size in [*range(200), *range(200, len(header), 997)]:
        assert complaint(header[:size])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for start in (b"", counts(keys=3, tensors=2)):
        assert outcome(start + content)


values = st.one_of(
    st.tuples(st.integers(0, 14), st.binary(max_size=24)),
    st.tuples(st.just(ARRAY), st.integers(0, 14), st.integers(0, HUGE)).map(
        lambda array: (array[0], struct.pack("<IQ", *array[1:]))
    ),
    st.tuples(st.just(STRING), st.binary(max_size=20).map(text)),
)


@given(
    st.lists(st.tuples(st.binary(max_size=8), values), max_size=6),
    st.lists(st.tuples(st.binary(max_size=8), st.lists(st.integers(0, HUGE), max_size=5))),
    st.integers(-2, 2),
)
def test_any_header_is_read_or_refused(
    keys: list[tuple[bytes, tuple[int, bytes]]], tensors: list[tuple[bytes, list[int]]], more: int
) -> None:
    content = counts(keys=len(keys), tensors=max(len(tensors) + more, 0))
    content += b"".join(entry(key, *value) for key, value in keys)
    content += b"".join(tensor(name, shape) for name, shape in tensors)
    header = outcome(content)
    if isinstance(header, GGUFHeader):
        assert len(header.metadata) == len(keys)
    else:
        assert header.isprintable()


def test_a_damaged_model_is_read_or_refused(tmp_path: Path) -> None:
    for _, content in mutants(gguf_files.write_phi2(tmp_path / "model.gguf"), 50, seed=2):
        header = outcome(content)
        assert header.tensors if isinstance(header, GGUFHeader) else header.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        counts(keys=1) + entry(b"a", STRING, struct.pack("<Q", 100 << 20)),
        counts(keys=1) + entry(b"a", ARRAY, struct.pack("<IQ", UINT32, 25 << 20)),
        counts(keys=1) + entry(TOKENS.encode(), ARRAY, struct.pack("<IQ", STRING, 1 << 40)),
        counts(keys=1) + entry(TOKENS.encode(), ARRAY, struct.pack("<IQQ", STRING, 9, 90 << 20)),
    ],
    ids=["a text", "numbers", "texts", "a token"],
)
def test_a_large_claim_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + (101 << 20))  # a hole, so that the claim may be true
    tracemalloc.start()
    try:
        with contextlib.suppress(ModelError):
            read_header(path, strings=(TOKENS,))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
