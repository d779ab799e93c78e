"""Phi models as candle quantized them, repacked for llama.cpp.

The weights are copied byte for byte, the vocabulary is taken from a `tokenizer.json`; see
`candle_layout`. It is done once: the result lies in the cache folder and says what it was made
from. It is written beside its place and then put there, whole or not at all.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from llmstream_cli.errors import ModelError, NoRoomError
from llmstream_cli.files import beside, cache_folder
from llmstream_cli.machine import free_disk
from llmstream_cli.models.bpe_tokenizer import Vocabulary, read_vocabulary
from llmstream_cli.models.candle_layout import Layout, UnfitError, Writable, find_layout
from llmstream_cli.models.gguf_check import check_gguf
from llmstream_cli.models.gguf_format import DEFAULT_ALIGNMENT, GGUFHeader, Tensor
from llmstream_cli.models.gguf_header import opened, read_header
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.sizes import human_size

_BUFFER = 1 << 20  # bytes that are copied at once
_SOURCE_KEY = "llmstream.repacked_from"
_ARCHITECTURE = "phi2"
_FORMAT = 1  # of what is written here; a new one makes old results void


def find_repacked(source: Path, tokenizer: Path) -> Path | None:
    """Return the model made from these files where it lies in the cache folder, and is whole.

    Raises:
        ModelNotFoundError: one of the files is missing.
        ModelError: one cannot be read.
    """
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

    Args:
        source: a model as candle quantized it.
        tokenizer: its `tokenizer.json`.
        progress: is told of the copying.

    Raises:
        ModelNotFoundError: one of the files is missing.
        NoRoomError: the disk has too little room.
        ModelError: the files do not belong together or are damaged, or nothing can be written.
    """
    found = find_repacked(source, tokenizer)
    if found is not None:
        return found
    place = _place(source)
    with _locked(place, progress):
        if find_repacked(source, tokenizer) is None:  # nobody has made it meanwhile
            _sweep(place)
            repack(source, tokenizer, place, progress)
    return place


def repack(source: Path, tokenizer: Path, target: Path, progress: Progress) -> None:
    """Write the model that `source` and `tokenizer` make to `target`, whole or not at all.

    Args:
        source: a model as candle quantized it.
        tokenizer: its `tokenizer.json`.
        target: the GGUF file to write, or to replace.
        progress: is told of the copying.

    Raises:
        ModelNotFoundError: one of the files is missing.
        NoRoomError: the disk has too little room.
        ModelError: the files do not belong together or are damaged, or nothing can be written.
    """
    fingerprint = _fingerprint(source, tokenizer)
    header = read_header(source)
    missing = _missing_bytes(header)
    if missing > 0:
        raise ModelError(f"{source} is incomplete: {missing} bytes are missing; fetch it again")
    try:
        layout = find_layout(header)
    except UnfitError as error:
        raise ModelError(f"cannot repack {source}: {error}") from error
    vocabulary = read_vocabulary(tokenizer, layout.vocabulary_size)
    metadata = _metadata(layout, vocabulary, fingerprint, source.stem)
    tensors = {
        layout.names[name]: tensor
        for name, tensor in header.tensors.items()
        if name in layout.names
    }
    _check_room(target, sum(tensor.size for tensor in tensors.values()) + tokenizer.stat().st_size)
    with opened(source) as (source_file, _), _replacing(target) as part:
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


def _metadata(
    layout: Layout, vocabulary: Vocabulary, fingerprint: str, name: str
) -> dict[str, Writable]:
    return {
        **layout.metadata,
        "general.name": name.encode("utf-8", "replace").decode(),
        _SOURCE_KEY: fingerprint,
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


def _write_header(
    path: Path, metadata: Mapping[str, Writable], tensors: Mapping[str, Tensor]
) -> None:
    """Write all that comes before the weights."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, _ARCHITECTURE)
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


def _check_room(target: Path, size: int) -> None:
    free = free_disk(target.parent)
    if free < size:
        raise NoRoomError(
            f"the repacked model needs {human_size(size)} and {target.parent} has "
            f"{human_size(free)} free: make room, or set LLMSTREAM_CACHE to a folder elsewhere"
        )


@contextmanager
def _locked(place: Path, progress: Progress) -> Iterator[None]:
    """Be the only process that writes to a place; the lock ends with its process."""
    from filelock import FileLock, Timeout

    lock = FileLock(place.with_name(place.name + ".lock"))
    with _told_of(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"another process writes {place.name}: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Name a file beside the target; put it in its place when the block has gone well."""
    part = beside(target)
    try:
        with _told_of(target):
            yield part
            part.replace(target)
            _sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _told_of(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoRoomError(
                f"the disk of {target.parent} is full: make room, or set LLMSTREAM_CACHE to a "
                "folder elsewhere"
            ) from error
        raise ModelError(f"cannot write {target}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Have the disk know of a new name in a folder, where the system can be asked to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Delete what a process that was killed has left; nobody else writes, the lock is held."""
    for part in place.parent.glob(f".{place.name}.*.part"):
        part.unlink(missing_ok=True)


def _append(
    source: BufferedReader,
    data_offset: int,
    target: BinaryIO,
    tensors: Mapping[str, Tensor],
    progress: Progress,
) -> None:
    """Append the tensors' bytes to the header."""
    progress.begin(
        f"repacking {Path(source.name).name}", sum(tensor.size for tensor in tensors.values())
    )
    try:
        for tensor in tensors.values():
            target.write(bytes(-target.tell() % DEFAULT_ALIGNMENT))
            source.seek(data_offset + tensor.offset)
            for piece in _pieces(source, tensor.size):
                target.write(piece)
                progress.advance(len(piece))
    finally:
        progress.end()


def _pieces(file: BufferedReader, size: int) -> Iterator[bytes]:
    while size:
        try:
            piece = file.read(min(size, _BUFFER))
        except OSError as error:
            raise ModelError(f"cannot read {file.name}: {error.strerror}") from error
        if not piece:
            raise ModelError(f"{file.name} became shorter while it was read")
        yield piece
        size -= len(piece)
