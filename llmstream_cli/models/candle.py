"""Phi models as candle quantized them, repacked for llama.cpp.

Candle quantized Phi models to GGUF before llama.cpp knew them: the same tensors in the same blocks
under other names, and no metadata. The weights are copied byte for byte, the vocabulary is taken
from a `tokenizer.json`, and from the shapes follows all but the heads; see `_HEAD_SIZES`.

It is done once: the result lies in the cache folder and says what it was made from. It is written
beside its place and then put there, whole or not at all.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeAlias

from llmstream_cli.errors import ModelError, NoRoomError
from llmstream_cli.files import beside, cache_folder
from llmstream_cli.machine import free_disk
from llmstream_cli.models.candle_vocabulary import Vocabulary, read_vocabulary
from llmstream_cli.models.gguf import (
    DEFAULT_ALIGNMENT,
    GGUFHeader,
    Tensor,
    opened,
    quoted,
    read_header,
)
from llmstream_cli.models.gguf_check import check_gguf
from llmstream_cli.models.progress import Progress, locked
from llmstream_cli.models.sizes import human_size

_Metadata: TypeAlias = dict[str, bool | int | float | str | list[int] | list[str]]

_BUFFER = 1 << 20  # bytes that are copied at once
_SOURCE_KEY = "llmstream.repacked_from"
_FORMAT = 1  # of what is written here; a new one makes old results void

# The embeddings of Puffin and Hermes, all of whose modules are layers; those of Phi-2.
_EMBEDDINGS = ("layers.0.wte.weight", "transformer.embd.wte.weight")
_MODULES = {
    "ln": "attn_norm",
    "mixer.Wqkv": "attn_qkv",
    "mixer.out_proj": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}

# Phi-2 has heads of 80 numbers. All others that have been made, Phi-1.5 and what was trained from
# it, as Puffin and Hermes, have heads of 64.
_HEAD_SIZES = {2560: 80}
_HEAD_SIZE = 64
_ROTATED = 32  # numbers of a head, in all of them
_CONTEXT = 2048
_EPSILON = 1e-5

# What llama.cpp calls a file most of whose weights are of a type: `general.file_type`.
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}
_FILE_TYPES |= {"Q2_K": 10, "Q3_K": 11, "Q4_K": 14, "Q5_K": 16, "Q6_K": 18}


def is_candle(header: GGUFHeader) -> bool:
    """Tell whether a file is a Phi model as candle quantized it."""
    has_embedding = any(name in header.tensors for name in _EMBEDDINGS)
    return has_embedding and "general.architecture" not in header.metadata


def find_repacked(source: Path, tokenizer: Path) -> Path | None:
    """Return the model made from these files where it lies in the cache folder, and is whole."""
    place = _place(source)
    try:
        header = read_header(place)
    except ModelError:  # not there, or not to be used
        return None
    is_same = header.metadata.get(_SOURCE_KEY) == _fingerprint(source, tokenizer)
    return place if is_same and _missing_bytes(header) <= 0 else None


def repacked(source: Path, tokenizer: Path, progress: Progress) -> Path:
    """Return the model made from these files; make it if it is not in the cache folder.

    Of several processes that ask at once, one makes it and the others wait.

    Raises:
        NoRoomError: the disk has too little room.
        ModelError: a file is missing or damaged, they do not belong together, or nothing can be
            written.
    """
    found = find_repacked(source, tokenizer)
    if found is not None:
        return found
    place = _place(source)
    lock_file = place.with_name(place.name + ".lock")
    with _explained(place), locked(lock_file, progress, f"writes {place.name}"):
        if find_repacked(source, tokenizer) is None:  # nobody has made it meanwhile
            for part in place.parent.glob(f".{place.name}.*.part"):  # of a process that was killed
                part.unlink(missing_ok=True)
            repack(source, tokenizer, place, progress)
    return place


def repack(source: Path, tokenizer: Path, target: Path, progress: Progress) -> None:
    """Write the model that `source` and `tokenizer` make to `target`, whole or not at all."""
    fingerprint = _fingerprint(source, tokenizer)
    header = read_header(source)
    missing = _missing_bytes(header)
    if missing > 0:
        raise ModelError(f"{source} is incomplete: {missing} bytes are missing; fetch it again")
    try:
        tensors = rename_tensors(header)
        metadata = architecture(header, tensors)
    except ModelError as error:
        raise ModelError(f"cannot repack {source}: {error}") from error
    vocabulary = read_vocabulary(tokenizer, tensors["token_embd.weight"].shape[1])
    metadata |= _vocabulary_metadata(vocabulary)
    metadata["general.name"] = source.stem.encode("utf-8", "replace").decode()
    metadata[_SOURCE_KEY] = fingerprint
    _check_room(target, sum(tensor.size for tensor in tensors.values()) + tokenizer.stat().st_size)
    part = beside(target)
    try:
        with opened(source) as (source_file, _), _explained(target):
            _write_header(part, metadata, tensors)
            with part.open("ab") as file:
                _append(source_file, header.data_offset, file, tensors, progress)
                file.flush()
                os.fsync(file.fileno())
            if _fingerprint(source, tokenizer) != fingerprint:
                raise ModelError(f"{source} has changed while it was repacked: try again")
            try:
                check_gguf(part)
            except ModelError as error:
                raise ModelError(f"cannot repack {source}: {error}") from error
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _place(source: Path) -> Path:
    """Tell where the model made from a file lies: one place, so that a new one replaces it."""
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()
    return cache_folder() / "repacked" / f"{source.stem[:40]}-{digest[:16]}.gguf"


def _fingerprint(source: Path, tokenizer: Path) -> str:
    """Tell versions of the source files apart, cheaply: the size and the time of a large one.

    Its sha256 would take seconds at each start, and the Hub's client has compared it already.
    """
    with opened(source), opened(tokenizer) as (file, _):
        status = source.stat()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{_FORMAT} {status.st_size} {status.st_mtime_ns} {digest}"


def _missing_bytes(header: GGUFHeader) -> int:
    end = max((t.offset + t.size for t in header.tensors.values()), default=0)
    return header.data_offset + end - header.file_size


# ---- what the tensors are -------------------------------------------------------------------


def rename_tensors(header: GGUFHeader) -> dict[str, Tensor]:
    """Return the tensors by llama.cpp's names; refuse those of any other model."""
    if not is_candle(header):
        raise ModelError("it is no Phi model as candle quantized it")
    names = _names(header.tensors)
    for name in header.tensors.keys() - names.keys():
        if name.endswith((".weight", ".bias")):  # buffers can be left out
            raise ModelError(f"it has the unknown tensor {quoted(name)}")
    for name in names:
        if name not in header.tensors:
            raise ModelError(f"it lacks the tensor {name}")
    tensors = {names[name]: header.tensors[name] for name in header.tensors if name in names}
    width, vocabulary_size = _matrix_shape(tensors["token_embd.weight"])
    _, feed_forward = _matrix_shape(tensors["blk.0.ffn_up.weight"])
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (width, vocabulary_size),
        "attn_norm": (width,),
        "attn_qkv": (width, 3 * width),
        "attn_output": (width, width),
        "ffn_up": (width, feed_forward),
        "ffn_down": (feed_forward, width),
        "output_norm": (width,),
        "output": (width, vocabulary_size),
    }
    for name, tensor in tensors.items():
        *_, module, kind = name.split(".")
        shape = shapes[module] if kind == "weight" else shapes[module][-1:]
        if tensor.shape != shape:
            raise ModelError(f"{tensor.name} is {_by(tensor.shape)} and not {_by(shape)}")
    return tensors


