"""`llmstream doctor`: whether all is as it has to be on this machine, and what to do if not."""

import dataclasses
import json as json_text
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from llmstream_cli.cli.config.settings import SettingsCommand
from llmstream_cli.cli.terminal import without_controls
from llmstream_cli.errors import LLMStreamError

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        check: what was looked at.
        verdict: `warn` where something does less than it could, `fail` where something does not
            work at all.
        message: what was found, in one line.
        advice: what to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """How to examine.

    Attributes:
        commands: all commands with settings, to check what is kept for them.
        json: print one JSON object instead of lines.
    """

    commands: Mapping[str, SettingsCommand]
    json: bool

    def run(self) -> int:
        """Print what is found; return 1 if something does not work, else 0."""
        findings = []
        for finding in self._examine():
            findings.append(finding)
            if not self.json:
                _print(finding)
        is_well = all(finding.verdict != "fail" for finding in findings)
        if self.json:
            report = {"ok": is_well, "checks": [dataclasses.asdict(one) for one in findings]}
            sys.stdout.write(json_text.dumps(report, ensure_ascii=False, indent=2) + "\n")
        return 0 if is_well else 1

    def _examine(self) -> Iterator[Finding]:
        from llmstream_cli.cli import doctor_machine as machine
        from llmstream_cli.cli import doctor_setup as setup

        checks: list[tuple[str, Callable[[], Finding]]] = [
            ("llmstream", machine.version),
            ("python", machine.python),
            ("llama.cpp", machine.build),
            ("cpu", machine.cpu),
            ("threads", machine.threads),
            ("memory", machine.memory),
            ("disk", machine.disk),
            ("cache", setup.cache),
            ("hub", setup.hub),
            ("token", setup.token),
            ("settings", lambda: setup.settings(self.commands)),
            ("history", setup.history),
            ("port", lambda: setup.port(self.commands)),
            ("model", lambda: setup.model(self.commands)),
        ]
        for name, check in checks:
            try:
                yield check()
            except LLMStreamError as error:
                yield Finding(name, "fail", str(error))
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                yield Finding(name, "fail", f"{where}{error.strerror or error}")


def _print(finding: Finding) -> None:
    advice = f": {finding.advice}" if finding.advice else ""
    line = f"{finding.verdict:<4}  {finding.check:<9}  {finding.message}{advice}"
    sys.stdout.write(without_controls(" ".join(line.split("\n"))) + "\n")
    sys.stdout.flush()
