"""What the options about the prompt mean: `--template`, `--context`."""

from pathlib import Path

from llmstream_cli.cli.terminal import read_file
from llmstream_cli.errors import InvalidValueError, PromptError
from llmstream_cli.files import exists, expand
from llmstream_cli.prompts.formats import FORMATS, ChatFormat, find_format

_MAX_TEMPLATE_BYTES = 1024 * 1024


def read_template(text: str) -> ChatFormat:
    """Return the prompt format of that name, else the template in the file of that name.

    A file's template is compiled here, so that a mistake in it shows before a model is loaded.
    """
    if text.lower() in FORMATS:
        return find_format(text)
    path = Path(text)
    if not exists(expand(text)) and len(path.parts) == 1 and not path.suffix:
        return find_format(text)  # which fails, and says what there is
    source = read_file(text, _MAX_TEMPLATE_BYTES, prefix="--template: ")
    from llmstream_cli.prompts.template import ChatTemplate

    try:
        ChatTemplate(source)
    except PromptError as error:
        raise InvalidValueError(f"--template {text}: {error}") from error
    return ChatFormat(path.name, source)


def preset_format(name: str | None) -> ChatFormat | None:
    """Return the prompt format that a preset names for a file without a template, if it does."""
    return None if name is None else find_format(name)


def known_contexts() -> dict[str, str]:
    """Return all named contexts, the user's own among them; they win over ours."""
    from llmstream_cli.cli.config.file import load_config
    from llmstream_cli.prompts.contexts import CONTEXTS

    return {**CONTEXTS, **load_config().contexts}


def context_message(name: str) -> str:
    """Return the system message of the named context."""
    from llmstream_cli.prompts.contexts import find_context

    return find_context(name, known_contexts())
