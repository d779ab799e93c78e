"""`llmstream embed`: lines of JSON, exit codes, and what is refused."""

import json
import math
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.gguf_files import RANK, write_bert
from tests.server.fakes import serving


@pytest.fixture
def model(tmp_path: Path, home: Path) -> str:
    return str(write_bert(tmp_path / "m.gguf"))


def rows(written: str) -> list[tuple[str, list[float]]]:
    lines = [json.loads(line) for line in written.splitlines()]
    return [(line["text"], line["embedding"]) for line in lines]


def test_a_line_for_each_text_wherever_it_comes_from(cli: Cli, model: str, tmp_path: Path) -> None:
    code, written, said = cli("embed", "the", "and é", "", "--model", model)
    assert (code, said) == (0, "")
    found = rows(written)
    assert [text for text, _ in found] == ["the", "and é", ""]
    for _, vector in found:
        assert len(vector) == 64
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    file = tmp_path / "lines.txt"
    file.write_text("the\nand é\n\n", encoding="utf-8")
    for arguments, stdin in (
        (("--input", str(file)), b""),
        ((), b"the\r\nand \xc3\xa9\n\n"),
        (("-",), b"the\nand \xc3\xa9\n\n"),
    ):
        assert cli("embed", *arguments, "--model", model, stdin=stdin) == (0, written, "")


def test_dimensions_and_truncation(cli: Cli, model: str) -> None:
    _, written, _ = cli("embed", "the", "--model", model, "--dimensions", "3")
    ((_, vector),) = rows(written)
    assert len(vector) == 3
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)
    long = "the " * 100
    complaint = "llmstream: the input has 102 tokens, and the model takes at most 64; shorten it"
    code, written, said = cli("embed", long, "--model", model)
    assert (code, written) == (1, "")
    assert said.startswith(complaint)
    assert said.count("\n") == 1
    assert cli("embed", long, "--model", model, "--truncate")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "there is no text; give some, or pipe lines to standard input"),
        (("a", "--input", "b"), "texts and --input exclude each other"),
        (("a", "--dimensions", "0"), "--dimensions must be 1 or more"),
        (("a", "--dimensions", "65"), "--dimensions is 65, and the vectors have 64"),
    ],
)
def test_what_cannot_be_is_a_line(
    cli: Cli, model: str, arguments: tuple[str, ...], complaint: str
) -> None:
    assert cli("embed", *arguments, "--model", model) == (2, "", f"llmstream: {complaint}\n")


def test_a_reranker_makes_no_vectors(cli: Cli, home: Path, tmp_path: Path) -> None:
    path = str(write_bert(tmp_path / "r.gguf", RANK))
    code, written, said = cli("embed", "a", "--model", path)
    assert (code, written) == (1, "")
    assert said == "llmstream: cannot embed with r: it is a reranker; choose a model that embeds\n"


async def test_another_server_embeds(home: Path) -> None:
    from llmstream_cli.api import EmbeddingRequest
    from llmstream_cli.engines.remote import RemoteEngine

    async with serving() as served:
        engine = RemoteEngine(served.url)
        found = await engine.embed(EmbeddingRequest(tuple("ab" * 50), truncate=True))
        assert len(found.vectors) == 100
        assert {len(vector) for vector in found.vectors} == {16}
        assert found.num_tokens == 14  # of two requests
        scores = await engine.embed(EmbeddingRequest(("a", "b"), query="?"))
        assert {len(vector) for vector in scores.vectors} == {4}
        await engine.aclose()
