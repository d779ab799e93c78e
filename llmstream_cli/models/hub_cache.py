"""The Hugging Face cache on this machine.

    HF_HUB_CACHE/models--user--repo/
        blobs/ETAG                              contents; a large file's etag is its SHA-256
        blobs/ETAG.llmstream                    what has come of a download of ours
        snapshots/COMMIT/FILE -> ../../blobs/…  the files of a revision
        refs/REVISION                           the commit that a branch or a tag meant last

The layout is documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache, and
other tools share it. All of this does without huggingface_hub, whose import takes a fifth of a
second: a model that is here starts sooner, and a shell completes its name at once. Nor can its
`delete_revisions` remove one file of a revision that has several.
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
from llmstream_cli.models.reference import HubModel, choose, part_names

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_PARTIAL_AGE = 14 * 24 * 3600.0
_PARTIAL_SUFFIX = ".llmstream"  # no other tool takes a download of ours for its own


def hub_folder() -> Path:
    """Return the cache folder, by the variables that huggingface_hub reads, as they are now."""
    env = os.environ.get
    home = env("HF_HOME") or f"{env('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    hub = env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return expand(os.path.expandvars(hub))


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """A repository's folder in the cache, which need not exist."""

    repo: str  # user/repo
    path: Path

    @classmethod
    def of(cls, repo: str) -> "RepoFolder":
        return cls(repo, hub_folder() / f"models--{repo.replace('/', '--')}")

    def blob(self, etag: str) -> Path:
        return self.path / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Where a download of ours grows."""
        return self.path / "blobs" / (etag + _PARTIAL_SUFFIX)

    def lock(self, etag: str) -> Path:
        """The lock of a download, which huggingface_hub takes as well."""
        return self.path.parent / ".locks" / self.path.name / f"{etag}.lock"

    def pointer(self, commit: str, file: str) -> Path:
        """Where a file is found by its name."""
        return self.path / "snapshots" / commit / file

    def file_names(self, commit: str) -> list[str]:
        snapshot = self.path / "snapshots" / commit
        paths = (path for path in snapshot.rglob("*") if is_file(path))
        return sorted(path.relative_to(snapshot).as_posix() for path in paths)

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

    def commits(self) -> list[str]:
        """Return the revisions of which something is here, the newest first."""
        try:
            folders = [path for path in (self.path / "snapshots").iterdir() if path.is_dir()]
        except OSError:
            return []
        return [path.name for path in sorted(folders, key=_modified, reverse=True)]

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
        if revision != commit and self.commit(revision) != commit:
            replace_file(self.path / "refs" / revision, commit)


def cached_files(model: HubModel, *, any_revision: bool = False) -> tuple[Path, ...] | None:
    """Return a model's files in the cache, first part first; None if one is not there.

    Args:
        model: what is looked for; without a revision, at the one that `main` meant last.
        any_revision: where no revision is wanted, another than that will do.
    """
    folder = RepoFolder.of(model.repo)
    commit = folder.commit(model.revision)
    commits = [] if commit is None else [commit]
    if any_revision and model.revision is None:
        commits += folder.commits()
    for commit in commits:
        file = model.file or choose(folder.file_names(commit), model.quant)
        paths = tuple(folder.pointer(commit, part) for part in part_names(file)) if file else ()
        if paths and all(map(is_file, paths)):
            return paths
    return None


def sweep_partials() -> None:
    """Delete what downloads of ours left that nobody has gone on with for two weeks."""
    oldest = time.time() - _MAX_PARTIAL_AGE
    for path in glob(hub_folder(), f"models--*/blobs/*{_PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            if _modified(path) < oldest:
                path.unlink()


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A GGUF file in one revision of a repository in the cache, whoever put it there."""

    repo: str  # user/repo
    file: str  # its path in the repository; of a split file, the first part's
    revision: str  # the commit
    paths: tuple[Path, ...]  # first part first
    size_bytes: int  # of all parts; revisions with the same file share it on the disk
    last_used: float  # seconds since the epoch, as far as the file system tells
    complete: bool  # whether no part is missing


def list_cached() -> list[CachedModel]:
    """List the GGUF files in the Hugging Face cache, by repository, file and revision."""
    found: list[CachedModel] = []
    for path in glob(hub_folder(), "models--*--*"):
        folder = RepoFolder(path.name.removeprefix("models--").replace("--", "/", 1), path)
        for commit in folder.commits():
            found += _models_in(folder, commit)
    return sorted(found, key=lambda model: (model.repo, model.file, model.revision))


def _models_in(folder: RepoFolder, commit: str) -> Iterator[CachedModel]:
    names = {name for name in folder.file_names(commit) if name.lower().endswith(".gguf")}
    for first in {part_names(name)[0] for name in names}:
        parts = part_names(first)
        paths = tuple(folder.pointer(commit, part) for part in parts if part in names)
        stats = [path.stat() for path in paths]
        yield CachedModel(
            repo=folder.repo,
            file=first,
            revision=commit,
            paths=paths,
            size_bytes=sum(stat.st_size for stat in stats),
            last_used=max(max(stat.st_atime, stat.st_mtime) for stat in stats),
            complete=len(paths) == len(parts),
        )


def remove(cached: CachedModel) -> int:
    """Delete a model of one revision from the cache and return the bytes that this set free.

    Contents that another revision also has stay, and then nothing of them is set free. A revision
    that is empty afterwards goes too, and so does a repository.
    """
    folder = RepoFolder.of(cached.repo)
    before = _contents(folder)
    try:
        for path in cached.paths:
            path.unlink()
        gone = before.keys() - _contents(folder).keys()
        for blob in gone:
            blob.unlink(missing_ok=True)  # it may have lain in the place of its link
        if not folder.file_names(cached.revision):
            _remove_revision(folder, cached.revision)
    except OSError as error:
        raise ModelError(f"cannot remove {cached.file}: {error.strerror}") from error
    return sum(before[blob] for blob in gone)


def _contents(folder: RepoFolder) -> dict[Path, int]:
    """Return what the revisions of a repository link to, with the bytes that it takes.

    Newer releases of huggingface_hub may share contents between repositories by a further link,
    which takes none.
    """
    links = (path for path in (folder.path / "snapshots").rglob("*") if is_file(path))
    blobs = {
        Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path
        for path in links
    }
    return {blob: 0 if blob.is_symlink() else blob.stat().st_size for blob in blobs}


def _remove_revision(folder: RepoFolder, commit: str) -> None:
    """Remove a revision that has no file, and the repository if it was the last."""
    shutil.rmtree(folder.path / "snapshots" / commit)
    for ref in (folder.path / "refs").rglob("*"):
        if ref.is_file() and ref.read_text() == commit:
            ref.unlink()
    if not folder.commits() and not any((folder.path / "blobs").glob("*")):
        shutil.rmtree(folder.path)


def _modified(path: Path) -> float:
    return path.stat().st_mtime
