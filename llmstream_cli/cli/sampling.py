"""The sampling options of a command, over what suits the model."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmstream_cli.sampling import CONSTRAINTS, PARAMETERS, Parameter, SamplingParams

SETTABLE = {name: row for name, row in PARAMETERS.items() if row.flags}


class SamplingOptions:
    """What the user said of sampling, by the names of `SamplingParams`; nothing for None."""

    def __init__(self, **said: Any) -> None:
        given = {name: value for name, value in said.items() if value not in (None, (), [])}
        self.said: Mapping[str, Any] = given | {
            name: tuple(value) for name, value in given.items() if isinstance(value, list)
        }
        self.over({})  # now: finding the model may take long

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingOptions) and self.said == other.said

    def __hash__(self) -> int:
        return hash(tuple(self.said.items()))

    def __repr__(self) -> str:
        return f"SamplingOptions({self.said})"

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """Return the options; see `takes`."""
        return [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(row)
            )
            for name, row in SETTABLE.items()
        ]

    def changed(self, **said: Any) -> "SamplingOptions":
        """Return these with other values; None takes one back."""
        return SamplingOptions(**{**self.said, **said})

    def over(self, advised: Mapping[str, Any]) -> SamplingParams:
        """Return what the user said, else what the model's authors advise, else the defaults."""
        if self.said.keys() & CONSTRAINTS:  # a preset's stop strings are for free text
            advised = {name: value for name, value in advised.items() if name != "stop"}
        return SamplingParams(**{**advised, **self.said})

    @property
    def unset(self) -> tuple[str, ...]:
        """The parameters that the user did not set; see `GenerationRequest.unset`."""
        return tuple(name for name in PARAMETERS if name not in self.said)


def _annotation(row: Parameter) -> Any:
    """Return the type of an option, as Typer reads it."""
    several = row.default == ()
    kind: Any = list[row.kind] if several else row.kind  # type: ignore[name-defined]
    default: str | bool = row.unset or False
    if row.default not in (None, ()):
        default = f"{row.default}, or as its authors advise"
    option = typer.Option(
        *row.flags,
        metavar="TEXT" if row.kind is str else None,
        help=f"{row.help[0].upper()}{row.help[1:]}{'; may be repeated' if several else ''}.",
        rich_help_panel="Sampling",
        show_default=default,
    )
    return Annotated[kind | None, option]
