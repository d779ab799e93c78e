"""What a shell may offer for a value: names of models, contexts and prompt formats.

Each function is called by the shell at a press of the Tab key, in a process of its own. It returns
all names, of which those are offered that begin as the word does; where none does, the shell
offers files. Nothing slow is imported, and what cannot be read is left out without a word.

Cached files are named with a slash, as `user/repo/FILE.gguf`: bash would take a colon for the end
of a word.
"""

import contextlib

from llmstream_cli.errors import LLMStreamError
from llmstream_cli.files import exists


def presets() -> list[str]:
    """Return the names for `--features`."""
    from llmstream_cli.models.presets import PRESETS

    names = dict.fromkeys(PRESETS)
    with contextlib.suppress(LLMStreamError):
        from llmstream_cli.config import load_config

        names.update(dict.fromkeys(load_config().presets))
    return list(names)


def models() -> list[str]:
    """Return the names for `--model`: presets, and what is in the Hugging Face cache."""
    return presets() + cached_models()


def cached_models() -> list[str]:
    """Return the files in the Hugging Face cache."""
    from llmstream_cli.models.hub_cache import list_cached

    with contextlib.suppress(OSError):
        cached = (f"{model.repo}/{model.file}" for model in list_cached() if model.complete)
        return list(dict.fromkeys(cached))
    return []


def contexts() -> list[str]:
    """Return the names for `--context`."""
    from llmstream_cli.cli.prompt import known_contexts
    from llmstream_cli.prompts.contexts import CONTEXTS

    with contextlib.suppress(LLMStreamError):
        return list(known_contexts())
    return list(CONTEXTS)


def templates() -> list[str]:
    """Return the names for `--template`."""
    from llmstream_cli.prompts.formats import FORMATS

    return list(FORMATS)


def sessions() -> list[str]:
    """Return the names for `--session`, those that changed last first."""
    with contextlib.suppress(LLMStreamError):
        from llmstream_cli.config import history_path, load_config
        from llmstream_cli.history.store import History

        path = history_path(load_config())
        if path is not None and exists(path):
            with History.open(path) as history:
                return [session.name for session in history.sessions() if session.name is not None]
    return []
