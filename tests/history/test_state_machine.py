"""Any sequence of what can be done to a history, against a model of it in memory."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from llmstream_cli.errors import InvalidValueError, SessionNotFoundError
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History

names = st.none() | st.sampled_from(["a", "b", "c"])
texts = st.text("abc ", max_size=6)


class HistoryMachine(RuleBasedStateMachine):
    """Two connections to one file, used at random; each must see what the other did."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "history.db"
        self.connections = [History(path), History(path)]
        self.turns: dict[int, list[tuple[str, str]]] = {}  # in the order of their last change
        self.names: dict[int, str | None] = {}
        self.past: set[int] = set()

    def teardown(self) -> None:
        for history in self.connections:
            history.__exit__()
        self.folder.cleanup()

    @rule(target=sessions, by=st.integers(0, 1), name=names)
    def begin(self, by: int, name: str | None) -> Any:
        taken = name is not None and name in self.names.values()
        try:
            session = self.connections[by].begin(name)
        except InvalidValueError:
            assert taken
            return None
        assert not taken
        assert session not in self.past
        self.past.add(session)
        self.turns[session] = []
        self.names[session] = name
        return session

    def changed(self, session: int | None) -> bool:
        """Move a session to the end of those that changed; say whether it is there."""
        if session is None or session not in self.turns:
            return False
        self.turns[session] = self.turns.pop(session)
        return True

    @rule(by=st.integers(0, 1), session=sessions, answer=st.booleans(), content=texts)
    def append(self, by: int, session: int | None, answer: bool, content: str) -> None:
        turn = Turn(role="assistant" if answer else "user", content=content)
        there = self.changed(session)
        try:
            self.connections[by].append(session or 0, turn)
        except SessionNotFoundError:
            assert not there
        else:
            assert there
            assert session is not None
            self.turns[session].append((turn.role, content))

    @rule(by=st.integers(0, 1), session=sessions)
    def undo(self, by: int, session: int | None) -> None:
        there = self.changed(session)
        try:
            self.connections[by].undo(session or 0)
        except SessionNotFoundError:
            assert not there
            return
        assert session is not None
        turns = self.turns[session]
        questions = [at for at, (role, _) in enumerate(turns) if role == "user"]
        first = questions[-1] if questions else len(turns)
        del turns[first:]

    @rule(by=st.integers(0, 1), session=consumes(sessions))
    def delete(self, by: int, session: int | None) -> None:
        there = session in self.turns
        assert self.connections[by].delete([session or 0]) == there
        assert self.connections[by].turns(session or 0) == []
        if session is not None and there:
            del self.turns[session], self.names[session]

    @rule(by=st.integers(0, 1), text=st.text("abc", min_size=1, max_size=3))
    def search(self, by: int, text: str) -> None:
        hits = self.connections[by].search(text)
        found = [hit.turn.content for hit in hits]
        assert self.connections[by].search(text, limit=1) == hits[:1]
        said = [content for turns in self.turns.values() for _, content in turns]
        beginning = [one for one in said if any(w.startswith(text) for w in one.split())]
        assert sorted(found) == sorted(beginning or [one for one in said if text in one])

    @invariant()
    def all_is_as_it_was_said(self) -> None:
        for history in self.connections:
            sessions = history.sessions()
            assert [session.id for session in sessions] == list(reversed(self.turns))
            for session in sessions:
                said = self.turns[session.id]
                turns = [(turn.role, turn.content) for turn in history.turns(session.id)]
                assert turns == said
                assert (session.name, session.num_turns) == (self.names[session.id], len(said))
                if session.name is not None:
                    assert history.find(session.name).id == session.id


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=8, stateful_step_count=20)
