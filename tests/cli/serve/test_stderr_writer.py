"""A standard error that nobody reads, or that is none."""

import os
import sys

import pytest

from llmstream_cli.cli.serve.stderr_writer import BackgroundWriter, stderr_in_background


def lines_of(fd: int, last: str) -> list[str]:
    """Read lines from a pipe, up to the one that is to be the last."""
    with os.fdopen(fd) as reader:
        return [line.strip() for line in iter(reader.readline, last)] + [last.strip()]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_background_writer_drops_what_is_not_read_and_tells(blocking: bool) -> None:
    out, into = os.pipe()
    os.set_blocking(into, blocking)
    told: list[int] = []

    def tell(number: int) -> None:
        told.append(number)
        writer.write("end\n")

    line, count = "x" * 99, 10_000
    with os.fdopen(into, "w") as stream:
        writer = BackgroundWriter(stream, tell)
        for index in range(count):
            writer.write(f"{index} {line}\n")
        lines = lines_of(out, "end\n")
        writer.end(60)
    written = [int(text.split()[0]) for text in lines[:-1]]
    assert written == sorted(written)
    assert len(told) == 1
    assert len(written) + told[0] == count


def test_a_background_writer_ends_though_nobody_reads() -> None:
    out, into = os.pipe()
    with os.fdopen(into, "w") as stream:
        writer = BackgroundWriter(stream, lambda _: None)
        for _ in range(10_000):
            writer.write("x" * 100)
        writer.end(0.1)
        os.close(out)  # frees the thread, which ends with an error that nobody needs


def test_standard_error_is_as_it_was_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    with stderr_in_background(lambda _: None):
        print("caf\xe9", file=sys.stderr)
        assert sys.stderr is not before
    assert sys.stderr is before
    assert "caf" in capfd.readouterr().err


def test_a_standard_error_that_is_closed_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with stderr_in_background(lambda _: None):
        assert sys.stderr is None
