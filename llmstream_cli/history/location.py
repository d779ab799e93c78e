"""Where the conversations are kept."""

import os
from pathlib import Path

VARIABLE = "LLMSTREAM_HISTORY"
OFF = "off"


def history_path() -> Path | None:
    """Return the file, which need not exist; None where nothing is to be kept.

    It is what `LLMSTREAM_HISTORY` names, and nothing where that is `off`; else `history.db` in the
    user's data folder as the system has it, such as `~/.local/share/llmstream`.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return None if chosen.lower() == OFF else Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("llmstream", appauthor=False) / "history.db"
