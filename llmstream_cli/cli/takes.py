"""Groups of options: a command that takes a group has all the options in it.

    class Loudness(NamedTuple):
        volume: Annotated[int, typer.Option(help="How loud.")] = 5
        mute: bool = False

    @takes
    def play(song: str, loudness: Loudness) -> int: ...

Typer sees `play(*, song, volume=5, mute=False)`. Groups can be in groups. A class with a method
`parameters` is a group as well, whose options are what that returns.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints


def takes(command: Callable[..., int]) -> Callable[..., int]:
    """Return a command with all options of its groups in its signature, which Typer reads."""
    own = list(inspect.signature(command).parameters.values())
    shown = [option for parameter in own for option in _options(parameter)]

    @functools.wraps(command)
    def run(**values: Any) -> int:
        return command(**{parameter.name: _value(parameter, values) for parameter in own})

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in shown}
    return run


def _options(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    if _is_group(parameter.annotation):
        for part in _parts(parameter.annotation):
            yield from _options(part)
    else:
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _value(parameter: inspect.Parameter, values: Mapping[str, Any]) -> Any:
    group = parameter.annotation
    if not _is_group(group):
        return values[parameter.name]
    return group(**{part.name: _value(part, values) for part in _parts(group)})


def _is_group(annotation: Any) -> bool:
    return hasattr(annotation, "_fields") or hasattr(annotation, "parameters")


def _parts(group: Any) -> list[inspect.Parameter]:
    if hasattr(group, "parameters"):
        made: list[inspect.Parameter] = group.parameters()
        return made
    defaults = group._field_defaults
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, inspect.Parameter.empty),
            annotation=annotation,
        )
        for name, annotation in get_type_hints(group, include_extras=True).items()
    ]
