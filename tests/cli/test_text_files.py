"""Each option that names a text file, on what editors, shells and other systems make of one."""

import codecs
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli.cli.ask.question import attach, read_grammar, read_schema
from llmstream_cli.cli.prompt import read_template
from llmstream_cli.cli.serve.run import read_keys
from llmstream_cli.errors import LLMStreamError

READERS: dict[str, tuple[Callable[[str], object], str, object]] = {
    "--schema": (read_schema, '{"const":\n"é"}', '{"const":\n"é"}'),
    "--grammar": (read_grammar, 'root ::= "é"\n', 'root ::= "é"\n'),
    "--template": (lambda name: read_template(name).template, "é\n{{ x }}", "é\n{{ x }}"),
    "--api-key-file": (lambda name: read_keys(["a"], name), "# é\nb\n\nc\n", ("a", "b", "c")),
    "--attach": (
        lambda name: attach("", [name]).partition(":\n\n")[2],
        "é\nx",
        "```\né\nx\n```",
    ),
}


@pytest.mark.parametrize("is_pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")],
    ids=["plain", "marked", "powershell"],
)
@pytest.mark.parametrize("option", READERS)
def test_a_text_is_read(
    tmp_path: Path, option: str, mark: bytes, encoding: str, is_pipe: bool
) -> None:
    read, text, expected = READERS[option]
    path = tmp_path / "text"
    data = mark + text.replace("\n", "\r\n").encode(encoding)
    if is_pipe:
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(data,)).start()
    else:
        path.write_bytes(data)
    assert read(str(path)) == expected


@pytest.mark.parametrize("option", READERS)
def test_what_is_no_text_is_refused(tmp_path: Path, option: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\x89PNG\0")
    with pytest.raises(LLMStreamError) as raised:
        READERS[option][0](str(path))
    assert str(raised.value) == f"{option}: {path} is not UTF-8 text: byte 0"
