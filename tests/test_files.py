"""The user's folders and files, in homes and encodings of all kinds."""

import codecs
import os
import threading
from pathlib import Path

import platformdirs
import pytest

from llmstream_cli import files
from llmstream_cli.errors import EditorError, InvalidValueError, LLMStreamError
from llmstream_cli.files import decode, read_text, replace_file, set_home, user_folder

TEXT = "größe 🇦🇹\nzwei"


@pytest.fixture
def no_such_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `docker run --user 1042`."""

    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME")


# ---- where they are -------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["", "  ", "here", "~/there", "/somewhere"])
@pytest.mark.parametrize("kind", ["config", "data", "cache"])
def test_folders_are_those_of_platformdirs(
    monkeypatch: pytest.MonkeyPatch, kind: str, chosen: str
) -> None:
    monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", chosen)
    usual = getattr(platformdirs, f"user_{kind}_path")("llmstream", appauthor=False)
    assert user_folder(kind) == usual  # type: ignore[arg-type]


@pytest.mark.parametrize("home", [None, "", "~", "here"])
def test_a_home_that_is_no_path_is_that_of_the_list_of_users(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.delenv("HOME")
    usual = str(Path.home())
    if home is not None:
        monkeypatch.setenv("HOME", home)
    set_home()
    assert os.environ["HOME"] == usual


@pytest.mark.usefixtures("no_such_user")
@pytest.mark.parametrize("home", [None, "", "~"])
def test_nothing_can_be_in_the_home_of_a_user_who_is_unknown(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = user_folder("data")
    assert folder.is_relative_to(os.devnull)
    assert not files.exists(folder)
    assert files.nearest_existing(folder) == Path(os.devnull)
    assert files.expand("~/x") == Path(os.devnull) / "x"
    with pytest.raises(OSError, match="Not a directory"):
        replace_file(folder / "x", "text")


@pytest.mark.parametrize("path", ["/dev/null/x", "no/such", "x" * 5000, "a\0b"])
def test_what_cannot_be_looked_at_is_not_there(path: str) -> None:
    assert not files.exists(Path(path))
    assert not files.is_file(Path(path))
    assert files.glob(Path(path), "*") == []


# ---- to read --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_mark_tells_the_encoding(tmp_path: Path, mark: bytes, encoding: str, ending: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(mark + TEXT.replace("\n", ending).encode(encoding))
    assert read_text(path, 1000) == TEXT


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"x" * 2049, "is longer than 2 KiB"),
        (b"a\xff", "is not UTF-8 text: byte 1"),
        (codecs.BOM_UTF8 + b"\xe2\x82", "is not UTF-8 text: byte 3"),
        (codecs.BOM_UTF16_LE + b"a", "is not UTF-16-LE text: byte 2"),
        (b"\x7fELF\x00\x01", "is binary, not text"),
        ("ab".encode("utf-16-le"), "is binary, not text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(EditorError) as raised:
        read_text(path, 2048, prefix="--x: ", error=EditorError)
    assert str(raised.value) == f"--x: {path} {complaint}"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no/such", "there is no file no/such"),
        ("/dev/null/x", "cannot read /dev/null/x: Not a directory"),
        ("/", "/ is a directory"),
        ("", "the name of the file is empty"),
        ("a\0b", "cannot read a\0b: embedded null byte"),
        ("x" * 5000, f"cannot read {'x' * 5000}: File name too long"),
        ("~nobody-has-this-name/x", "there is no file ~nobody-has-this-name/x"),
        ("/dev/zero", "/dev/zero is longer than 1 KiB"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, complaint: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        read_text(name, 1024, on_wait=lambda: None)
    assert str(raised.value) == complaint


def test_a_device_that_holds_nothing_is_empty() -> None:
    assert read_text(os.devnull, 10) == ""


def test_a_pipe_is_read_to_its_end_and_the_wait_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.01)
    os.mkfifo(tmp_path / "pipe")
    told = threading.Event()
    times = []

    def tell() -> None:
        times.append(1)
        told.set()

    def write() -> None:
        assert told.wait(60)  # which is told although nobody has opened the other end
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(codecs.BOM_UTF8 + b"a\r")
            pipe.write(b"\nb")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_text(tmp_path / "pipe", 10, on_wait=tell) == "a\nb"
    writer.join()
    assert times == [1]


def test_a_pipe_that_would_be_read_twice_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidValueError, match="is not a regular file"):
        read_text(tmp_path / "pipe", 10)


def test_a_limit_counts_bytes() -> None:
    assert decode("é".encode(), 2, "it") == "é"
    with pytest.raises(LLMStreamError, match="it is longer"):
        decode("é".encode(), 1, "it")


# ---- to write -------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "file"
    replace_file(path, "old")
    replace_file(path, TEXT)
    assert path.read_text("utf-8") == TEXT

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, "other")
    assert path.read_text("utf-8") == TEXT
    assert [one.name for one in path.parent.iterdir()] == ["file"]
