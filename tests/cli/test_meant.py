"""Command lines of other programs, and what they are here."""

import pytest

from llmstream_cli.cli.app import run


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["Where is Paris?"], 'ask "Where is Paris?"'),
        (["hello"], "ask hello"),
        (["costs $5"], "ask 'costs $5'"),
        (["run"], "chat"),
        (["run", "mistral"], "chat -m mistral"),
        (["run", "mistral", "Where is Paris?"], 'ask -m mistral "Where is Paris?"'),
        (["generate", "hi", "-n", "5"], "ask hi -n 5"),
        (["server", "--port", "1"], "serve --port 1"),
        (["pull", "mistral"], "models pull mistral"),
        (["list", "--json"], "models list --json"),
        (["ls"], "models list"),
        (["ps"], "models list"),
        (["rm", "mistral"], "models remove mistral"),
        (["show", "mistral"], "models show mistral"),
        (["models", "rm", "mistral"], "models remove mistral"),
        (["history", "rm", "--all"], "history delete --all"),
        (["help"], "--help"),
        (["-p", "Where?"], "ask Where?"),
        (["--prompt", "a b", "-n", "5"], 'ask "a b" -n 5'),
        (["-m", "x.gguf", "-p", "hi"], "ask -m x.gguf hi"),
        (["--temperature=0", "hi"], "ask --temperature=0 hi"),
        (["--port", "8080"], "serve --port 8080"),
        (["ask", "-p", "hi"], "ask hi"),
        (["serve", "-p", "8080"], "serve --port 8080"),
    ],
)
def test_the_error_names_what_was_meant(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    hint = complaint.partition("did you mean `llmstream ")[2].removesuffix("`?\n")
    assert hint.replace("'Where?'", "Where?").replace('"Where?"', "Where?") == line
    command = line.split()[: 2 if line.startswith(("models", "history")) else 1]
    assert run([*command, "--help"]) == 0  # what is proposed is a command


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["aks", "hi"], "Did you mean 'ask'?"),
        (["--nope"], "No such option: --nope\n"),
        (["serve", "--prot", "1"], "--port)"),
        (["models", "list", "--nope"], "No such option: --nope\n"),
        (["ask", "hi", "-n"], "Option '-n' requires an argument."),
    ],
)
def test_other_mistakes_keep_their_words(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    complaint = capsys.readouterr().err
    assert hint in complaint
    assert "did you mean" not in complaint
