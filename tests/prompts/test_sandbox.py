"""What a template makes is bounded, in memory and in time, whether or not it writes it."""

import re
import subprocess
import sys

import pytest

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts import sandbox
from llmstream_cli.prompts.template import ChatTemplate

BOUNDED = re.compile("without end|too much|too long|not allowed|recursion|No filter named")
BEFOREHAND = re.compile("without end|not allowed|No filter named")
LONG = "{% set s = 'x' * 100000 %}"


def doubling(statement: str, end: str = "") -> str:
    begin = "{% set ns = namespace(s='x', l=[1]) %}{% for i in range(40) %}"
    return f"{begin}{{% set {statement} %}}{{% endfor %}}{end}"


def retaining(expression: str) -> str:
    begin = "{% set ns = namespace(l=none) %}{% set s = '東' * 99999 %}{% set b = [0] * 99999 %}"
    return (
        f"{begin}{{% for i in range(99999) %}}{{% set ns.l = [ns.l, {expression}] %}}{{% endfor %}}"
    )


NESTED = "ns.l = [ns.l, ns.l]"
HOSTILE = [
    *map(
        doubling,
        [
            "ns.s = ns.s + ns.s",
            "ns.s = ns.s ~ ns.s",
            "ns.s = [ns.s, ns.s] | join",
            "ns.s = ''.join([ns.s, ns.s])",
            "ns.s = ''.join([ns.s, ns.s] | map('string'))",
            "ns.s = '%s%s' % (ns.s, ns.s)",
            "ns.s = '%s%s' | format(ns.s, ns.s)",
            "ns.s = '{0}{0}'.format(ns.s)",
            "ns.s = ns.s.replace('x', 'xx')",
            "ns.s = ns.s | replace('x', 'xx')",
            "ns.s = ('\"' * 9999 + ns.s) | tojson | tojson",
            "ns.l = ns.l + ns.l",
            "ns.l = (ns.l + ns.l) | sort",
            "n = 9 * 9 * 9 %}{% set ns.s = (ns.s ~ n) | upper ~ ns.s | title",
        ],
    ),
    *(
        doubling(NESTED, end)
        for end in (
            "{{ ns.l }}",
            "{{ ns.l | string | length }}",
            "{{ ns | string | length }}",
            "{{ ns.l | upper }}",
            "{{ ns.l | tojson }}",
            "{{ {'a': ns.l}.values() }}",
            "{{ '%s' % (ns.l,) }}",
            "{{ '{}'.format(ns.l) }}",
        )
    ),
    *(
        LONG + f"{{{{ ({expression}) | length }}}}"
        for expression in (
            "([s] * 100000) | join",
            "s.join('y' * 100000)",
            "s.join(s | map('upper'))",
            "('y' * 100000) | join(s)",
            "s.replace('x', s)",
            "s.replace('', s)",
            "(s | attr('join'))(s)",
            "[s] | map('replace', 'x', s) | list",
            "'x'.ljust(1000000000)",
            "'x'.zfill(1000000000)",
            "'\t'.expandtabs(tabsize=1000000000)",
            "'x'.encode().rjust(1000000000)",
            "(1).to_bytes(1000000000, 'big')",
            "'%1000000000d' % 1",
            "'%*d' % (1000000000, 1)",
            "'%.1000000000f' % 1",
            "'{:>1000000000}'.format(1)",
            "'{:{w}}'.format(1, w=1000000000)",
            "'{a:1000000000}'.format_map({'a': 1})",
            "s.translate({120: s})",
            "('\n' * 100000) | indent(s)",
            "'a\nb' | indent(1000000000)",
            "[[1]] | tojson(indent=1000000000)",
            "range(9) | list | tojson(separators=[s, s])",
            "'x' | center(1000000000)",
            "([[1] * 100000] * 100000) | sum(start=[])",
            "strftime_now('%1000000000d')",
        )
    ),
    *map(
        retaining,
        [
            "s ~ 'x'",
            "s[1:]",
            "b[1:]",
            "s.split('東')",
            "s | list",
            "s | upper",
            "[" + "0," * 9999 + "]",
        ],
    ),
    "{% set n = namespace(n=3) %}{% for i in range(60) %}{% set n.n = n.n * n.n %}{% endfor %}",
    "{% set b = [0] * 9999 %}{% for i in b %}{% for j in b %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_what_grows_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_TOTAL_BYTES", 32 * 1024 * 1024)  # sooner
    with pytest.raises(PromptError) as caught:
        ChatTemplate(source).render({"messages": []})
    bounded = BEFOREHAND if source.startswith(LONG) else BOUNDED
    assert bounded.search(str(caught.value))


@pytest.mark.slow
def test_the_memory_is_what_is_charged() -> None:
    """In a process that may take 800 MB in all, none of them runs out of memory."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20))\n"
        "from tests.prompts.test_sandbox import *\n"
        "for source in HOSTILE[:22]:\n"
        "    try: ChatTemplate(source).render({'messages': []})\n"
        "    except PromptError as error: assert BOUNDED.search(str(error)), (source, error)\n"
        "    else: raise AssertionError(source)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_long_conversation_stays_far_below_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_TOTAL_BYTES", 8 * 1024 * 1024)
    source = (
        "{% set ns = namespace(t='') %}{% for m in messages %}"
        "{% set ns.t = '<' ~ m.role ~ '>' + m.content | trim %}{{ ns.t }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 200}] * 1000
    assert len(ChatTemplate(source).render({"messages": messages})) > 1_000_000
