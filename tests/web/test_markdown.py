"""The page's Markdown, run in Node.js: what comes out as a tree, and that parts make the whole."""

import html
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.web.node import Worker, running


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with running("markdown_worker.mjs", "markdown.js") as worker:
        yield worker


def write(value: Any) -> str:
    """Write a value of the tree as HTML, without the attributes that are always the same."""
    if isinstance(value, str):
        return html.escape(value, quote=False)
    tag, attrs = value["tag"], value["attrs"]
    told = {name: attrs[name] for name in ("href", "start", "language") if attrs.get(name)}
    if tag in {"td", "th", "li"} and "class" in attrs:
        told["class"] = attrs["class"]
    opening = "".join(f' {name}="{html.escape(text)}"' for name, text in told.items())
    if tag in {"br", "hr"}:
        return f"<{tag}>"
    return f"<{tag}{opening}>{''.join(map(write, value['children']))}</{tag}>"


def render(worker: Worker, text: str) -> str:
    return "".join(map(write, worker.ask([text])["whole"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One", "<h3>One</h3>"),
        ("###### Six ##", "<h6>Six</h6>"),
        ("#hashtag", "<p>#hashtag</p>"),
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
        ("---\n* * *", "<hr><hr>"),
        ("> a\n> b\n>\n> - c", "<blockquote><p>a<br>b</p><ul><li><p>c</p></li></ul></blockquote>"),
        ("```py\nx = 1\n\n```\nend", '<pre language="py">x = 1\n</pre><p>end</p>'),
        ("~~~~\n```\n~~~~", "<pre>```</pre>"),
        ("```\nopen", "<pre>open</pre>"),
        ("a <b>x</b><br>c", "<p>a &lt;b&gt;x&lt;/b&gt;<br>c</p>"),
        ("2 * 3 * 4 snake_case_name", "<p>2 * 3 * 4 snake_case_name</p>"),
        ("**one *two***", "<p><strong>one <em>two</em></strong></p>"),
        ("***both***", "<p><em><strong>both</strong></em></p>"),
        ("~~gone~~ and ~this~", "<p><del>gone</del> and ~this~</p>"),
    ],
)
def test_blocks_and_text(worker: Worker, text: str, expected: str) -> None:
    assert render(worker, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n\n  c", "<ul><li><p>a</p></li><li><p>b</p><p>c</p></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>'),
        (
            "1. a\n  - b\n2. c",  # indented by less than the standard wants
            '<ol start="1"><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ol>',
        ),
        ("- a\n    - b", "<ul><li><p>a</p><ul><li><p>b</p></li></ul></li></ul>"),
        ("- a\n  ```\n  x\n  ```\n- b", "<ul><li><p>a</p><pre>x</pre></li><li><p>b</p></li></ul>"),
        ("in 2024. It", "<p>in 2024. It</p>"),
        ("It was\n2024. Then", "<p>It was<br>2024. Then</p>"),
    ],
)
def test_lists(worker: Worker, text: str, expected: str) -> None:
    assert render(worker, text) == expected


def test_a_table_has_the_columns_of_its_head(worker: Worker) -> None:
    text = "Look:\n| a | b |\n|:--|--:|\n| `1\\|2` | **x** | more |\n| less |\n\nend"
    assert render(worker, text) == (
        '<p>Look:</p><div><table><thead><tr><th>a</th><th class="right">b</th></tr></thead><tbody>'
        '<tr><td><code>1|2</code></td><td class="right"><strong>x</strong></td></tr>'
        '<tr><td>less</td><td class="right"></td></tr></tbody></table></div><p>end</p>'
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[a](https://example.org/x_(y))", "https://example.org/x_(y)"),
        ('[a](http://example.org/ "title")', "http://example.org/"),
        ("[https://example.org/](https://example.org/)", "https://example.org/"),
        ("[a](mailto:a@example.org)", "mailto:a@example.org"),
        ("see https://example.org/a_b_c?x=1&y=2.", "https://example.org/a_b_c?x=1&y=2"),
        ("(https://example.org/a)", "https://example.org/a"),
        ("**https://example.org/**", "https://example.org/"),
        ("<https://example.org/>", "https://example.org/"),
        ("![a cat](https://example.org/cat.png)", "https://example.org/cat.png"),
    ],
)
def test_links(worker: Worker, text: str, address: str) -> None:
    assert re.findall('href="(.*?)"', render(worker, text)) == [html.escape(address)]


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "java\\script:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
        "blob:x",
        "/relative",
        "//example.org/",
        "#place",
        "https://",
    ],
)
def test_other_addresses_are_no_links(worker: Worker, address: str) -> None:
    for text in (f"[a]({address})", f"![a]({address})", f"[a](<{address}>)", f"<{address}>"):
        assert "<a" not in render(worker, text)


