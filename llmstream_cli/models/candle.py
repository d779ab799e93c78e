"""Phi models as candle quantized them, repacked for llama.cpp.

The weights are copied byte for byte, the vocabulary is taken from a `tokenizer.json`; see
`candle_layout`. It is done once: the result lies in the cache folder and says what it was made
from. It is written beside its place, read back, and then put there, whole or not at all.
"""

import errno
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from llmstream_cli.errors import ModelError, NoRoomError
from llmstream_cli.files import beside, cache_folder
from llmstream_cli.machine import free_disk
from llmstream_cli.models.bpe_tokenizer import Vocabulary, read_vocabulary
from llmstream_cli.models.candle_layout import Layout, UnfitError, find_layout, is_candle
from llmstream_cli.models.gguf_check import check_gguf
from llmstream_cli.models.gguf_format import DEFAULT_ALIGNMENT, GGUFHeader, Tensor, padded
from llmstream_cli.models.gguf_header import opened, read_header
from llmstream_cli.models.gguf_writer import Writable, encode_header
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.sizes import human_size

__all__ = ["find_repacked", "is_candle", "repack", "repacked"]

_BUFFER = 1 << 20  # bytes that are copied at once
_SOURCE_KEY = "llmstream.repacked_from"
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
    tensors = _renamed(header, layout)
    encoded = encode_header(metadata, list(tensors.values()))
    _check_room(target, len(encoded) + sum(t.size + DEFAULT_ALIGNMENT for t in tensors.values()))
    with opened(source) as (source_file, _), _replacing(target) as (part, file):
        file.write(encoded)
        sums = _copy(source_file, header, file, tensors, progress)
        file.flush()
        os.fsync(file.fileno())
        if _fingerprint(source, tokenizer) != fingerprint:
            raise ModelError(f"{source} has changed while it was repacked: try again")
        try:
            _read_back(part, sums, progress)
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


def _renamed(header: GGUFHeader, layout: Layout) -> dict[str, Tensor]:
    """Lay the tensors out one after the other, by candle's names and in candle's order."""
    tensors, end = dict[str, Tensor](), 0
    for name, tensor in header.tensors.items():
        if name in layout.names:
            tensors[name] = replace(tensor, name=layout.names[name], offset=end)
            end += padded(tensor.size, DEFAULT_ALIGNMENT)
    return tensors


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
def _replacing(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a file beside the target; put it in its place when the block has gone well."""
    part = beside(target)
    try:
        with _told_of(target):
            with part.open("xb") as file:
                yield part, file
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


def _copy(
    source: BufferedReader,
    header: GGUFHeader,
    target: BinaryIO,
    tensors: Mapping[str, Tensor],
    progress: Progress,
) -> dict[str, int]:
    """Append the tensors to the target; return a checksum of each, by its new name."""
    sums = dict[str, int]()
    progress.begin(
        f"repacking {Path(source.name).name}", sum(tensor.size for tensor in tensors.values())
    )
    try:
        for theirs, tensor in tensors.items():
            checksum = 0
            source.seek(header.data_offset + header.tensors[theirs].offset)
            for piece in _pieces(source, tensor.size):
                checksum = zlib.crc32(piece, checksum)
                target.write(piece)
                progress.advance(len(piece))
            target.write(bytes(padded(tensor.size, DEFAULT_ALIGNMENT) - tensor.size))
            sums[tensor.name] = checksum
    finally:
        progress.end()
    return sums


def _read_back(path: Path, sums: Mapping[str, int], progress: Progress) -> None:
    """Check that a written file is what llama.cpp takes, and holds the bytes that were copied."""
    header = check_gguf(path)
    progress.begin("checking the copy", sum(tensor.size for tensor in header.tensors.values()))
    try:
        with opened(path) as (file, _):
            for name, tensor in header.tensors.items():
                checksum = 0
                file.seek(header.data_offset + tensor.offset)
                for piece in _pieces(file, tensor.size):
                    checksum = zlib.crc32(piece, checksum)
                    progress.advance(len(piece))
                if checksum != sums.get(name):
                    raise ModelError(f"{path} was not written as it should be: is the disk sound?")
    finally:
        progress.end()


def _pieces(file: BufferedReader, size: int) -> Iterator[memoryview]:
    """Read `size` bytes through one buffer."""
    buffer = memoryview(bytearray(min(size, _BUFFER)))
    while size:
        try:
            count = file.readinto(buffer[: min(size, _BUFFER)])
        except OSError as error:
            raise ModelError(f"cannot read {file.name}: {error.strerror}") from error
        if not count:
            raise ModelError(f"{file.name} became shorter while it was read")
        yield buffer[:count]
        size -= count
