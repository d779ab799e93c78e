"""The Hugging Face cache on this machine, read and written without huggingface_hub.

    HF_HUB_CACHE/models--user--repo/
        blobs/ETAG                              contents; a large file's etag is its SHA-256
        blobs/ETAG.llmstream                    what has come of a download of ours
        snapshots/COMMIT/FILE -> ../../blobs/…  the files of a revision
        refs/REVISION                           the commit that a branch or a tag meant last

The layout is documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache; other
tools share it, so nothing here touches what it does not know. Importing huggingface_hub takes a
fifth of a second, and a model that is here already has to start sooner.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.errors import ModelError
from llmstream_cli.files import beside, expand, glob, is_file, replace_file
from llmstream_cli.models.download_record import DownloadRecord
from llmstream_cli.models.quants import DEFAULT_QUANTS, choose, part_names
from llmstream_cli.models.reference import HubModel

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_PARTIAL_AGE = 14 * 24 * 3600.0

# The suffix is our own, so that we never take another tool's leavings for ours, nor they ours.
PARTIAL_SUFFIX = ".llmstream"


def hub_folder() -> Path:
    """Return the cache folder, by the variables that huggingface_hub reads, as they are now."""
    env = os.environ.get
    home = env("HF_HOME") or f"{env('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    hub = env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return expand(os.path.expandvars(hub))


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """A repository's folder in the cache, which need not exist."""

    repo: str
    path: Path

    @classmethod
    def of(cls, repo: str) -> "RepoFolder":
        """Return the folder of `user/repo`."""
        return cls(repo, hub_folder() / f"models--{repo.replace('/', '--')}")

    def blob(self, etag: str) -> Path:
        """Where the contents with that etag are."""
        return self.path / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Where a download of ours grows."""
        return self.path / "blobs" / (etag + PARTIAL_SUFFIX)

    def lock(self, etag: str) -> Path:
        """The lock of a download, which huggingface_hub takes as well."""
        return self.path.parent / ".locks" / self.path.name / f"{etag}.lock"

    def pointer(self, commit: str, file: str) -> Path:
        """Where a file is found by its name."""
        return self.path / "snapshots" / commit / file

    def commit(self, revision: str | None) -> str | None:
        """Return the commit that a revision meant when it was last asked for."""
        revision = revision or "main"
        if _COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.path / "refs" / revision).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def snapshots(self) -> list[Path]:
        """Return the folders of all revisions, the newest first."""
        try:
            folders = [path for path in (self.path / "snapshots").iterdir() if path.is_dir()]
        except OSError:
            return []
        return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)

    def link(self, commit: str, file: str, etag: str) -> None:
        """Let a file of a revision point to its blob; where links cannot be, move the blob."""
        pointer, blob = self.pointer(commit, file), self.blob(etag)
        if is_file(pointer):
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        fresh = beside(pointer)
        try:
            fresh.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without symbolic links
            blob.replace(pointer)
        else:
            fresh.replace(pointer)

    def set_commit(self, revision: str | None, commit: str) -> None:
        """Remember what a branch or a tag means now."""
        revision = revision or "main"
        if revision == commit or self.commit(revision) == commit:
            return
        replace_file(self.path / "refs" / revision, commit)


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A GGUF file in one revision of a repository in the cache, whoever put it there.

    Attributes:
        repo: `user/repo`.
        file: its path in the repository; of a split file, the first part's.
        revision: the commit.
        paths: its files in the cache, first part first.
        size_bytes: what they hold together; revisions with the same file share it on the disk.
        last_used: when it was last read or written, in seconds since the epoch, as far as the
            file system tells.
        complete: whether no part of it is missing.
        ours: whether llmstream fetched all of it; else another program did.
    """

    repo: str
    file: str
    revision: str
    paths: tuple[Path, ...]
    size_bytes: int
    last_used: float
    complete: bool
    ours: bool


def cached_files(model: HubModel) -> tuple[Path, ...] | None:
    """Return the model's files where all of them are in the cache, without a network.

    A split file's parts come in order, first part first. None: something is missing, or only the
    Hub can tell which file the model is.
    """
    folder = RepoFolder.of(model.repo)
    commit = folder.commit(model.revision)
    if commit is None:
        return None
    file = model.file or _chosen_before(model, folder.path / "snapshots" / commit)
    return None if file is None else _parts_at(folder, commit, file)


def any_cached_files(model: HubModel) -> tuple[Path, ...] | None:
    """Like `cached_files`, for when the Hub cannot be asked: any revision or quantization does.

    What the user named is kept to: only what was left open is chosen from what is there.
    """
    folder = RepoFolder.of(model.repo)
    commit = folder.commit(model.revision)
    commits = [] if commit is None else [commit]
    if model.revision is None:
        commits += [snapshot.name for snapshot in folder.snapshots()]
    for commit in commits:
        names = _file_names(folder.path / "snapshots" / commit)
        file = model.file or choose(names, model.quant)
        found = None if file is None else _parts_at(folder, commit, file)
        if found is not None:
            return found
    return None


