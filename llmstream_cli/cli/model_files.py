"""From what a user calls a model to what is on this machine of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.models import candle, hub
from llmstream_cli.models.hub import CachedModel
from llmstream_cli.models.own_preset import OWN_PRESETS
from llmstream_cli.models.preset import CandleFile, Preset
from llmstream_cli.models.presets import PRESETS, find_preset
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.quants import choose, part_names
from llmstream_cli.models.reference import HubModel, LocalFile, PresetName, parse_reference
from llmstream_cli.models.resolve import ModelChoice, resolve


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What a word of the command line names.

    Attributes:
        name: the preset's name, or the word as it was typed.
        preset: the preset, if it is one, or the file of one.
        hub: where it is on the Hub; None for a file that is not from there.
        file: a file on this machine that the word itself names.
    """

    name: str
    preset: Preset | None = None
    hub: HubModel | None = None
    file: Path | None = None


def named_model(text: str) -> NamedModel:
    """Read what a user calls a model.

    Raises:
        ModelNotFoundError: nothing can be called that.
    """
    match parse_reference(text):
        case PresetName(name) if own := OWN_PRESETS.get(name.lower()):
            if isinstance(own.source, LocalFile):
                return NamedModel(own.name, file=own.source.path)
            return NamedModel(own.name, _preset_of(own.source.repo, own.source.file), own.source)
        case PresetName(name):
            preset = find_preset(name)
            return NamedModel(preset.name, preset, on_hub(preset))
        case LocalFile(path):
            return NamedModel(text, file=path)
        case HubModel() as model:
            return NamedModel(text, _preset_of(model.repo, model.file), model)


def on_hub(preset: Preset) -> HubModel:
    """Return where a preset's file is on the Hub."""
    source = preset.source
    return HubModel(source.repo, file=source.file, revision=source.revision)


def _preset_of(repo: str, file: str | None) -> Preset | None:
    for preset in PRESETS.values():
        if (preset.source.repo, preset.source.file) == (repo, file):
            return preset
    return None


def find_file(model: NamedModel) -> Path | None:
    """Return the file that llama.cpp would load, without a network; None if it is not here."""
    if model.file is not None:
        return model.file
    if model.preset is not None and (packaged := model.preset.packaged_file()) is not None:
        return packaged
    found = hub.cached_files(model.hub) if model.hub is not None else None
    if found is None:
        return None
    if model.preset is not None and isinstance(model.preset.source, CandleFile):
        return _find_repacked(found[0], model.preset.source)
    return found[0]


def fetch_file(model: NamedModel, progress: Progress, *, max_bytes_in_memory: int | None) -> Path:
    """Download what is missing of a model and return the file that llama.cpp loads.

    Unlike `resolve`, which takes what is here, this asks the Hub whether there is a newer one.

    Args:
        model: a model on the Hub.
        progress: is told what goes on.
        max_bytes_in_memory: refuse a model with larger files; None takes any.

    Raises:
        ModelError: it cannot be had, or there is no room for it; see `hub.fetch`.
    """
    assert model.hub is not None
    found = hub.fetch(model.hub, progress, max_bytes_in_memory=max_bytes_in_memory)
    if model.hub.file is None or _preset_of(model.hub.repo, model.hub.file) is None:
        choice = ModelChoice(model=str(found[0]))
    else:
        choice = ModelChoice(model=str(model.hub))
    return resolve(choice, progress, any_size=True).path  # repacked and checked


def find_copies(model: NamedModel) -> list[CachedModel]:
    """Return what the Hugging Face cache has of a model, in all revisions."""
    wanted = model.hub
    if wanted is None:
        return []
    first = part_names(wanted.file)[0] if wanted.file is not None else None
    return [
        copy
        for copy in hub.list_cached()
        if copy.repo == wanted.repo
        and first in {None, copy.file}
        and (wanted.quant is None or choose([copy.file], wanted.quant) is not None)
        and (wanted.revision is None or copy.revision.startswith(wanted.revision))
    ]


def find_repacked_copies(copies: list[CachedModel]) -> Iterator[Path]:
    """Find the copies that were repacked for llama.cpp of files in candle's layout."""
    for copy in copies:
        preset = _preset_of(copy.repo, copy.file)
        if preset is not None and isinstance(preset.source, CandleFile) and copy.complete:
            repacked = _find_repacked(copy.paths[0], preset.source)
            if repacked is not None:
                yield repacked


def _find_repacked(path: Path, source: CandleFile) -> Path | None:
    tokenizer = hub.cached_files(_tokenizer(source))
    return candle.find_repacked(path, tokenizer[0]) if tokenizer is not None else None


def _tokenizer(source: CandleFile) -> HubModel:
    return HubModel(source.repo, file=source.tokenizer, revision=source.revision)
