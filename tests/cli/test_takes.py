"""Groups of options."""

from typing import Annotated, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from llmstream_cli.cli.options import takes


class Inner(NamedTuple):
    size: Annotated[int, typer.Option("--size", "-s", min=1)] = 5
    mute: bool = False


class Outer(NamedTuple):
    inner: Inner = Inner()
    names: Annotated[list[str] | None, typer.Option("--name", envvar="NAMES")] = None


app = typer.Typer()


@app.command()
@takes
def play(context: typer.Context, group: Outer, song: str, loud: bool = False) -> int:
    """Play a song."""
    assert context.params["size"] == group.inner.size
    typer.echo((song, group, loud))
    return 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tune", ("tune", Outer(Inner(5, False), None), False)),
        ("-s 7 --mute tune --loud", ("tune", Outer(Inner(7, True), None), True)),
        ("tune --name a --name b", ("tune", Outer(Inner(5, False), ["a", "b"]), False)),
    ],
)
def test_groups_get_their_options(line: str, expected: tuple[object, ...]) -> None:
    done = CliRunner().invoke(app, line.split())
    assert done.output == f"{expected}\n"


def test_an_option_of_a_group_keeps_its_bounds_variable_and_help() -> None:
    assert CliRunner().invoke(app, ["tune", "--size", "0"]).exit_code == 2
    assert "['x', 'y']" in CliRunner().invoke(app, ["tune"], env={"NAMES": "x y"}).output
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "Play a song." in shown
    assert "--size" in shown
