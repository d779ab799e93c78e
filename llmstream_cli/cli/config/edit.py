"""`llmstream config path` and `edit`: where the configuration file is, and an editor for it."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.cli.config.check import check_values
from llmstream_cli.cli.config.settings import SettingsCommand
from llmstream_cli.cli.process import leave_on_interrupt
from llmstream_cli.cli.terminal import complain, without_controls
from llmstream_cli.config import VARIABLE, config_path, load_config
from llmstream_cli.errors import ConfigError

_PRIVATE = 0o600  # it may come to hold a key

_EXAMPLE = """\
# What llmstream shall do without being told each time. `llmstream config show` lists all settings.

[defaults]                        # options by their names, for every command
# features = "smollm2"
# temperature = 0.2

[ask]                             # for one command, over [defaults]; as well: chat, serve, bench
# stats = true

[contexts]                        # system messages for --context
# reviewer = "You review Python code. Name the worst problem first."

# [presets.my-model]              # a model for --features
# repo = "user/repository"
# file = "model-Q4_K_M.gguf"
# sampling = { temperature = 0.7, top_p = 0.8 }
"""


def print_path() -> int:
    """Print where the file is; return the exit code.

    Raises:
        ConfigError: the environment says that there is none.
    """
    sys.stdout.write(f"{without_controls(str(_path()))}\n")
    return 0


def _path() -> Path:
    path = config_path()
    if path is None:
        raise ConfigError(f"{VARIABLE} is set and empty: no configuration file is used")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """The file to edit.

    Attributes:
        commands: all commands with settings, to check the file with.
    """

    commands: Mapping[str, SettingsCommand]

    def run(self) -> int:
        """Open the editor, and check the file when it is closed; return the exit code.

        Raises:
            ConfigError: there is no editor, or it fails, or the file says what it cannot say.
        """
        path = _path()
        _make(path)
        _open_editor(path)
        check_values(load_config(), self.commands)
        complain(f"{path} is in order\n")
        return 0


def _make(path: Path) -> None:
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_EXAMPLE)


def _open_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    editor = editor or ("notepad" if os.name == "nt" else "vi")
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the editor's
    try:
        done = subprocess.run([*shlex.split(editor), str(path)], check=False)  # noqa: S603
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot run the editor {editor}: {reason}; set EDITOR") from error
    if done.returncode:
        raise ConfigError(f"the editor {editor} failed with exit code {done.returncode}")
    leave_on_interrupt()
