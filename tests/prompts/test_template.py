"""The template language, and what a template is not allowed to do."""

import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts import sandbox
from llmstream_cli.prompts.sandbox import MAX_ITERATIONS
from llmstream_cli.prompts.template import MAX_SOURCE_CHARS, ChatTemplate

SYNTAX_ERRORS = [
    "{% if %}",
    "{{",
    "{% endfor %}",
    "{% for m in messages %}",
    "{{ m\n\n| no_such_filter }}",
    "{% if m %}\n\n{% no_such_tag\nx %}",
    '{{ "a" "b\nc" d }}',
    "{{ '\n }}",
    # Jinja compiles these, and Python's own compiler refuses the result.
    "{% break %}",
    "{{ f(a=1,a=2) }}",
    "{% macro f(a,a) %}{% endmacro %}",
    "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}",
    "{{ " + "+".join(["x"] * 5000) + " }}",
    "{{ " + "9" * 5000 + " }}",
]

SCRAPS = (
    *("messages", "[0]", ".content", "x", "1", "'a'", "'", "\n", "\\", "~", "+", "*", "-", "="),
    *("(", ")", "[", "]", "|", ",", ":", "range", "join", "not", "is", "defined", "#}", "%}"),
    *("for", "x in", "endfor", "if", "else", "endif", "set", "macro", "endmacro", "break"),
)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """Templates that are mostly broken, and always in another way."""
    source = ""
    for _ in range(draw(st.integers(1, 4))):
        begin, end = draw(st.sampled_from([("{{ ", " }}"), ("{% ", " %}"), ("", "\n")]))
        source += begin + " ".join(draw(st.lists(st.sampled_from(SCRAPS), max_size=5))) + end
    return source


def render(source: str, **variables: Any) -> str:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
    return ChatTemplate(source).render({"messages": messages, **variables})


def refusal(source: str, **variables: Any) -> str:
    """The message, one line, with which a template is refused or fails."""
    with pytest.raises(PromptError) as caught:
        render(source, **variables)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    return message


def test_a_variable_that_is_not_there_is_empty() -> None:
    source = "[{{ tools }}{% if tools is defined %}no{% endif %}{% if not tools %}yes{% endif %}]"
    assert render(source) == "[yes]"


def test_the_same_template_renders_again_and_again() -> None:
    template = ChatTemplate(f"{{{{ range({MAX_ITERATIONS // 2 + 1}) | length }}}} {{{{ x }}}}")
    assert [template.render({"x": x}) for x in "abc"] == ["50001 a", "50001 b", "50001 c"]


def test_a_block_takes_its_line_with_it() -> None:
    """As with `trim_blocks` and `lstrip_blocks`, which every published template relies on."""
    source = "a\n    {% if true %}\n  b\n    {% endif %}\nc {% if true %} d{% endif %}\ne"
    assert render(source) == "a\n  b\nc  de"


def test_minus_signs_trim() -> None:
    assert render("a\n  {{- 1 -}}  \n b {%- if true %} c{%- endif -%} \n d") == "a1b cd"


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_content_comes_out_as_it_went_in(content: str) -> None:
    template = ChatTemplate("<{{ messages[0].content }}>")
    assert template.render({"messages": [{"content": content}]}) == f"<{content}>"


def test_break_and_continue() -> None:
    source = (
        "{% for i in range(9) %}"
        "{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}"
        "{% endfor %}"
    )
    assert render(source) == "023"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("range(3)", "[0, 1, 2]"),
        ("range(1, 4)", "[1, 2, 3]"),
        ("range(4, 0, -2)", "[4, 2]"),
        ("range(-1)", "[]"),
    ],
)
def test_range_is_pythons(call: str, expected: str) -> None:
    assert render(f"{{{{ {call} | list }}}}") == expected


@pytest.mark.parametrize(
    ("product", "expected"),
    [("6 * 7", "42"), ("'ab' * 2", "abab"), ("2 * 'ab'", "abab"), ("[1] * 2", "[1, 1]")],
)
def test_products_are_pythons(product: str, expected: str) -> None:
    assert render(f"{{{{ {product} }}}}") == expected


def test_tojson_indents() -> None:
    assert render("{{ value | tojson(indent=2) }}", value={"a": [1]}) == (
        '{\n  "a": [\n    1\n  ]\n}'
    )


def test_strftime_now_is_the_local_time() -> None:
    before = datetime.now().astimezone()
    rendered = render("{{ strftime_now('%Y-%m-%dT%H:%M:%S.%f%z') }}")
    after = datetime.now().astimezone()
    assert before <= datetime.strptime(rendered, "%Y-%m-%dT%H:%M:%S.%f%z") <= after


def test_raise_exception_refuses_with_its_message() -> None:
    source = "{% if messages[0].role != 'system' %}{{ raise_exception('no system!') }}{% endif %}"
    assert refusal(source) == "the chat template refuses these messages: no system!"


def test_what_raise_exception_says_is_one_printable_line() -> None:
    source = r"{{ raise_exception('no\n\x1b[2Jsystem') }}"
    assert refusal(source).endswith("refuses these messages: no [2Jsystem")


