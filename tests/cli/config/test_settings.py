"""Options that are kept: which value wins, and how a wrong one is refused."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import llmstream_cli
from llmstream_cli.cli import app as app_module
from llmstream_cli.cli.config.check import check_values, unknown_variables
from llmstream_cli.cli.config.settings import (
    SettingsCommand,
    check_config,
    kept_values,
    name_option,
    settings_of,
    variable,
)
from llmstream_cli.cli.serve.model_order import model_choices
from llmstream_cli.config import Config, parse_config
from llmstream_cli.errors import ConfigError, InvalidValueError
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


def parsed(text: str) -> Config:
    return parse_config(text, Path("my.toml"))


def kept(command: str, name: str, text: str = "", given: str = "") -> Any:
    """What is kept of an option, where these others are on the command line."""
    words = [f"--{given}", *([] if given == "raw" else ["1"])] if given else []
    value = kept_values(COMMANDS[command], parsed(text), *words).get(name)
    return [*value] if isinstance(value, tuple) else value


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "llmstream_cli", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def configured(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


# ---- which value wins -----------------------------------------------------------------------


def test_each_source_goes_over_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = "[defaults]\nthreads = 1\n"
    assert kept("ask", "threads") is None
    assert kept("ask", "threads", defaults) == 1
    assert kept("ask", "threads", f"{defaults}[serve]\nthreads = 3") == 1
    assert kept("ask", "threads", f"{defaults}[ask]\nthreads = 2") == 2
    monkeypatch.setenv("LLMSTREAM_THREADS", "4")
    assert kept("ask", "threads", f"{defaults}[ask]\nthreads = 2") == 4
    monkeypatch.setenv("LLMSTREAM_THREADS", "")
    assert kept("ask", "threads", defaults) == 1


def test_the_command_line_goes_over_all(tmp_path: Path) -> None:
    config = configured(tmp_path, "[ask]\nmax_tokens = 3\ntemperature = 0\n")
    words = ("ask", "Where is Paris?", "-n", "7")
    done = run(*words, LLMSTREAM_CONFIG=config, LLMSTREAM_STATS="1", LLMSTREAM_MAX_TOKENS="5")
    assert "7 tokens generated" in done.stderr
    done = run(*words[:2], LLMSTREAM_CONFIG=config, LLMSTREAM_STATS="1", LLMSTREAM_MAX_TOKENS="5")
    assert "5 tokens generated" in done.stderr
    done = run(*words[:2], LLMSTREAM_CONFIG=config, LLMSTREAM_STATS="1")
    assert "3 tokens generated" in done.stderr
    assert "temp: 0.00" in done.stderr


def test_values_have_the_types_of_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept("ask", "temperature", "[ask]\ntemperature = 1") == 1
    assert kept("ask", "stats", "[ask]\nstats = true") is True
    assert kept("ask", "stop", "[ask]\nstop = ['a', 'b']") == ["a", "b"]
    assert kept("ask", "stop", "[ask]\nstop = 'a b'") == ["a b"]
    monkeypatch.setenv("LLMSTREAM_STATS", "off")
    assert kept("ask", "stats", "[ask]\nstats = true") is False
    monkeypatch.setenv("LLMSTREAM_STOP", "a b")
    assert kept("ask", "stop") == ["a b"]
    monkeypatch.setenv("LLMSTREAM_STOP", r'["\n\n", "b"]')
    assert kept("ask", "stop") == ["\n\n", "b"]
    monkeypatch.setenv("LLMSTREAM_API_KEY", "a b")
    assert kept("serve", "api_key") == ["a", "b"]
    assert kept("bench", "api_key") == "a b"
    monkeypatch.setenv("LLMSTREAM_TEMPERATURE", "0.5")
    assert kept("serve", "temperature") == 0.5


def test_what_bench_means_otherwise_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[defaults]\nmax_tokens = 9\nthreads = 2\n"
    assert kept("ask", "max_tokens", text) == 9
    assert kept("bench", "max_tokens", text) is None
    assert kept("bench", "threads", text) == 2
    assert kept("bench", "max_tokens", f"{text}[bench]\nmax_tokens = 7") == 7
    monkeypatch.setenv("LLMSTREAM_MAX_TOKENS", "8")
    assert kept("bench", "max_tokens") is None
    monkeypatch.setenv("LLMSTREAM_BENCH_MAX_TOKENS", "6")
    assert kept("bench", "max_tokens") == 6


# ---- what excludes each other ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "given"),
    [
        ("features", "puffin", "model"),
        ("model", "m.gguf", "features"),
        ("file", "m.gguf", "model"),
        ("system", "x", "context"),
        ("context", "sql", "system"),
        ("context", "sql", "raw"),
        ("template", "chatml", "raw"),
    ],
)
def test_what_is_kept_steps_back_behind_what_is_given(name: str, value: str, given: str) -> None:
    text = f"[defaults]\n{name} = '{value}'"
    assert kept("ask", name, text) == value
    assert kept("ask", name, text, given="seed") == value
    assert kept("ask", name, text, given=given) is None


def test_what_only_a_server_can_be_told_does_no_harm_where_it_steps_back() -> None:
    text = "[defaults]\nfeatures = ['a', 'b']"
    assert kept("serve", "features", text) == ["a", "b"]
    assert kept("ask", "features", text, given="model") is None
    with pytest.raises(ConfigError, match="features has to be text"):
        kept("ask", "features", text)


def test_what_is_said_closer_goes_over_what_excludes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[defaults]\nfeatures = 'puffin'\n[ask]\nmodel = 'm.gguf'"
    assert kept("ask", "features", text) is None
    assert kept("ask", "model", text) == "m.gguf"
    assert kept("serve", "features", text) == ["puffin"]
    monkeypatch.setenv("LLMSTREAM_FEATURES", "mistral")
    assert kept("ask", "model", text) is None
    assert kept("ask", "features", text) == "mistral"


def test_two_in_one_place_are_refused_with_the_place(tmp_path: Path) -> None:
    config = configured(tmp_path, "[ask]\nmodel = 'a.gguf'\nfeatures = 'smollm2'")
    done = run("ask", "x", LLMSTREAM_CONFIG=config)
    assert done.stderr == (
        f"llmstream: {config}, line 3: features and --model both name a model; give one of them\n"
    )
    assert done.returncode == 2


def test_a_server_has_the_kept_models_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[defaults]\nfeatures = 'a'\n[serve]\nfeatures = ['b', 'c']\nmodel = 'd.gguf'"
    monkeypatch.setenv("LLMSTREAM_CONFIG", configured(tmp_path, text))

    def chosen(*words: str) -> list[str | None]:
        context: Any = COMMANDS["serve"].make_context("serve", [*words])
        return [choice.preset or choice.model for choice in model_choices(context)]

    assert chosen() == ["b", "c", "d.gguf"]
    assert chosen("-m", "y.gguf", "-f", "x", "-m", "z.gguf") == ["y.gguf", "x", "z.gguf"]
    monkeypatch.setenv("LLMSTREAM_FEATURES", "e")
    assert chosen() == ["e"]
    monkeypatch.setenv("LLMSTREAM_CONFIG", configured(tmp_path, text.partition("[serve]")[0]))
    monkeypatch.delenv("LLMSTREAM_FEATURES")
    assert chosen() == ["a"]
    monkeypatch.setenv("LLMSTREAM_CONFIG", "")
    assert chosen() == [None]


# ---- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("[ask]\ntemprature = 1", 2, "there is no setting 'temprature' in [ask]; did you mean tem"),
        ("[ask]\nport = 1", 2, "there is no setting 'port' in [ask]; known: features, model"),
        ("[defaults]\n\nzzz = 1", 3, "there is no setting 'zzz' in [defaults]; known: "),
        ("[bench]\njson = true", 2, "there is no setting 'json' in [bench]"),
        ("[serve]\nport = '1'", 2, "port has to be a whole number"),
        ("[serve]\nport = 1.5", 2, "port has to be a whole number"),
        ("[serve]\nport = true", 2, "port has to be a whole number"),
        ("[serve]\ndrain = 'x'", 2, "drain has to be a number"),
        ("[serve]\ndrain = false", 2, "drain has to be a number"),
        ("[ask]\nstats = 1", 2, "stats has to be true or false"),
        ("[ask]\nsystem = 1", 2, "system has to be text"),
        ("[ask]\nstop = [1]", 2, "stop has to be a text, or a list of texts"),
        ("[bench]\nprefix = 'x'", 2, "prefix has to be one of distinct, shared, both"),
        ("[defaults]\nthreads = 'x'", 2, "threads has to be a whole number"),
    ],
)
def test_a_file_is_wrong_at_a_line(text: str, line: int, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(parsed(text), COMMANDS)
    assert str(caught.value).startswith(f"my.toml, line {line}: {complaint}")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("LLMSTREAM_THREADS", "x", ": 'x' is not a valid int"),
        ("LLMSTREAM_THREADS", "0", " must be between 1 and 512"),
        ("LLMSTREAM_STATS", "maybe", ": "),
        ("LLMSTREAM_TEMPERATURE", "nan", " must be between"),
        ("LLMSTREAM_STOP", "[1]", " has to be an array of texts"),
        ("LLMSTREAM_STOP", "[x", " is no TOML array, though it begins as one"),
        ("LLMSTREAM_TEMPLATE", "/nowhere.jinja", ": there is no file /nowhere.jinja"),
    ],
)
def test_a_variable_is_wrong_by_its_name(name: str, text: str, complaint: str) -> None:
    done = run("ask", "x", **{name: text})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"llmstream: {name}{complaint}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("ask", "max_tokens = 0"),
        ("serve", "port = 70000"),
        ("serve", "parallel = 0"),
        ("serve", "drain = -1.0"),
        ("bench", "repeat = 0"),
    ],
)
def test_bounds_are_those_of_the_options(tmp_path: Path, command: str, line: str) -> None:
    config = configured(tmp_path, f"[{command}]\n{line}")
    words = ("x",) if command == "ask" else ()
    done = run(command, *words, LLMSTREAM_CONFIG=config)
    name = line.partition(" ")[0]
    assert done.returncode == 2
    assert done.stderr.startswith(f"llmstream: {config}, line 2: {name} must be between ")
    assert done.stderr.count("\n") == 1


def test_an_option_that_is_given_is_called_by_its_own_name(tmp_path: Path) -> None:
    config = configured(tmp_path, "[ask]\nmax_tokens = 5")
    done = run("ask", "x", "-n", "0", LLMSTREAM_CONFIG=config)
    assert done.stderr.startswith("llmstream: --max-tokens must be between ")


def test_help_needs_no_configuration(tmp_path: Path) -> None:
    done = run("serve", "--help", LLMSTREAM_CONFIG=configured(tmp_path, "broken"))
    assert done.returncode == 0
    assert "3030" in done.stdout


def test_help_shows_no_value_that_is_kept(tmp_path: Path) -> None:
    config = configured(tmp_path, "[serve]\nport = 4321")
    done = run("serve", "--help", LLMSTREAM_CONFIG=config, LLMSTREAM_API_KEY="sesame")
    assert "3030" in done.stdout
    assert "4321" not in done.stdout
    assert "sesame" not in done.stdout


def test_a_file_with_a_key_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    config = Path(configured(tmp_path, "[serve]\napi_key = 'sesame'\n[ask]\nmax_tokens = 1"))
    assert run("ask", "x", LLMSTREAM_CONFIG=str(config)).stderr == ""
    config.chmod(0o644)
    done = run("ask", "x", LLMSTREAM_CONFIG=str(config))
    assert done.stderr == (
        f"llmstream: {config} has an api_key and others can read it: chmod 600 {config}\n"
    )
    assert done.returncode == 0


# ---- every value tried ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[ask]\ntop_k = -1", "line 2: top_k must be between "),
        ("[serve]\nqueue = -1", "line 2: queue must be between "),
        ("[serve]\ntimeout = 0.5", "line 2: timeout must be between "),
        ("[serve]\ncors_origin = 'x'", "line 2: cors_origin: 'x' is no origin"),
        ("[ask]\nfeatures = 'zzz'", "line 2: features: no model is called 'zzz'"),
        ("[ask]\ncontext = 'zzz'", "line 2: context: no context is called 'zzz'"),
        ("[ask]\ntemplate = 'zzz'", "line 2: template: no prompt format is called 'zzz'"),
        ("[serve]\nfeatures = ['smollm2', 'zzz']", "line 2: features: no model is called 'zzz'"),
        ("[serve]\nmemory = 'much'", "line 2: memory: 'much' is no size"),
        ("[serve]\nkeep_alive = 'long'", "line 2: keep_alive is 'long'; it must be seconds"),
        ("[ask]\nstop = ''", "line 2: stop: a stop string must have 1 to "),
    ],
)
def test_a_check_tries_every_value(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_values(parsed(text), COMMANDS)
    assert str(caught.value).startswith(f"my.toml, {complaint}")


def test_a_check_knows_presets_of_the_users_own() -> None:
    check_values(parsed("[ask]\nfeatures = 'mine'\n[presets.mine]\npath = 'x.gguf'"), COMMANDS)


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
    monkeypatch.delenv("LLMSTREAM_NAME")  # stands for a name in a text
    assert [*unknown_variables(COMMANDS)] == []


def test_settings_are_the_options_of_the_commands() -> None:
    assert variable("ask", "ctx_size") == "LLMSTREAM_CTX_SIZE"
    once = {"raw", "json", "json_lines", "count_tokens", "schema", "grammar"}
    once |= {"attach", "edit", "continue_", "session"}
    for name in ("ask", "chat", "serve", "bench"):
        names = {str(option.name) for option in settings_of(COMMANDS[name])}
        assert (
            names
            == {
                str(option.name)
                for option in COMMANDS[name].params
                if option.param_type_name == "option"
            }
            - once
        )


@pytest.mark.parametrize(
    ("message", "field", "named"),
    [
        ("max_seqs must be 1 to 256", "max_seqs", "--parallel must be 1 to 256"),
        ("drain_seconds must be", "drain_seconds", "--drain must be"),
        ("temperature must be", "temperature", "--temperature must be"),
        ("json_schema_x must be", "json_schema", "json_schema_x must be"),
        ("JSON schema: no", "json_schema", "JSON schema: no"),
        ("the prompt has 5 tokens", None, "the prompt has 5 tokens"),
        ("queue of requests", None, "queue of requests"),
        ("--raw leaves no place", None, "--raw leaves no place"),
        ("", None, ""),
    ],
)
def test_parameters_are_called_by_their_options(
    message: str, field: str | None, named: str
) -> None:
    assert name_option(InvalidValueError(message, field)) == named
