"""`--features` and `--model` of one command line, in the order in which they were given.

Parsers collect the values of each option by itself, which loses the order between the two.
"""

from typing import TYPE_CHECKING

import typer

from llmstream_cli.cli.config.settings import SettingsCommand
from llmstream_cli.errors import InvalidValueError

if TYPE_CHECKING:
    from llmstream_cli.models.resolve import ModelChoice

_KEY = f"{__name__}.choices"
_OPTIONS = {"features": "preset", "model": "model"}


class ModelOrderCommand(SettingsCommand):
    """A command that notes the order; `model_choices` returns it."""

    def parse_args(  # type: ignore[override]  # Typer makes contexts of its own type alone
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        """Parse twice: for the order, and as ever."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        remaining = {name: iter(values.get(name) or ()) for name in _OPTIONS}
        ctx.meta[_KEY] = [
            (param.name, next(remaining[param.name])) for param in order if param.name in remaining
        ]
        return super().parse_args(ctx, args)


def model_choices(
    ctx: typer.Context, *, file: str | None = None, tokenizer: str | None = None
) -> "tuple[ModelChoice, ...]":
    """Return the models that were named; else those that are kept, else the default.

    Args:
        ctx: of the command.
        file: what was said of the only model; see `ModelChoice`.
        tokenizer: the same.

    Raises:
        InvalidValueError: so much was said of more than one.
    """
    from llmstream_cli.models.resolve import ModelChoice

    kept = [(name, value) for name in _OPTIONS for value in ctx.params[name] or ()]
    named = [{_OPTIONS[name]: value} for name, value in ctx.meta[_KEY] or kept] or [{}]
    if len(named) > 1 and (file, tokenizer) != (None, None):
        raise InvalidValueError(
            "--file and --tokenizer go with one model; of several, name the file in --model, and "
            "put its tokenizer beside it"
        )
    return tuple(ModelChoice(**names, file=file, tokenizer=tokenizer) for names in named)
