"""The configuration file: what it says, and how it says what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from platformdirs import user_config_path

from llmstream_cli.cli.config.file import (
    MAX_BYTES,
    Config,
    config_path,
    history_path,
    load_config,
    parse_config,
    why_no_history,
)
from llmstream_cli.errors import ConfigError

CONTEXTS = """\
[contexts]
pirate = "You answer like a pirate."
poet = \"\"\"
You answer
in verse.\"\"\"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, without a configuration file."""
    monkeypatch.delenv("LLMSTREAM_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def refusal(text: str) -> str:
    """The message, one line with the file in it, with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Path("my.toml"))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("my.toml")
    return message


# ---- where it is ----------------------------------------------------------------------------


def test_it_is_in_the_users_configuration_folder_or_where_the_variable_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_config() == Config()
    path = config_path()
    assert path == user_config_path("llmstream", appauthor=False) / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(CONTEXTS)
    assert load_config().contexts == {
        "pirate": "You answer like a pirate.",
        "poet": "You answer\nin verse.",
    }
    monkeypatch.setenv("LLMSTREAM_CONFIG", "")
    assert (config_path(), load_config()) == (None, Config())
    monkeypatch.setenv("LLMSTREAM_CONFIG", "~nobody-of-that-name/x.toml")
    with pytest.raises(ConfigError, match=r"names ~nobody-of-that-name/x\.toml, and there is no"):
        load_config()


def test_below_what_is_no_folder_there_is_no_file_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LLMSTREAM_CONFIG", raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, os.devnull)
    config = load_config()
    assert (config, history_path(config)) == (Config(), None)
    assert why_no_history(config).startswith("/dev/null/llmstream cannot be a folder")
    monkeypatch.setenv("LLMSTREAM_CONFIG", "/dev/null/config.toml")
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config()
    monkeypatch.setenv("LLMSTREAM_CONFIG", os.devnull)
    assert load_config().path == Path(os.devnull)


def test_a_file_that_may_not_be_read_is_told_of_and_nothing_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have said that nothing shall be."""
    path = config_path()
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_text(CONTEXTS)
    monkeypatch.setattr("os.access", lambda *_: False)
    config = load_config()
    assert config.unreadable == f"{path} cannot be read: Permission denied"
    assert (config.contexts, history_path(config)) == ({}, None)
    assert why_no_history(config).endswith("and it may switch the history off")
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    with pytest.raises(ConfigError, match=r"cannot read .*: Permission denied"):
        load_config()


@pytest.mark.parametrize(("mode", "is_private"), [(0o600, True), (0o644, False), (0o640, False)])
def test_a_file_tells_whether_others_can_read_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_private: bool
) -> None:
    (home / "x.toml").write_text("")
    (home / "x.toml").chmod(mode)
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(home / "x.toml"))
    assert load_config().is_private is is_private


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"#" * (MAX_BYTES + 1), "is longer than 64 KiB"),
        (b"[contexts]\na = '\xff'", "is not UTF-8 text: byte 16"),
        (None, "is not a regular file"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    path = home / "x.toml"
    if content is None:
        os.mkfifo(path)  # to read it would wait for ever
    else:
        path.write_bytes(content)
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    with pytest.raises(ConfigError, match=reason):
        load_config()


def test_a_file_of_the_largest_size_and_windows_line_ends_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b'\xef\xbb\xbf[contexts]\r\na = "b"\r\n#'
    path = home / "x.toml"
    path.write_bytes(text + b"x" * (MAX_BYTES - len(text)))
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    assert load_config().contexts == {"a": "b"}


# ---- what it says ---------------------------------------------------------------------------


def test_an_empty_file_says_nothing() -> None:
    assert parse_config("", Path("my.toml")) == Config(path=Path("my.toml"))


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ('context = "x"', 1, "there is no table 'context'; did you mean contexts?"),
        ("\n\nzzz = 1", 3, "there is no table 'zzz'; known: defaults, ask, chat, serve"),
        ("[[zzz]]\na = 1", 1, "there is no table 'zzz'; known: defaults"),
        ("# one\n[contexts]\n[zzz.table]", 3, "there is no table 'zzz'; known: defaults"),
        ("defaults = 5", 1, "defaults has to be a table of lines name = value"),
        ("[[serve]]\nport = 1", 1, "serve has to be a table of lines name = value"),
        ("presets = 5", 1, "presets has to be tables [presets.NAME]"),
        ("[presets]\na = 5", 2, "the preset a has to be a table"),
        ("[presets.'a b']", 1, "the preset 'a b' needs a name of 1 to 64 letters"),
        ("[history]\n\nenable = true", 3, "there is no setting 'enable'; did you mean enabled?"),
        ("[history]\nenabled = 1", 2, "enabled has to be true or false"),
        ("[history]\npath = ''", 2, "path has to be the name of a file"),
        ("history = 1", 1, "history has to be a table"),
        ("contexts = 5", 1, 'contexts has to be a table of lines name = "text"'),
        ("[[contexts]]", 1, 'contexts has to be a table of lines name = "text"'),
        ("[contexts]\na = 1", 2, "the context a has to be text"),
        ("[contexts]\na = '  '", 2, "the context a has to be text"),
        ("[contexts]\r\n\r\na = 1\r\n", 3, "the context a has to be text"),
        ("[contexts.a]\nb = 'x'", 1, "the context a has to be text"),
        ("contexts.a.b = 'x'", 1, "the context a has to be text"),
        ("contexts = { a = 'x', b = 1 }", 1, "the context b has to be text"),
        (CONTEXTS + "b = [\n1,\n2,\n]\n", 6, "the context b has to be text"),
        ("[contexts]\n'a b' = 'x'", 2, "the context 'a b' needs a name of 1 to 64 letters"),
        ("[contexts]\n'' = 'x'", 2, "the context '' needs a name of 1 to 64 letters"),
    ],
)
def test_what_cannot_be_said_has_its_line(text: str, line: int, complaint: str) -> None:
    assert refusal(text).startswith(f"my.toml, line {line}: {complaint}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\na = 2", 2),
        ("[contexts\n", 1),
        ('[contexts]\na = "b', 2),
        ("[contexts]\na = 1\na = 2", 3),
    ],
)
def test_what_is_no_toml_has_its_line(text: str, line: int) -> None:
    message = refusal(text)
    assert message.startswith("my.toml is not TOML: ")
    assert f"line {line}," in message


