"""Options that are kept: which value wins, and how a wrong one is refused."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

import llmstream_cli
from llmstream_cli.cli import app as app_module
from llmstream_cli.cli.app import run
from llmstream_cli.cli.config.file import parse_config
from llmstream_cli.cli.config.settings import SettingsCommand, unknown_variables
from llmstream_cli.cli.config.show import checked_rows
from llmstream_cli.cli.serve import run as serve_module
from llmstream_cli.cli.serve.options import ServeOptions
from llmstream_cli.cli.serve.run import model_choices
from llmstream_cli.errors import ConfigError
from llmstream_cli.models.presets import register_presets

COMMANDS: dict[str, SettingsCommand] = {
    name: command
    for name, command in typer.main.get_command(app_module.app).commands.items()  # type: ignore[attr-defined]
    if isinstance(command, SettingsCommand)
}


@pytest.fixture(autouse=True)
def no_own_presets() -> Iterator[None]:
    yield
    register_presets([])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my.toml"
    path.touch(0o600)
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    return path


def values(command: str, text: str, *words: str) -> Mapping[str, Any]:
    """The values of all options of a command, for such a file and command line."""
    context: Any = COMMANDS[command].make_context(
        command, [*words], obj=parse_config(text, Path("my.toml"))
    )
    return {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in context.params.items()
    }


def kept(command: str, name: str, text: str = "", *words: str) -> Any:
    return values(command, text, *words)[name]


# ---- which value wins -----------------------------------------------------------------------


def test_each_source_goes_over_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = "[defaults]\nthreads = 1\n"
    assert kept("ask", "threads") is None
    assert kept("ask", "threads", defaults) == 1
    assert kept("ask", "threads", f"{defaults}[serve]\nthreads = 3") == 1
    assert kept("ask", "threads", f"{defaults}[ask]\nthreads = 2") == 2
    monkeypatch.setenv("LLMSTREAM_THREADS", "4")
    assert kept("ask", "threads", f"{defaults}[ask]\nthreads = 2") == 4
    assert kept("ask", "threads", defaults, "--threads", "5") == 5
    monkeypatch.setenv("LLMSTREAM_THREADS", "")
    assert kept("ask", "threads", defaults) == 1


@pytest.mark.parametrize(
    ("command", "variable", "line", "expected"),
    [
        ("ask", "", "temperature = 1", 1.0),
        ("ask", "", "stats = true", True),
        ("ask", "", "stop = ['a', 'b']", ["a", "b"]),
        ("ask", "", "stop = 'a b'", ["a b"]),
        ("ask", "off", "stats = true", False),
        ("ask", "a b", "stop = 'c'", ["a b"]),
        ("ask", r'["\n\n", "b"]', "stop = 'c'", ["\n\n", "b"]),
        ("serve", "a b", "api_key = 'c'", ["a", "b"]),
        ("bench", "a b", "api_key = 'c'", "a b"),
        ("serve", "0.5", "temperature = 1", 0.5),
    ],
)
def test_values_have_the_types_of_their_options(
    monkeypatch: pytest.MonkeyPatch, command: str, variable: str, line: str, expected: object
) -> None:
    name = line.partition(" ")[0]
    monkeypatch.setenv(f"LLMSTREAM_{name.upper()}", variable)
    assert kept(command, name, f"[{command}]\n{line}") == expected


def test_what_bench_means_otherwise_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[defaults]\nmax_tokens = 9\nthreads = 2\n"
    assert kept("ask", "max_tokens", text) == 9
    assert kept("bench", "max_tokens", text) == 64
    assert kept("bench", "threads", text) == 2
    assert kept("bench", "max_tokens", f"{text}[bench]\nmax_tokens = 7") == 7
    monkeypatch.setenv("LLMSTREAM_MAX_TOKENS", "8")
    assert kept("bench", "max_tokens") == 64
    monkeypatch.setenv("LLMSTREAM_BENCH_MAX_TOKENS", "6")
    assert kept("bench", "max_tokens") == 6


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("features = 'puffin'", "--model x"),
        ("model = 'm.gguf'", "--features x"),
        ("file = 'm.gguf'", "--model x"),
        ("system = 'x'", "--context x"),
        ("context = 'sql'", "--system x"),
        ("context = 'sql'", "--raw"),
        ("template = 'chatml'", "--raw"),
    ],
)
def test_what_is_kept_yields_to_what_is_given(line: str, given: str) -> None:
    name, _, value = line.partition(" = ")
    text = f"[defaults]\n{line}"
    assert kept("ask", name, text, "--seed", "1") == value.strip("'")
    assert kept("ask", name, text, *given.split()) is None


def test_what_is_said_closer_goes_over_what_excludes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[defaults]\nfeatures = 'puffin'\n[ask]\nmodel = 'm.gguf'"
    found = values("ask", text)
    assert (found["features"], found["model"]) == (None, "m.gguf")
    assert kept("serve", "features", text) == ["puffin"]
    monkeypatch.setenv("LLMSTREAM_FEATURES", "mistral")
    found = values("ask", text)
    assert (found["features"], found["model"]) == ("mistral", None)


def test_a_list_is_for_commands_that_take_several() -> None:
    text = "[defaults]\nfeatures = ['a', 'b']"
    assert kept("serve", "features", text) == ["a", "b"]
    assert kept("ask", "features", text, "--model", "x") is None  # it yields before it is read
    with pytest.raises(ConfigError, match="line 2: features has to be one value"):
        kept("ask", "features", text)


def test_the_models_of_a_server_keep_their_order(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*words: str) -> list[str | None]:
        found: list[str | None] = []

        def serve(how: ServeOptions, order: list[str]) -> int:
            found.extend(choice.preset or choice.model for choice in model_choices(how, order))
            return 0

        monkeypatch.setattr(serve_module, "run_serve", serve)
        assert run(["serve", *words]) == 0
        return found

    assert chosen() == [None]
    config.write_text("[defaults]\nfeatures = 'a'")
    assert chosen() == ["a"]
    config.write_text("[defaults]\nfeatures='a'\n[serve]\nfeatures=['b', 'c']\nmodel='d.gguf'")
    assert chosen() == ["b", "c", "d.gguf"]
    assert chosen("-m", "y.gguf", "-f", "x", "-m", "z.gguf") == ["y.gguf", "x", "z.gguf"]
    monkeypatch.setenv("LLMSTREAM_FEATURES", "e")
    assert chosen() == ["e"]


# ---- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text", "complaint"),
    [
        ("ask", "[ask]\ntemprature = 1", "2: there is no setting 'temprature' in [ask]; did you"),
        ("ask", "[ask]\nport = 1", "2: there is no setting 'port' in [ask]; known: features, mo"),
        ("ask", "[defaults]\n\nzzz = 1", "3: there is no setting 'zzz' in [defaults]; known: "),
        ("ask", "[bench]\njson = true", "2: there is no setting 'json' in [bench]"),
        ("serve", "[serve]\nport = 'x'", "2: port: 'x' is not a valid int"),
        ("serve", "[serve]\nport = 1.5", "2: port: '1.5' is not a valid int"),
        ("serve", "[serve]\nport = true", "2: port: 'True' is not a valid int"),
        ("serve", "[serve]\nport = [1]", "2: port has to be one value"),
        ("serve", "[serve]\ndrain = 'x'", "2: drain: 'x' is not a valid float"),
        ("ask", "[ask]\nstats = 'x'", "2: stats: 'x' is not a valid bool"),
        ("ask", "[ask]\nstop = [[1]]", "2: stop has to be a value, or a list of values"),
        ("ask", "[ask.system]\na = 1", "1: system has to be one value"),
        ("bench", "[bench]\nprefix = 'x'", "2: prefix: 'x' is not one of"),
        ("ask", "[ask]\nmax_tokens = 0", "2: max_tokens must be between "),
        ("ask", "[ask]\nmodel = 'a'\nfeatures = 'b'", "3: features and --model both name a model"),
        ("serve", "[serve]\nport = 70000", "2: port must be between "),
        ("serve", "[serve]\nparallel = 0", "2: parallel must be between "),
        ("serve", "[serve]\ndrain = -1.0", "2: drain must be between "),
        ("bench", "[bench]\nrepeat = 0", "2: repeat must be between "),
    ],
)
def test_a_file_is_wrong_at_a_line(
    config: Path, capsys: pytest.CaptureFixture[str], command: str, text: str, complaint: str
) -> None:
    config.write_text(text)
    assert run([command, *(["x"] if command == "ask" else [])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"llmstream: {config}, line {complaint}")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("THREADS", "x", ": 'x' is not a valid int"),
        ("THREADS", "0", " must be between 1 and 512"),
        ("STATS", "maybe", ": "),
        ("TEMPERATURE", "nan", " must be between"),
        ("STOP", "[[1]]", " has to be a value, or a list of values"),
        ("STOP", "[x", " is no TOML array, though it begins as one"),
        ("TEMPLATE", "/nowhere.jinja", ": there is no file /nowhere.jinja"),
        ("MODEL", "\udcff", " is not UTF-8 text: character 1"),
    ],
)
def test_a_variable_is_wrong_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    complaint: str,
) -> None:
    monkeypatch.setenv(f"LLMSTREAM_{name}", text)
    assert run(["ask", "x"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"llmstream: LLMSTREAM_{name}{complaint}")


def test_an_option_that_is_given_is_called_by_its_own_name(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[ask]\nmax_tokens = 5\n[serve]\nparallel = 3")
    for words in ("ask x --max-tokens 0", "serve --parallel 0", "serve --port 70000"):
        assert run(words.split()) == 2
        option = words.split()[-2]
        assert capsys.readouterr().err.startswith(f"llmstream: {option} must be between ")
    assert run(["ask", "x", "--api-key", "k"]) == 2
    assert "give its --url, too" in capsys.readouterr().err


def test_help_needs_no_configuration_and_shows_none(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTREAM_API_KEY", "sesame")
    for text in ("broken", "[serve]\nport = 4321"):
        config.write_text(text)
        assert run(["serve", "--help"]) == 0
        shown = capsys.readouterr().out
        assert "3030" in shown
        assert not re.search("4321|sesame", shown)


def test_a_file_with_a_key_that_others_can_read_is_warned_about(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[serve]\napi_key = 'sesame'\nparallel = 0")
    warning = f"llmstream: {config} has an api_key and others can read it: chmod 600 {config}\n"
    assert run(["serve"]) == 2
    assert warning not in capsys.readouterr().err
    config.chmod(0o644)
    assert run(["serve"]) == 2
    assert capsys.readouterr().err.startswith(warning)


# ---- every value tried ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[ask]\ntop_k = -1", "line 2: top_k must be between "),
        ("[serve]\nqueue = -1", "line 2: queue must be between "),
        ("[serve]\ntimeout = 0", "line 2: timeout must be between "),
        ("[serve]\ncors_origin = 'x'", "line 2: cors_origin: 'x' is no origin"),
        ("[ask]\nfeatures = 'zzz'", "line 2: features: no model is called 'zzz'"),
        ("[ask]\ncontext = 'zzz'", "line 2: context: no context is called 'zzz'"),
        ("[ask]\ntemplate = 'zzz'", "line 2: template: no prompt format is called 'zzz'"),
        ("[serve]\nfeatures = ['smollm2', 'zzz']", "line 2: features: no model is called 'zzz'"),
        ("[serve]\nmemory = 'much'", "line 2: memory: 'much' is no size"),
        ("[serve]\nkeep_alive = 'long'", "line 2: keep_alive is 'long'; it must be seconds"),
        ("[ask]\nstop = ''", "line 2: stop: a stop string must have 1 to "),
        ("[chat]\nzzz = 1", "line 2: there is no setting 'zzz' in [chat]"),
    ],
)
def test_a_check_tries_every_value(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_rows(parse_config(text, Path("my.toml")), COMMANDS)
    assert str(caught.value).startswith(f"my.toml, {complaint}")


def test_a_check_knows_presets_of_the_users_own() -> None:
    text = "[ask]\nfeatures = 'mine'\n[presets.mine]\npath = 'x.gguf'"
    checked_rows(parse_config(text, Path("my.toml")), COMMANDS)


def test_a_variable_that_is_no_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*unknown_variables(COMMANDS)] == []
    monkeypatch.setenv("LLMSTREAM_TEMPRATURE", "1")
    monkeypatch.setenv("LLMSTREAM_QQQQ", "1")
    assert dict(unknown_variables(COMMANDS)) == {
        "LLMSTREAM_TEMPRATURE": "did you mean LLMSTREAM_TEMPERATURE?",
        "LLMSTREAM_QQQQ": "see `llmstream config show`",
    }


def test_every_variable_that_the_program_reads_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(llmstream_cli.__file__).parent
    for path in package.rglob("*.py"):
        for name in re.findall(r"LLMSTREAM_[A-Z_]+[A-Z]", path.read_text()):
            monkeypatch.setenv(name, "1")
    monkeypatch.delenv("LLMSTREAM_NAME")  # which stands for others in a text
    assert [*unknown_variables(COMMANDS)] == []
