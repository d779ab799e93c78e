"""A `Progress` that remembers what it was told."""

from dataclasses import dataclass, field

from llmstream_cli.models.progress import Progress


@dataclass
class Work:
    """A piece of work as it was told of."""

    what: str
    total_bytes: int
    done_bytes: int
    ended: bool = False


@dataclass
class ProgressLog(Progress):
    """Remembers."""

    works: list[Work] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        self.works.append(Work(what, total_bytes, done_bytes))

    def advance(self, num_bytes: int) -> None:
        assert not self.works[-1].ended
        self.works[-1].done_bytes += num_bytes

    def end(self) -> None:
        self.works[-1].ended = True

    def note(self, line: str) -> None:
        self.notes.append(line)