def _names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return llama.cpp's name for each tensor that there should be, by candle's name."""
    layers = sum(name.endswith(".mixer.Wqkv.weight") for name in tensors)
    if not layers:
        raise ModelError("it has no layers")
    if _EMBEDDINGS[0] in tensors:
        embedding, block, first, head = _EMBEDDINGS[0], "layers", 1, f"layers.{layers + 1}"
    else:
        embedding, block, first, head = _EMBEDDINGS[1], "transformer.h", 0, "lm_head"
    modules = {f"{head}.ln": "output_norm", f"{head}.linear": "output"}
    for layer in range(layers):
        for theirs, ours in _MODULES.items():
            modules[f"{block}.{layer + first}.{theirs}"] = f"blk.{layer}.{ours}"
    names = {embedding: "token_embd.weight"}
    for theirs, ours in modules.items():
        names |= {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}
    return names


def _matrix_shape(tensor: Tensor) -> tuple[int, int]:
    match tensor.shape:
        case (inputs, outputs):
            return inputs, outputs
    raise ModelError(f"{tensor.name} is {_by(tensor.shape)} and no matrix")


def _by(shape: tuple[int, ...]) -> str:
    return " by ".join(map(str, shape)) or "a number"


def architecture(header: GGUFHeader, tensors: Mapping[str, Tensor]) -> _Metadata:
    """Return what llama.cpp reads of an architecture, the vocabulary left out."""
    width, _ = tensors["token_embd.weight"].shape
    ffn_up = tensors["blk.0.ffn_up.weight"]
    head_size, rotated = _HEAD_SIZES.get(width, _HEAD_SIZE), _num_rotated(header)
    if width % head_size or rotated > head_size:
        raise ModelError(
            f"it is {width} wide and rotates {rotated}, which fits no heads of {head_size} numbers"
        )
    metadata: _Metadata = {
        "phi2.context_length": _CONTEXT,
        "phi2.embedding_length": width,
        "phi2.block_count": sum(name.endswith(".attn_qkv.weight") for name in tensors),
        "phi2.feed_forward_length": ffn_up.shape[1],
        "phi2.attention.head_count": width // head_size,
        "phi2.attention.head_count_kv": width // head_size,
        "phi2.attention.layer_norm_epsilon": _EPSILON,
        "phi2.rope.dimension_count": rotated,
    }
    if ffn_up.type.name in _FILE_TYPES:
        metadata["general.file_type"] = _FILE_TYPES[ffn_up.type.name]
    return metadata


def _num_rotated(header: GGUFHeader) -> int:
    """Tell how many numbers of a head are rotated: two for each frequency, if they are told."""
    for name, tensor in header.tensors.items():
        if name.endswith(".inv_freq") and len(tensor.shape) == 1:
            return 2 * tensor.shape[0]
    return _ROTATED


def _vocabulary_metadata(vocabulary: Vocabulary) -> _Metadata:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "phi-2",
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
        # llama.cpp takes 11 for the first two where they are left out.
        "tokenizer.ggml.bos_token_id": vocabulary.end,
        "tokenizer.ggml.eos_token_id": vocabulary.end,
        "tokenizer.ggml.unknown_token_id": vocabulary.end,
        "tokenizer.ggml.add_bos_token": False,
    }


# ---- to write -------------------------------------------------------------------------------


def _check_room(target: Path, size: int) -> None:
    free = free_disk(target.parent)
    if free < size:
        raise NoRoomError(
            f"the repacked model needs {human_size(size)} and {target.parent} has "
            f"{human_size(free)} free: make room, or set LLMSTREAM_CACHE to a folder elsewhere"
        )


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Raise what the system refuses as an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoRoomError(
                f"the disk of {target.parent} is full: make room, or set LLMSTREAM_CACHE to a "
                "folder elsewhere"
            ) from error
        raise ModelError(f"cannot make {target}: {error.strerror}") from error


def _write_header(path: Path, metadata: _Metadata, tensors: Mapping[str, Tensor]) -> None:
    """Write all that comes before the weights."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "phi2")
    add = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in metadata.items():
        add[type(value)](key, value)  # type: ignore[operator]
    for name, tensor in tensors.items():
        kind = GGMLQuantizationType(tensor.type.id)
        writer.add_tensor_info(
            name, tensor.shape[::-1], np.dtype(np.float32), tensor.size, raw_dtype=kind
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _append(
    source: BufferedReader,
    data_offset: int,
    target: BinaryIO,
    tensors: Mapping[str, Tensor],
    progress: Progress,
) -> None:
    """Append the tensors' bytes to the header."""
    total = sum(tensor.size for tensor in tensors.values())
    progress.begin(f"repacking {Path(source.name).name}", total)
    try:
        for tensor in tensors.values():
            target.write(bytes(-target.tell() % DEFAULT_ALIGNMENT))
            source.seek(data_offset + tensor.offset)
            missing = tensor.size
            while missing:
                piece = source.read(min(missing, _BUFFER))
                if not piece:
                    raise ModelError(f"{source.name} became shorter while it was read")
                target.write(piece)
                progress.advance(len(piece))
                missing -= len(piece)
    finally:
        progress.end()
