"""`llmstream ask` on a terminal whose screen can be read, and where its output goes elsewhere."""

import pytest

from tests.cli.terminals import CTRL_C, terminal

pytestmark = pytest.mark.slow

PARIS = "Paris is the capital of France and one of the most iconic cities in the world."
ASK = ("ask", "-t", "0")
PARIS_ASKED = (*ASK, "Where is Paris?", "-n", "17")

# What the model has to say, so that its markup is known.
MARKDOWN = "# Fruit\n\nSome **good** fruit to have at home all year:\n\n- *apples*\n- `pears`\n"
FORCED = ("--grammar", 'root ::= "' + MARKDOWN.replace("\n", "\\n") + '"')


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_markdown_is_rendered(columns: int) -> None:
    with terminal(*ASK, "Fruit?", *FORCED, columns=columns) as asking:
        assert asking.end() == 0
        shown = asking.text
        bold = [
            "".join(cell.data for _, cell in sorted(row.items()) if cell.bold)
            for row in asking.screen.buffer.values()
        ]
    assert " ".join(shown.split()).startswith("Fruit Some good fruit to have at home all year:")
    assert not set("#*`") & set(shown.replace("* ", ""))
    assert max(map(len, shown.splitlines())) < columns
    assert "Fruit" in "".join(bold)
    assert "good" in "".join(bold)
    assert "fruit to" not in "".join(bold)


@pytest.mark.parametrize(
    ("option", "term"), [("--no-markdown", "xterm"), ("--raw", "xterm"), ("--stats", "dumb")]
)
def test_markdown_can_be_had_as_it_is(option: str, term: str) -> None:
    # Without the line that tells what is waited for, if it takes long.
    only_stdout = '"$@" 2>/dev/null'
    with terminal(*ASK, "Fruit?", *FORCED, option, shell=only_stdout, TERM=term) as asking:
        assert asking.end() == 0
        assert asking.text == MARKDOWN.rstrip()
        assert b"\x1b" not in asking.received


def test_a_terminal_that_becomes_narrow_loses_nothing() -> None:
    with terminal(*ASK, "Where is Paris?", "-n", "60", columns=100) as asking:
        asking.wait_for("Paris is the capital")
        asking.resize(50, 24)
        assert asking.end() == 0
        assert PARIS in " ".join(asking.text.split())


def test_ctrl_c_in_a_rendered_answer_keeps_it() -> None:
    with terminal(*ASK, "Where is Paris?", "-n", "2000") as asking:
        asking.wait_for("one of the most iconic")
        asking.send(CTRL_C)
        assert asking.end() == 130
        # The terminal shows ^C where the cursor is; what is drawn behind that is drawn again.
        assert "Paris is the capital of France and one of the" in asking.text
        assert "most iconic" in asking.text
        assert asking.screen.cursor.x == 0
        assert not asking.screen.cursor.hidden


def test_a_pipe_behind_it_gets_bytes() -> None:
    with terminal(*PARIS_ASKED, shell='"$@" | cat -v') as asking:
        assert asking.end() == 0
        assert asking.text == PARIS


def test_a_reader_that_has_enough_ends_it() -> None:
    with terminal(*ASK, "Where is Paris?", "-n", "5000", shell='"$@" | head -c 20') as asking:
        assert asking.end() == 0
        assert asking.text == PARIS[:20]


def test_without_standard_error_the_answer_is_the_same() -> None:
    with terminal(*PARIS_ASKED, "--stats", shell='"$@" 2>/dev/null') as asking:
        assert asking.end() == 0
        assert asking.text == PARIS


def test_a_wait_is_told_and_gone_before_the_answer() -> None:
    with terminal(*PARIS_ASKED, "--no-markdown", "-s", "word " * 1200) as asking:
        asking.wait_for("reading the prompt")
        asking.wait_until(lambda: "%" in asking.text, "how far it is")
        assert asking.end() == 0
        assert "reading" not in asking.text


def test_ctrl_c_in_a_wait_leaves_no_trace_of_it() -> None:
    with terminal(*PARIS_ASKED, "-s", "word " * 2000) as asking:
        asking.wait_for("reading the prompt")
        asking.send(CTRL_C)
        assert asking.end() == 130
        assert asking.text == ""
        assert asking.screen.cursor.x == 0
