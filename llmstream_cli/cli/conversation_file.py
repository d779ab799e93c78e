"""A conversation in a file of its own: `/save` and `/load`.

The file is JSON as `llmstream history show --json` prints it. To be loaded, it needs `turns`, each
with a `role` and a `content`; what else is there is taken where it makes sense.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.cli.terminal import read_file
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.files import expand
from llmstream_cli.history.records import Turn, as_json
from llmstream_cli.prompts.messages import Role

MAX_BYTES = 64 * 1024 * 1024

_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def save(conversation: Conversation, name: str, *, overwrite: bool) -> Path:
    """Write a conversation into a file; return its path.

    Args:
        conversation: what to write.
        name: of the file, `~` is the user's home.
        overwrite: whether it may be there already.

    Raises:
        InvalidValueError: it is there, or cannot be written.
    """
    turns = list(conversation.turns)
    if conversation.system is not None:
        turns.insert(0, Turn(role="system", content=conversation.system))
    text = json.dumps({"turns": [as_json(turn) for turn in turns]}, indent=2, ensure_ascii=False)
    try:
        path = expand(name)
        with path.open("wb" if overwrite else "xb") as file:
            file.write(text.encode("utf-8", "replace") + b"\n")
    except FileExistsError as error:
        raise InvalidValueError(f"{name} is there already; choose another name") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(f"cannot write {name}: {reason}") from error
    return path.absolute()


def load(name: str) -> tuple[Conversation, Path]:
    """Read a conversation; return it and the path of its file.

    Raises:
        InvalidValueError: there is no such file, or it holds no conversation.
    """
    text = read_file(name, MAX_BYTES)
    return Conversation.of(_turns(text, name)), expand(name).absolute()


def _turns(text: str, name: str) -> list[Turn]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{name} is not JSON") from error
    match content:
        case {"turns": [*items]}:
            return [_turn(item, number, name) for number, item in enumerate(items, 1)]
    raise InvalidValueError(f"{name} holds no conversation: it has no list of turns")


def _turn(item: Any, number: int, name: str) -> Turn:
    match item:
        case {"role": str(role), "content": str(content), **rest} if role in _ROLES:
            reasoning, model = rest.get("reasoning"), rest.get("model")
            return Turn(
                role=_ROLES[role],
                content=content,
                reasoning=reasoning if isinstance(reasoning, str) else "",
                model=model if isinstance(model, str) else "",
            )
    raise InvalidValueError(
        f"{name} holds no conversation: turn {number} has no role and content that could be"
    )
