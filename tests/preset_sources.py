"""Where presets are on the Hub."""

from typing import NamedTuple

from llmstream_cli.models.presets import PRESETS


class Source(NamedTuple):
    """A preset's file on the Hub, and that of its tokenizer if it needs one."""

    repo: str
    file: str
    tokenizer: str


def source(name: str) -> Source:
    preset = PRESETS[name]
    assert preset.repo is not None
    assert preset.file is not None
    return Source(
        preset.repo, preset.file, (preset.tokenizer or "").removeprefix(f"{preset.repo}/")
    )
