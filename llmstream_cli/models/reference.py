"""What a user means by `--model TEXT`, and which of a repository's files that is.

Pure, but for the question whether there is such a file on this machine.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

from llmstream_cli.errors import ModelNotFoundError
from llmstream_cli.files import exists, expand, is_file

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")

# The Hub's rules for names: https://huggingface.co/docs/huggingface_hub, validate_repo_id.
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?!.*(--|\.\.)){_NAME}/{_NAME}(?<!\.git)")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,249}")
_MAX_PATH_CHARS = 1024

_FORMS = "a preset, FILE.gguf, user/repo, user/repo:QUANT or user/repo/FILE.gguf"

# llama.cpp's preference where no quantization is named (common/download.cpp, find_best_model).
_DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")
# What lies beside a model and is none itself, in llama.cpp's spelling: projectors for images,
# importance matrices, draft models for speculative decoding.
_COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
# Parts as llama-gguf-split names them.
_PART = re.compile(
    r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL
)
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_QUANT_AT_END = re.compile(
    r"(?<![a-z0-9])((?:UD-)?(?:(?:I?Q|TQ)\d|B?F16|F32|FP16|FP32|MXFP4|NVFP4)\w*)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model, or another file, in a repository on the Hugging Face Hub.

    Raises:
        ModelNotFoundError: one of the names cannot be one on the Hub.
    """

    repo: str  # user/repo
    quant: str | None = None  # such as Q4_K_M, in any case; None takes the default
    file: str | None = None  # its path; a split file by any of its parts; wins over `quant`
    revision: str | None = None  # a branch, a tag or a commit; None is `main`

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo):
            _refuse(f"{self.repo!r} is not the name of a repository; it should be user/repo")
        if self.quant is not None and not _QUANT.fullmatch(self.quant):
            _refuse(f"{self.quant!r} is not the name of a quantization such as Q4_K_M")
        if self.file is not None and not is_safe_path(self.file):
            _refuse(f"{self.file!r} cannot be the path of a file in a repository")
        if self.revision is not None and not (
            _REVISION.fullmatch(self.revision) and is_safe_path(self.revision)
        ):
            _refuse(f"{self.revision!r} cannot be a branch, a tag or a commit")

    def __str__(self) -> str:
        text = self.repo
        if self.file is not None:
            text += f"/{self.file}"
        elif self.quant is not None:
            text += f":{self.quant}"
        return text if self.revision is None else f"{text}@{self.revision}"


def is_safe_path(path: str) -> bool:
    """Whether a path from elsewhere stays inside the folder that it is joined to."""
    return (
        0 < len(path) <= _MAX_PATH_CHARS
        and path.isprintable()
        and "\\" not in path
        and {"", ".", ".."}.isdisjoint(path.split("/"))
    )


# ---- names ----------------------------------------------------------------------------------


def parse_reference(text: str) -> HubModel | Path | str:
    """Read what a user calls a model: one on the Hub, a file here, or the name of a preset.

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
    is_folder = text.endswith("/") and exists(path)
    if (is_folder or text.startswith(("/", ".", "~"))) and "\0" not in text:
        return path
    if not text.isprintable() or " " in text:
        _refuse(f"{text!r} is not a model's name; it should be {_FORMS}")
    if text.count("/") <= 1 and text.lower().endswith(".gguf"):
        return Path(text)
    return _parse_hub(text) if "/" in text else text


def _parse_hub(text: str) -> HubModel:
    """Read `user/repo[:QUANT]`, `user/repo/FILE.gguf`, with `@REVISION` at either place."""
    before, at, after = text.partition("@")
    before, colon, quant = before.partition(":")
    user, _, rest = before.partition("/")
    repo, _, file = rest.partition("/")
    revision = None
    if at:
        after, late_colon, late_quant = after.partition(":")
        colon, quant = (late_colon, late_quant) if late_colon else (colon, quant)
        revision, late_file = _split_revision(after.split("/"))
        file = file or late_file
    return _gguf_on_hub(f"{user}/{repo}", quant if colon else None, file or None, revision)


def _split_revision(segments: list[str]) -> tuple[str, str]:
    """Split `REVISION[/FILE]`; slashes in a revision are quoted, but for the Hub's `refs/pr/1`."""
    length = 3 if segments and segments[0] == "refs" else 1
    return unquote("/".join(segments[:length])), unquote("/".join(segments[length:]))


def _gguf_on_hub(repo: str, quant: str | None, file: str | None, revision: str | None) -> HubModel:
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
            return _gguf_on_hub(f"{user}/{repo}", None, shown[0], None)
        case [user, repo, "blob" | "resolve" | "raw", *rest]:
            revision, file = _split_revision(rest)
            return _gguf_on_hub(f"{user}/{repo}", None, file, revision)
        case [user, repo, "tree", *rest]:
            revision, folder = _split_revision(rest)
            if folder:
                _refuse(f"{text!r} is a folder; name a file in it, or {user}/{repo}:QUANT")
            return HubModel(f"{user}/{repo}", revision=revision)
    return _parse_hub("/".join(map(unquote, segments)))


def _refuse(message: str) -> NoReturn:
    raise ModelNotFoundError(message)


# ---- files of a repository ------------------------------------------------------------------


def is_model(file: str) -> bool:
    """Whether a file of a repository can be loaded as a model by itself or as the first part."""
    name = file.rsplit("/", 1)[-1]
    if not name.lower().endswith(".gguf") or any(word in name for word in _COMPANIONS):
        return False
    return file == part_names(file)[0]


def part_names(file: str) -> tuple[str, ...]:
    """Return all files of a split model, first part first; of any other file only itself."""
    match = _PART.fullmatch(file)
    if match is None or not 1 <= int(match["index"]) <= int(match["count"]):
        return (file,)
    stem, count, end = match["stem"], match["count"], file[-len(".gguf") :]
    return tuple(f"{stem}-{index:05}-of-{count}{end}" for index in range(1, int(count) + 1))


def model_name(file: str) -> str:
    """Return what a file's model goes by: its name without the ending, and a part's number."""
    match = _PART.fullmatch(file)
    return match["stem"] if match else re.sub(r"(?i)\.gguf$", "", file)


def quant_of(file: str) -> str | None:
    """Return the quantization that a file's name ends with, as it is written there."""
    found = _QUANT_AT_END.search(model_name(file))
    return found[1] if found else None


def choose(files: Iterable[str], quant: str | None) -> str | None:
    """Choose the model among a repository's files; of a split one, its first part.

    Without a quantization: Q4_K_M, then Q8_0, then the first model, as llama.cpp does. Unlike
    there, a quantization has to be a whole word of the name: `F16` does not mean `BF16`.
    """
    models = [file for file in files if is_model(file)]
    for wanted in _DEFAULT_QUANTS if quant is None else (quant,):
        word = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}[./-]", re.IGNORECASE)
        for file in models:
            if word.search(file):
                return file
    return models[0] if models and quant is None else None
