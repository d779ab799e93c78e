"""Reasoning is told from the answer, wherever the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.output import (
    KNOWN_TAGS,
    Delta,
    Phase,
    ReasoningSplitter,
    ReasoningTags,
    suffix_that_begins,
)

TAGS = ReasoningTags("<t>", "</t>")
WHITE_SPACE = " \t\r\n"

# Texts that are full of tags and of what almost is one.
texts = st.lists(
    st.sampled_from(["<t>", "</t>", "<", "/", "t", ">", "</t", "\n", " ", "a"]), max_size=14
).map("".join)


def oracle(text: str, *, begins_inside: bool) -> Delta:
    """The whole text split at once."""
    bare = text.lstrip(WHITE_SPACE)
    if begins_inside:
        bare = "<t>" + text
    if not bare.startswith("<t>"):
        return Delta(text)
    reasoning, _, answer = bare.removeprefix("<t>").partition("</t>")
    return Delta(answer.lstrip(WHITE_SPACE), reasoning.strip(WHITE_SPACE))


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    borders = draw(st.lists(st.integers(0, len(text)), max_size=len(text) + 2).map(sorted))
    return [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]


def run(pieces: list[str], *, begins_inside: bool) -> tuple[list[Delta], ReasoningSplitter]:
    splitter = ReasoningSplitter(TAGS, begins_inside=begins_inside)
    return [*map(splitter.push, pieces), splitter.flush()], splitter


def joined(deltas: list[Delta]) -> Delta:
    return Delta("".join(d.text for d in deltas), "".join(d.reasoning for d in deltas))


@given(st.data(), texts, st.booleans())
def test_the_parts_do_not_depend_on_how_the_text_is_cut(
    data: st.DataObject, text: str, begins_inside: bool
) -> None:
    deltas, splitter = run(data.draw(cut(text)), begins_inside=begins_inside)
    assert joined(deltas) == oracle(text, begins_inside=begins_inside)
    assert splitter.opened == (begins_inside or text.lstrip(WHITE_SPACE).startswith("<t>"))


@given(texts, st.booleans())
def test_all_reasoning_comes_before_all_of_the_answer(text: str, begins_inside: bool) -> None:
    deltas, _ = run(list(text), begins_inside=begins_inside)
    answered = False
    for delta in deltas:
        assert not (answered and delta.reasoning)
        answered = answered or bool(delta.text)


@given(texts, st.booleans())
def test_only_what_could_become_a_tag_waits(text: str, begins_inside: bool) -> None:
    """After each character, all is out but white space and the beginning of a tag."""
    splitter = ReasoningSplitter(TAGS, begins_inside=begins_inside)
    seen = Delta()
    for end, character in enumerate(text, 1):
        seen = joined([seen, splitter.push(character)])
        whole = oracle(text[:end], begins_inside=begins_inside)
        missing = whole.text[len(seen.text) :] + whole.reasoning[len(seen.reasoning) :]
        tag = TAGS.opening if splitter.phase is Phase.OPENING else TAGS.closing
        waiting = missing.lstrip(WHITE_SPACE)
        assert len(waiting) == suffix_that_begins(tag, waiting)
        if splitter.phase is Phase.ANSWER:
            assert not missing


@given(texts, st.booleans())
def test_the_phase_only_moves_up(text: str, begins_inside: bool) -> None:
    splitter = ReasoningSplitter(TAGS, begins_inside=begins_inside)
    phases = [splitter.phase]
    for character in text:
        splitter.push(character)
        phases.append(splitter.phase)
    assert phases == sorted(phases)


@pytest.mark.parametrize("tags", KNOWN_TAGS)
def test_a_block_as_models_write_it(tags: ReasoningTags) -> None:
    splitter = ReasoningSplitter(tags)
    text = f"{tags.opening}\nFrance, I think.\n{tags.closing}\n\nIn France."
    deltas = [splitter.push(text), splitter.flush()]
    assert joined(deltas) == Delta("In France.", "France, I think.")


def test_a_tag_inside_the_answer_is_text() -> None:
    text = "Models write <t> and </t> around what they think."
    assert joined(run([text], begins_inside=False)[0]) == Delta(text)


def test_a_block_that_never_ends_is_all_reasoning() -> None:
    deltas, splitter = run(["I thi", "nk </"], begins_inside=True)
    assert deltas == [Delta(reasoning="I thi"), Delta(reasoning="nk"), Delta(reasoning=" </")]
    assert splitter.phase is Phase.REASONING