def test_a_number_without_end_is_refused() -> None:
    assert refusal("a = " + "1" * 20_000).startswith("my.toml is not TOML: ")


def test_what_nests_without_end_is_refused() -> None:
    assert refusal("a = " + "[" * 20_000).startswith("my.toml is ")


TEXTS = ('"x"', "'x'", '"""\nx\n\n# y\n[contexts]\n"""', "'''\nz = 1\n'''")
FILLERS = ("", "# contexts = 1", "   ", "# [other]")


@given(
    values=st.lists(st.tuples(st.sampled_from(FILLERS), st.sampled_from(TEXTS)), max_size=6),
    more=st.lists(st.sampled_from(TEXTS), max_size=3),
)
def test_the_line_is_right_whatever_stands_around_it(
    values: list[tuple[str, str]], more: list[str]
) -> None:
    before = ["[contexts]"]
    for number, (filler, value) in enumerate(values):
        before += [filler, f"key{number} = {value}"]
    text = "\n".join(before)
    after = "\n".join(f"more{number} = {value}" for number, value in enumerate(more))
    line = text.count("\n") + 2
    assert f"line {line}: " in refusal(f"{text}\nwrong = [ 1, # one\n 2,\n]\n{after}")


def test_history_is_kept_in_the_folder_for_data_unless_the_file_says_otherwise(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMSTREAM_HISTORY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    usual = history_path(Config())
    assert usual == platformdirs.user_data_path("llmstream", appauthor=False) / "history.db"
    assert usual.is_relative_to(home)
    monkeypatch.delenv("XDG_DATA_HOME")
    unset = history_path(Config())
    assert unset == platformdirs.user_data_path("llmstream", appauthor=False) / "history.db"
    said = parse_config('[history]\npath = "~/h.db"', Path("my.toml"))
    assert history_path(said) == home / "h.db"
    off = parse_config("[history]\nenabled = false", Path("my.toml"))
    assert history_path(off) is None
    monkeypatch.setenv("LLMSTREAM_HISTORY", "~/other.db")
    assert history_path(off) == home / "other.db"
    monkeypatch.setenv("LLMSTREAM_HISTORY", "OFF")
    assert history_path(said) is None


def test_a_value_has_its_place(home: Path) -> None:
    said = parse_config("[serve]\n# here\nport = 1\n", Path("my.toml"))
    assert said.tables["serve"] == {"port": 1}
    assert said.place("serve", "port") == "my.toml, line 3"


@pytest.mark.slow
def test_without_a_file_nothing_is_imported_to_read_one() -> None:
    script = (
        "import sys\n"
        "from llmstream_cli.cli.app import run\n"
        "run(['ask', '-m', '/nowhere.gguf', 'x'])\n"
        "print(*sys.modules, sep='\\n')"
    )
    environment = {**os.environ, "XDG_CONFIG_HOME": "/nowhere"}
    del environment["LLMSTREAM_CONFIG"]
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True
    )
    loaded = set(done.stdout.decode().split())
    assert "llmstream_cli.models.resolve" in loaded  # it came so far
    assert not {"platformdirs", "tomllib", "jinja2", "pydantic"} & loaded
