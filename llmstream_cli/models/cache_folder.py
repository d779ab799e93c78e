"""Where llmstream keeps what it can make again: repacked models and records of its downloads."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder, which need not exist: whoever writes to it makes it.

    It is `LLMSTREAM_CACHE` where that is set, else the user's cache folder as the system has it,
    such as `~/.cache/llmstream`. Downloads themselves lie in the Hugging Face cache.
    """
    chosen = os.environ.get("LLMSTREAM_CACHE")
    if chosen:
        return Path(os.path.expandvars(chosen)).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("llmstream", appauthor=False)
