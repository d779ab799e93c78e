"""What a user means by `--model TEXT`; pure but for the question whether a file is there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from llmstream_cli.errors import ModelNotFoundError
from llmstream_cli.files import expand, is_file

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")

# The Hub's rules for names: https://huggingface.co/docs/huggingface_hub, validate_repo_id.
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(f"{_NAME}/{_NAME}(?<!\\.git)")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,249}")

_MAX_PATH_CHARS = 1024

_FORMS = "a preset, FILE.gguf, user/repo, user/repo:QUANT or user/repo/FILE.gguf"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model, or another file, in a repository on the Hugging Face Hub.

    Attributes:
        repo: `user/repo`.
        quant: the quantization wanted, such as `Q4_K_M`, in any case; None takes the default.
        file: a file of the repository by its path there; a split file by any of its parts. It
            wins over `quant`.
        revision: a branch, a tag or a commit; None is `main`.

    Raises:
        ModelNotFoundError: one of them cannot be a name on the Hub.
    """

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo) or "--" in self.repo or ".." in self.repo:
            _refuse(f"{self.repo!r} is not the name of a repository; it should be user/repo")
        if self.quant is not None and not _QUANT.fullmatch(self.quant):
            _refuse(f"{self.quant!r} is not the name of a quantization such as Q4_K_M")
        if self.file is not None and not is_safe_file(self.file):
            _refuse(f"{self.file!r} cannot be the path of a file in a repository")
        if self.revision is not None and not (
            _REVISION.fullmatch(self.revision) and is_safe_file(self.revision)
        ):
            _refuse(f"{self.revision!r} cannot be a branch, a tag or a commit")

    def __str__(self) -> str:
        text = self.repo
        if self.file is not None:
            text += f"/{self.file}"
        elif self.quant is not None:
            text += f":{self.quant}"
        return text if self.revision is None else f"{text}@{self.revision}"


def is_safe_file(path: str) -> bool:
    """Whether a path from elsewhere stays inside the folder that it is joined to."""
    return (
        0 < len(path) <= _MAX_PATH_CHARS
        and path.isprintable()
        and "\\" not in path
        and all(part not in {"", ".", ".."} for part in path.split("/"))
    )


def parse_reference(text: str) -> HubModel | Path | str:
    """Read what a user calls a model: one on the Hub, a file here, or the name of a preset.

    Whether there is such a file or preset shows when it is looked for.

    A file that is there always wins. Else the forms are: a preset's name, a path that begins with
    `/`, `.` or `~` or is a bare `NAME.gguf`, `user/repo`, `user/repo:QUANT`,
    `user/repo/FILE.gguf`, each of the last three with `@REVISION` behind the repository or at
    the end, and addresses of the Hub's pages.

    Raises:
        ModelNotFoundError: it cannot be a preset, a file or a model on the Hub.
    """
    if not text.strip():
        _refuse(f"the name of the model is empty; it should be {_FORMS}")
    path = expand(text)
    if is_file(path):
        return path
    if "://" in text or text.lower().startswith(tuple(f"{host}/" for host in _HOSTS)):
        return _parse_address(text)
    if text.startswith(("/", ".", "~")) and "\0" not in text:
        return path
    if not text.isprintable() or " " in text:
        _refuse(f"{text!r} is not a model's name; it should be {_FORMS}")
    if text.count("/") <= 1 and text.lower().endswith(".gguf"):
        return Path(text)
    return _parse_hub(text) if "/" in text else text


def _parse_hub(text: str) -> HubModel:
    """Read `user/repo[:QUANT]`, `user/repo/FILE.gguf`, with `@REVISION` at either place."""
    before, at, after = text.partition("@")
    before, _, quant = before.partition(":")
    user, _, rest = before.partition("/")
    repo, _, file = rest.partition("/")
    revision = None
    if at:
        after, colon, late_quant = after.partition(":")
        quant = late_quant if colon else quant
        revision, late_file = _split_revision(after.split("/"))
        file = file or late_file
    return _hub_model(f"{user}/{repo}", quant if ":" in text else None, file or None, revision)


def _split_revision(segments: list[str]) -> tuple[str, str]:
    """Split `REVISION[/FILE]`; slashes in a revision are quoted, but for the Hub's `refs/pr/1`."""
    length = 3 if segments and segments[0] == "refs" else 1
    revision, file = segments[:length], segments[length:]
    return unquote("/".join(revision)), unquote("/".join(file))


def _hub_model(repo: str, quant: str | None, file: str | None, revision: str | None) -> HubModel:
    model = HubModel(repo, quant, file, revision)
    if file is not None and quant is not None:
        _refuse(f"{repo} with both a file and a quantization; name one of them")
    if file is not None and not file.lower().endswith(".gguf"):
        _refuse(f"{file!r} of {repo} is not a GGUF file")
    return model


def _parse_address(text: str) -> HubModel:
    """Read the address of a repository, or of a file in it, as a browser shows it."""
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        host = url.hostname
    except ValueError as error:
        raise ModelNotFoundError(f"{text!r} is not an address: {error}") from error
    if url.scheme not in {"http", "https"} or host not in _HOSTS or url.username is not None:
        _refuse(f"models are fetched from huggingface.co only, not from {text!r}")
    segments = url.path.strip("/").split("/")
    shown = parse_qs(url.query).get("show_file_info")  # the page that shows a file's header
    match segments:
        case ["datasets" | "spaces" | "collections" | "models" | "docs" | "api", *_]:
            _refuse(f"{text!r} is not the address of a model")
        case [user, repo, *_] if shown:
            return _hub_model(f"{user}/{repo}", None, shown[0], None)
        case [user, repo, "blob" | "resolve" | "raw", *rest]:
            revision, file = _split_revision(rest)
            return _hub_model(f"{user}/{repo}", None, file, revision)
        case [user, repo, "tree", *rest]:
            revision, folder = _split_revision(rest)
            if folder:
                _refuse(f"{text!r} is a folder; name a file in it, or {user}/{repo}:QUANT")
            return HubModel(f"{user}/{repo}", revision=revision)
    return _parse_hub("/".join(map(unquote, segments)))


def _refuse(message: str) -> NoReturn:
    raise ModelNotFoundError(message)
