"""Which model a word of the user's means, before anyone has looked whether it is here."""

from pathlib import Path
from typing import NamedTuple

from llmstream_cli.models.own_preset import OWN_PRESETS, OwnPreset
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.presets import PRESETS, find_preset
from llmstream_cli.models.reference import HubModel, LocalFile, PresetName, parse_reference

_BY_FILE = {
    Path(file).name.lower(): preset
    for preset in PRESETS.values()
    for file in (preset.source.file, *([preset.packaged.file] if preset.packaged else ()))
}


class NamedModel(NamedTuple):
    """What a name means.

    Attributes:
        name: the preset's name, or the word as it was typed.
        preset: the preset that was named, by its own name or by its file on the Hub.
        own: the user's own preset that was named.
        hub: where it is on the Hub; None for a file that is not from there.
        file: a file on this machine: the one that was named, or what an installed package carries
            of the preset that was named.
    """

    name: str
    preset: Preset | None = None
    hub: HubModel | None = None
    file: Path | None = None
    own: OwnPreset | None = None

    @property
    def is_called(self) -> bool:
        """Whether it was named by the name of a preset, not by where it is."""
        is_ours = self.preset is not None and self.name == self.preset.name
        return is_ours or self.own is not None

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer that the user's own preset names, if it does."""
        return None if self.own is None else self.own.tokenizer

    @property
    def is_packaged(self) -> bool:
        """Whether an installed package carries it."""
        return self.preset is not None and self.file is not None


def named_model(text: str) -> NamedModel:
    """Read what a user calls a model.

    Raises:
        ModelNotFoundError: nothing can be called that.
    """
    match parse_reference(text):
        case PresetName(name):
            return called_model(name)
        case LocalFile(path):
            return NamedModel(text, file=path)
        case HubModel() as model:
            return hub_model(text, model)


def called_model(name: str) -> NamedModel:
    """Return the model of the preset of that name; the user's own win.

    Raises:
        ModelNotFoundError: there is none.
    """
    own = OWN_PRESETS.get(name.lower())
    if own is None:
        return preset_model(find_preset(name))
    if isinstance(own.source, LocalFile):
        return NamedModel(own.name, file=own.source.path, own=own)
    return hub_model(own.name, own.source)._replace(own=own)


def preset_model(preset: Preset) -> NamedModel:
    """Return the model that a preset's name means."""
    source = preset.source
    hub = HubModel(source.repo, file=source.file, revision=source.revision)
    return NamedModel(preset.name, preset, hub, preset.packaged_file())


def hub_model(name: str, model: HubModel) -> NamedModel:
    """Return a model on the Hub, by its preset where it is the file of one."""
    return NamedModel(name, preset_of_repo(model.repo, model.file), model)


def preset_of_repo(repo: str, file: str | None) -> Preset | None:
    """Return the preset that is downloaded from there."""
    for preset in PRESETS.values():
        if (preset.source.repo, preset.source.file) == (repo, file):
            return preset
    return None


def preset_of_file(path: Path) -> Preset | None:
    """Return the preset whose file has that name, wherever it lies."""
    return _BY_FILE.get(path.name.lower())
