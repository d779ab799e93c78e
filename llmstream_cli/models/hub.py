"""Models on the Hugging Face Hub: from a `HubModel` to files on this machine."""

from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A GGUF model in the Hugging Face cache, whoever put it there.

    Attributes:
        repo: `user/repo`.
        file: its path in the repository; of a split file, the first part's.
        revision: the commit.
        paths: its files in the cache, all parts of it, first part first.
        size_bytes: what they hold together.
        last_used: when a part of it was last read or written, in seconds since the epoch.
        ours: whether llmstream fetched it; else another program did.
    """

    repo: str
    file: str
    revision: str
    paths: tuple[Path, ...]
    size_bytes: int
    last_used: float
    ours: bool


def cached_files(model: HubModel) -> tuple[Path, ...] | None:
    """Return the model's files where all of them are in the cache, without a network.

    A split file's parts come in order, first part first. None: something is missing.
    """
    raise NotImplementedError


def fetch(
    model: HubModel, progress: Progress, *, max_bytes_in_memory: int | None = None
) -> tuple[Path, ...]:
    """Download what is missing of a model and return its files, first part first.

    Args:
        model: what to fetch; also files that are no models, such as a tokenizer's JSON.
        progress: is told of each file.
        max_bytes_in_memory: refuse a model with larger files together; None takes any.

    Raises:
        ModelNotFoundError: there is no such repository, revision, file or quantization.
        NoRoomError: it fits neither the disk nor `max_bytes_in_memory`.
        DownloadError: the Hub cannot be reached, refuses, or sent something else.
    """
    raise NotImplementedError


def list_cached() -> list[CachedModel]:
    """List the GGUF models in the Hugging Face cache, by repository and file."""
    raise NotImplementedError


def remove(cached: CachedModel) -> int:
    """Delete a model from the cache and return how many bytes that set free.

    Blobs that another snapshot links to stay.

    Raises:
        ModelError: it cannot be deleted.
    """
    raise NotImplementedError
