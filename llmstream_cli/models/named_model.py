"""Which model a word of the user's means, before anyone has looked whether it is here."""

from pathlib import Path
from typing import NamedTuple

from llmstream_cli.models.preset import Preset
from llmstream_cli.models.presets import OWN_PRESETS, PRESETS, find_preset
from llmstream_cli.models.reference import HubModel, parse_reference

_BY_FILE = {
    Path(file).name.lower(): preset
    for preset in PRESETS.values()
    for file in (preset.file, preset.package and preset.package.file)
    if file is not None
}


class NamedModel(NamedTuple):
    """What a name means."""

    name: str  # the preset's, or the word as it was typed
    preset: Preset | None = None  # by its own name, or by its file
    hub: HubModel | None = None  # None for a file that is not from the Hub
    file: Path | None = None  # on this machine: the one that was named, or the package's
    is_packaged: bool = False  # the file is one that an installed package carries
    tokenizer: str | None = None  # what the user's own preset names
    ctx_size: int | None = None  # likewise

    @property
    def is_called(self) -> bool:
        """Whether it was named by the name of a preset, not by where it is."""
        return self.preset is not None and self.name == self.preset.name


def named_model(text: str) -> NamedModel:
    """Read what a user calls a model.

    Raises:
        ModelNotFoundError: nothing can be called that.
    """
    match parse_reference(text):
        case HubModel() as model:
            return NamedModel(text, preset_of_hub(model), model)
        case Path() as path:
            return NamedModel(text, file=path)
        case name:
            return called_model(name)


def called_model(name: str) -> NamedModel:
    """Return the model of the preset of that name; the user's own win.

    Raises:
        ModelNotFoundError: there is none.
    """
    preset = find_preset(name)
    source = preset.source
    hub, file = (source, None) if isinstance(source, HubModel) else (None, source)
    if preset.name in OWN_PRESETS:
        merged = _over_ours(preset)
        return NamedModel(
            preset.name, merged, hub, file, tokenizer=preset.tokenizer, ctx_size=preset.ctx_size
        )
    packaged = preset.packaged_file()
    return NamedModel(preset.name, preset, hub, packaged, is_packaged=packaged is not None)


def _over_ours(own: Preset) -> Preset:
    """Return the user's own preset, with what is known of its file where that is one of ours."""
    ours = preset_of_file(own.source if isinstance(own.source, Path) else Path(own.file or ""))
    if ours is None:
        return own
    return ours._replace(
        name=own.name,
        source=own.source,
        chat_format=own.chat_format or ours.chat_format,
        sampling={**ours.sampling, **own.sampling},
        thinking={key: ours.thinking[key] for key in ours.thinking if key not in own.sampling},
    )


def preset_of_hub(model: HubModel) -> Preset | None:
    """Return the preset of ours that is downloaded from there."""
    for preset in PRESETS.values():
        if (preset.repo, preset.file) == (model.repo, model.file):
            return preset
    return None


def preset_of_file(path: Path) -> Preset | None:
    """Return the preset of ours whose file has that name, wherever it lies."""
    return _BY_FILE.get(path.name.lower())
