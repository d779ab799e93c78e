"""Models by names of the user's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstream_cli.cli.app import run
from llmstream_cli.cli.config.file import parse_config
from llmstream_cli.cli.config.own_presets import register_own_presets
from llmstream_cli.errors import ConfigError, ModelNotFoundError
from llmstream_cli.models.presets import OWN_PRESETS, register_presets
from llmstream_cli.models.reference import HubModel
from llmstream_cli.models.resolve import ModelChoice, resolve
from tests.hub_server import HubServer


@pytest.fixture(autouse=True)
def no_own_presets() -> Iterator[None]:
    yield
    register_presets([])


def registered(text: str, path: Path = Path("/etc/my.toml")) -> None:
    register_own_presets(parse_config(text, path))


def test_a_preset_may_have_all_that_ours_have() -> None:
    registered(
        """
        [presets.Mine]
        repo = "user/repo"
        file = "m-Q4_K_M.gguf"
        revision = "v1"
        tokenizer = "user/other"
        summary = "of my own"
        licence = "MIT"
        chat_format = "ChatML"
        ctx_size = 2048
        stop = ["a", "b"]
        sampling = { temperature = 1, top_k = 5 }
        """
    )
    mine = OWN_PRESETS["mine"]
    assert mine.source == HubModel("user/repo", file="m-Q4_K_M.gguf", revision="v1")
    assert (mine.tokenizer, mine.chat_format, mine.ctx_size) == ("user/other", "chatml", 2048)
    assert (mine.summary, mine.licence) == ("of my own", "MIT")
    assert mine.advice() == {"temperature": 1, "top_k": 5, "stop": ("a", "b")}


def test_a_path_begins_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"a": "m.gguf", "b": "/x/m.gguf", "c": "~/m.gguf", "d": "~nobody-of-that-name/m.gguf"}
    registered("\n".join(f'[presets.{name}]\npath = "{path}"' for name, path in names.items()))
    assert [OWN_PRESETS[name].source for name in names] == [
        Path("/etc/m.gguf"),
        Path("/x/m.gguf"),
        tmp_path / "m.gguf",
        Path("/etc/~nobody-of-that-name/m.gguf"),
    ]


@pytest.mark.parametrize(
    ("lines", "line", "complaint"),
    [
        ("summary = 'x'", 1, "the preset a has to have a path, or a repo and a file"),
        ("repo = 'u/r'", 1, "the preset a has to have a path, or a repo and a file"),
        ("path = 'm'\nrepo = 'u/r'", 2, "path names a file of this machine, repo and file one on"),
        ("path = 'm'\nfiles = 'x'", 3, "a preset has no 'files'; did you mean file?"),
        ("path = ' '", 2, "path has to be text"),
        ("path = 5", 2, "path has to be text"),
        ("repo = 'ur'\nfile = 'm.gguf'", 2, "repo has to be user/repo"),
        ("repo = 'u r/x'\nfile = 'm.gguf'", 2, "'u r/x/m.gguf' is not a model's name"),
        ("repo = 'u/r'\nfile = 'm.bin'", 2, "'m.bin' of u/r is not a GGUF file"),
        ("path = 'm'\nchat_format = 'x'", 3, "no prompt format is called 'x'"),
        ("path = 'm'\nctx_size = 'x'", 3, "ctx_size has to be a whole number"),
        ("path = 'm'\nctx_size = true", 3, "ctx_size has to be a whole number"),
        ("path = 'm'\nctx_size = 1", 3, "ctx_size must be between 16 and "),
        ("path = 'm'\nstop = [1]", 3, "stop has to be a text, or a list of texts"),
        ("path = 'm'\nstop = ['']", 3, "a stop string must have 1 to "),
        ("path = 'm'\nsampling = 1", 3, "sampling has to be a table"),
        ("path = 'm'\nsampling = { top = 1 }", 3, "sampling has no 'top'; did you mean top_"),
        ("path = 'm'\nsampling = { top_k = 1.5 }", 3, "top_k has to be a whole number"),
        ("path = 'm'\nsampling = { top_p = 'x' }", 3, "top_p has to be a number"),
        ("path = 'm'\n[presets.a.sampling]\ntop_p = 2", 4, "top_p must be between 0"),
    ],
)
def test_what_is_wrong_has_its_line(lines: str, line: int, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registered(f"[presets.a]\n{lines}")
    assert str(caught.value).startswith(f"/etc/my.toml, line {line}: {complaint}")


# ---- to a file ------------------------------------------------------------------------------

MINE = """
[presets.mine]
path = "{path}"
ctx_size = 300
sampling = {{ temperature = 0.0 }}
stop = [" of"]
"""


def test_a_name_of_ones_own_is_resolved(model_path: Path) -> None:
    registered(MINE.format(path=model_path))
    for choice in (ModelChoice(preset="Mine"), ModelChoice(model="mine")):
        found = resolve(choice)
        assert (found.path, found.name, found.ctx_size) == (model_path, "mine", 300)
        # The file is that of a preset of ours, whose authors' advice holds where nothing is said.
        assert found.advice() == {"temperature": 0.0, "top_p": 0.9, "stop": (" of",)}


def test_it_wins_over_the_name_of_ours(model_path: Path) -> None:
    registered(f"[presets.puffin]\npath = '{model_path}'")
    assert resolve(ModelChoice(preset="puffin")).path == model_path
    registered(f"[presets.smollm2]\npath = '{model_path}'\nctx_size = 99")
    assert resolve().ctx_size == 99


def test_it_is_told_where_a_name_is_unknown(model_path: Path) -> None:
    registered(MINE.format(path=model_path))
    with pytest.raises(ModelNotFoundError, match=r"did you mean mine\?"):
        resolve(ModelChoice(preset="mina"))
    with pytest.raises(ModelNotFoundError, match="known: mine, smollm2"):
        resolve(ModelChoice(preset="qqqq"))


def test_a_file_that_is_not_there_is_named() -> None:
    registered("[presets.mine]\npath = '/nowhere.gguf'")
    with pytest.raises(ModelNotFoundError, match=r"there is no file /nowhere\.gguf"):
        resolve(ModelChoice(preset="mine"))


def test_one_on_the_hub_is_downloaded(hub: HubServer, model_path: Path) -> None:
    hub.add("user/repo", {"m.gguf": model_path.read_bytes()})
    registered("[presets.mine]\nrepo = 'user/repo'\nfile = 'm.gguf'")
    assert resolve(ModelChoice(preset="mine")).path.samefile(
        resolve(ModelChoice(model="user/repo/m.gguf")).path
    )


def test_the_commands_know_it(
    tmp_path: Path,
    model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(MINE.format(path=model_path))
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(config))
    assert run(["models", "show", "mine"]) == 0
    assert str(model_path) in capsys.readouterr().out