def test_nothing_is_global_but_what_templates_use() -> None:
    for name in ("lipsum", "cycler", "joiner"):
        assert render("{{ " + name + " is defined }}") == "False"


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__",
        "''.__class__()",
        "''['__class__'].__mro__",
        "(''|attr('__class__')).x",
        "messages.__class__.__base__.__subclasses__()",
        "messages[0].__init__.__globals__",
        "raise_exception.__globals__.os",
        "strftime_now.__code__.co_code",
        "namespace.__init__.__globals__",
        "cycler.__init__.__globals__.os",
        "range.__globals__.time",
        "range.__closure__[0]",
        "messages.count.__self__.x",
        "'{0.__class__.__mro__}'.format('')",
    ],
)
def test_the_insides_of_python_are_out_of_reach(expression: str) -> None:
    assert "unsafe" in refusal(f"{{{{ {expression} }}}}")


@pytest.mark.parametrize(
    "expression",
    ["''.__class__", "messages.__len__", "'{0.__class__}'.format('')", "''|attr('__class__')"],
)
def test_the_insides_of_python_are_not_written(expression: str) -> None:
    assert render(f"[{{{{ {expression} }}}}]") == "[]"


@pytest.mark.parametrize(
    "expression",
    [
        "messages.append(1)",
        "messages.clear()",
        "messages.pop()",
        "messages.reverse()",
        "messages[0].update({'content': 'x'})",
        "messages[0].pop('content')",
        "messages[0].setdefault('name', 'x')",
        "messages[0].clear()",
    ],
)
def test_the_messages_cannot_be_changed(expression: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert "unsafe" in refusal(f"{{{{ {expression} }}}}", messages=messages)
    assert messages == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "statement", ["include 'x'", "import 'x' as x", "from 'x' import y", "extends 'x'"]
)
def test_no_other_template_is_loaded(statement: str) -> None:
    refusal(f"{{% {statement} %}}")


def test_output_is_refused_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", -1.0)
    assert "takes too long" in refusal("x")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        f"{{{{ range({MAX_ITERATIONS + 1}) | length }}}}",
        "{{ range(-1000000000, 0) | length }}",
        "{{ range(1000000000, 0, -1) | sum }}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
        "{% for i in range(1000) %}{% set x = range(1000) | list %}{% endfor %}",
        "{% set r = range %}{% for i in r(1000) %}{% for j in r(1000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ range(999) }}{% endmacro %}{% for i in range(999) %}{{f()}}{% endfor %}",
    ],
    ids=["huge", "one too many", "negative", "backwards", "nested", "lists", "alias", "macro"],
)
def test_endless_ranges_are_refused(source: str) -> None:
    assert "loops without end" in refusal(source)


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 1000000000",
        "1000000000 * 'x'",
        "'xxx' * 33334",
        "[1] * 1000000000",
        "1000000000 * (1, 2)",
        "'x' * 100000 * 2",
        "('x' * 50000 + 'y') * 2",
    ],
)
def test_endless_repetition_is_refused(expression: str) -> None:
    assert "repeats a value without end" in refusal(f"{{{{ ({expression}) | length }}}}")


@pytest.mark.parametrize("expression", ["10 ** 1000000000", "2 ** 2", "9 ** 9 ** 9", "x ** 2"])
def test_powers_are_refused(expression: str) -> None:
    assert "`**`" in refusal(f"{{{{ {expression} }}}}", x=3)


def test_endless_recursion_is_refused() -> None:
    assert "recursion" in refusal("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ tools.function.name }}",
        "{{ tools() }}",
        "{{ raise_exception() }}",
        "{{ strftime_now(1) }}",
        "{{ messages[0].content.index('x') }}",
        "{{ now | tojson }}",
        "{{ failing() }}",
    ],
)
def test_any_failure_of_a_template_is_one_line(source: str) -> None:
    def failing() -> None:
        raise RuntimeError("first line\n\n  second line")

    message = refusal(source, now=datetime.now().astimezone(), failing=failing)
    assert message.startswith("the chat template failed: ")


@pytest.mark.parametrize("source", SYNTAX_ERRORS)
def test_a_syntax_error_is_one_line(source: str) -> None:
    assert refusal(source).startswith("the chat template is invalid: ")


@settings(max_examples=40, deadline=None)
@given(sources())
def test_no_source_fails_otherwise_than_with_one_line(source: str) -> None:
    message = None
    try:
        render(source)
    except PromptError as error:
        message = str(error)
    assert message is None or re.fullmatch("the chat template (is invalid|failed): [ -~]+", message)


def test_an_oversized_source_is_refused() -> None:
    assert "too many" in refusal("x" * (MAX_SOURCE_CHARS + 1))


def test_what_marks_text_to_train_on_means_its_content() -> None:
    assert render("{% generation %}{{ messages[1].content }}{% endgeneration %}!") == "world!"


def test_tojson_takes_the_options_of_hugging_face() -> None:
    options = "ensure_ascii=true, separators=(',', ':'), sort_keys=true"
    assert render("{{ {'b': 'ü', 'a': 1} | tojson(" + options + ") }}") == r'{"a":1,"b":"\u00fc"}'
    value = {"b": "<é> & '東'", "a": 2}
    assert render("{{ value | tojson }}", value=value) == """{"b": "<é> & '東'", "a": 2}"""