def test_an_image_is_a_link_and_nothing_that_loads(worker: Worker) -> None:
    assert render(worker, "![](https://example.org/x.png)") == (
        '<p><a href="https://example.org/x.png">image: unnamed</a></p>'
    )


# ---- as the reference does --------------------------------------------------------------------

_REFERENCE = MarkdownIt("commonmark", {"html": False, "breaks": True})
_WORDS = st.sampled_from(
    ["a", "b.", "é", "<x>", "2", "snake_case", "\\*", "`c`", "``d`e``", "a\nb"]
)


def _texts(*more: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(_WORDS, *more), min_size=1, max_size=3).map(" ".join)


_EM = _texts().map("_{}_".format)
_STRONG = _texts(_EM).map("**{}**".format)
_LINKS = _texts(_STRONG, _EM).map("[{}](mailto:a@example.org)".format)
_PLAIN = _texts(_LINKS, _STRONG, _EM)


def _normal(text: str) -> str:
    """Leave out what makes no difference to see."""
    text = text.replace("<br />\n", "<br>").replace("&quot;", '"')
    return re.sub(" +", " ", re.sub(" +<br>", "<br>", text))


@given(text=_PLAIN)
def test_emphasis_code_and_links_are_as_commonmark_has_them(worker: Worker, text: str) -> None:
    """As far as models write them: marks stand at words, and none crosses another."""
    reference = _REFERENCE.render(text).rstrip("\n")
    assert _normal(render(worker, text)) == _normal(reference)


# ---- in parts ---------------------------------------------------------------------------------

_LINES = ["text", "*a* **b", "# head", "- item", "  - inner", "1. one", "2. two", "10", "> quote"]
_LINES += ["```py", "```", "~~~", "    deep", "", "", "---", "===", "| a | b |", "|---|:-:|", "| 1"]
_LINES += ["- [ ] task", "[l](https://example.org/)", "\tx", "-", "1.", "`", "***", "* * *", " >"]
_DOCUMENTS = st.one_of(
    st.lists(st.sampled_from(_LINES), max_size=14).map("\n".join),
    st.text(st.sampled_from("ab -*#>|`~1.\n\t[]()_:=\r"), max_size=60),
)


@given(text=_DOCUMENTS, cuts=st.lists(st.integers(0, 200), max_size=20))
def test_text_in_parts_comes_out_as_the_whole(worker: Worker, text: str, cuts: list[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [text[start:end] for start, end in itertools.pairwise(places)]
    told = worker.ask(parts or [""])
    assert told["streamed"] == told["whole"]


@given(text=_DOCUMENTS)
def test_a_text_that_comes_by_characters_comes_out_as_the_whole(worker: Worker, text: str) -> None:
    told = worker.ask(list(text) or [""])
    assert told["streamed"] == told["whole"]


@pytest.mark.parametrize(
    "piece",
    [
        *("*a ", "[", "](", "![a](b", "`", "`a``b", "> ", "- ", "a_", "**a_ ", "|", "<", "&", "~~"),
        *(
            "(https://a.b/((",
            "# ",
            "x \n",
            "- a\n",
            "> a\n",
            "|-",
            " ",
            "1. ",
            "https://a.b/",
            "\\",
        ),
    ],
)
def test_no_text_takes_long(worker: Worker, piece: str) -> None:
    """A parser that goes back would take hours for some of these, and recurse without end."""
    text = piece * (60_000 // len(piece))
    told = worker.ask([text, "x"])
    assert told["streamed"] == told["whole"]