def list_cached() -> list[CachedModel]:
    """List the GGUF files in the Hugging Face cache, by repository, file and revision."""
    found: list[CachedModel] = []
    for path in glob(hub_folder(), "models--*--*"):
        folder = RepoFolder(path.name.removeprefix("models--").replace("--", "/", 1), path)
        record = DownloadRecord.read(folder.repo)
        for snapshot in folder.snapshots():
            found += _models_in(folder, snapshot, record)
    return sorted(found, key=lambda model: (model.repo, model.file, model.revision))


def remove(cached: CachedModel) -> int:
    """Delete a model of one revision from the cache and return the bytes that this set free.

    Contents that another revision also has stay, and then nothing of them is set free. Revisions,
    branches and folders that are empty afterwards go too.

    Raises:
        ModelError: it cannot be deleted.
    """
    folder = RepoFolder.of(cached.repo)
    freed = 0
    try:
        for pointer in cached.paths:
            freed += _remove_pointer(folder, pointer)
        _remove_empty_folders(folder, cached.revision)
    except OSError as error:
        raise ModelError(f"cannot remove {cached.file}: {error.strerror}") from error
    DownloadRecord.forget(cached.repo, part_names(cached.file))
    return freed


def sweep_partials() -> None:
    """Delete what downloads of ours left that nobody has gone on with for two weeks."""
    oldest = time.time() - _MAX_PARTIAL_AGE
    for path in glob(hub_folder(), f"models--*/blobs/*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _chosen_before(model: HubModel, snapshot: Path) -> str | None:
    """Return the file that the model is for sure: by a download of ours, or by its name."""
    recorded = DownloadRecord.read(model.repo).choice(model.revision, model.quant)
    if recorded is not None:
        return recorded
    return choose(_file_names(snapshot), model.quant or DEFAULT_QUANTS[0])


def _file_names(snapshot: Path) -> list[str]:
    return sorted(
        path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if is_file(path)
    )


def _parts_at(folder: RepoFolder, commit: str, file: str) -> tuple[Path, ...] | None:
    paths = tuple(folder.pointer(commit, part) for part in part_names(file))
    return paths if all(map(is_file, paths)) else None


def _models_in(folder: RepoFolder, snapshot: Path, record: DownloadRecord) -> Iterator[CachedModel]:
    names = {name for name in _file_names(snapshot) if name.lower().endswith(".gguf")}
    for first in sorted({part_names(name)[0] for name in names}):
        parts = part_names(first)
        there = [part for part in parts if part in names]
        paths = tuple(snapshot / part for part in there)
        stats = [path.stat() for path in paths]
        yield CachedModel(
            repo=folder.repo,
            file=first,
            revision=snapshot.name,
            paths=paths,
            size_bytes=sum(stat.st_size for stat in stats),
            last_used=max(max(stat.st_atime, stat.st_mtime) for stat in stats),
            complete=len(there) == len(parts),
            ours=all(record.has(part, path) for part, path in zip(there, paths, strict=True)),
        )


def _remove_pointer(folder: RepoFolder, pointer: Path) -> int:
    if not pointer.is_symlink():
        size = pointer.stat().st_size
        pointer.unlink()
        return size
    blob = Path(os.path.normpath(pointer.parent / pointer.readlink()))
    pointer.unlink()
    if blob.parent != folder.path / "blobs" or _is_linked(folder, blob):
        return 0
    # Newer releases of huggingface_hub may share a blob between repositories by another link.
    size = 0 if blob.is_symlink() else blob.stat().st_size
    blob.unlink()
    return size


def _is_linked(folder: RepoFolder, blob: Path) -> bool:
    return any(
        path.is_symlink() and path.readlink().name == blob.name
        for snapshot in folder.snapshots()
        for path in snapshot.rglob("*")
    )


def _remove_empty_folders(folder: RepoFolder, commit: str) -> None:
    snapshot = folder.path / "snapshots" / commit
    for path in sorted(snapshot.rglob("*"), reverse=True):  # a folder comes after what is in it
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if any(snapshot.iterdir()):
        return
    snapshot.rmdir()
    for ref in (folder.path / "refs").rglob("*"):
        if ref.is_file() and ref.read_text() == commit:
            ref.unlink()
    if not folder.snapshots() and not any((folder.path / "blobs").glob("*")):
        shutil.rmtree(folder.path)  # only records of what had been here are left
