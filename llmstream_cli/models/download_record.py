"""What llmstream fetched into the Hugging Face cache, which other programs fill as well."""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from llmstream_cli.files import cache_folder, exists, replace_file


@dataclass(frozen=True, slots=True)
class DownloadRecord:
    """The record of one repository.

    It may be lost or damaged without harm: then a model counts as another program's, and the Hub
    is asked again which file a quantization means.

    Attributes:
        etags: files by their paths in the repository, with the name of the blob that was fetched.
        choices: the file that `REVISION:QUANT` meant, the quantization in capitals or empty.
    """

    etags: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, repo: str) -> Self:
        """Read the record of `user/repo`; an empty one where there is none."""
        try:
            found = json.loads(_path(repo).read_text())
        except (OSError, ValueError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        return cls(_strings(found.get("etags")), _strings(found.get("choices")))

    def choice(self, revision: str | None, quant: str | None) -> str | None:
        """Return the file that a quantization, or none, meant when it was fetched."""
        return self.choices.get(_choice_key(revision, quant))

    def has(self, file: str, pointer: Path) -> bool:
        """Whether the file that is found there is the one that llmstream fetched."""
        etag = self.etags.get(file)
        # Without symbolic links the file has no etag; then its name has to do.
        return etag is not None and (not pointer.is_symlink() or pointer.readlink().name == etag)

    @classmethod
    def add(
        cls,
        repo: str,
        etags: Mapping[str, str],
        choice: tuple[str | None, str | None, str] | None = None,
    ) -> None:
        """Remember fetched files, and the file that was chosen for a revision and quantization."""

        def change(record: DownloadRecord) -> None:
            record.etags.update(etags)
            if choice is not None:
                revision, quant, file = choice
                record.choices[_choice_key(revision, quant)] = file

        _change(repo, change)

    @classmethod
    def forget(cls, repo: str, files: Iterable[str]) -> None:
        """Forget files that are no longer in the cache."""
        if not exists(_path(repo)):
            return
        gone = set(files)

        def change(record: DownloadRecord) -> None:
            for file in gone:
                record.etags.pop(file, None)
            for key in [key for key, file in record.choices.items() if file in gone]:
                del record.choices[key]

        _change(repo, change)


def _change(repo: str, change: Callable[[DownloadRecord], None]) -> None:
    """Read the record, change it, write it whole; a folder that cannot be written is no matter."""
    from filelock import FileLock

    path = _path(repo)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=10):
            record = DownloadRecord.read(repo)
            change(record)
            content = {"etags": record.etags, "choices": record.choices}
            replace_file(path, json.dumps(content))


def _path(repo: str) -> Path:
    return cache_folder() / "downloads" / f"{repo.replace('/', '--')}.json"


def _choice_key(revision: str | None, quant: str | None) -> str:
    return f"{revision or 'main'}:{(quant or '').upper()}"


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if isinstance(item, str)}
