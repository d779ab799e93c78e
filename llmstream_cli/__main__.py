"""The `llmstream` command; also `python -m llmstream_cli`."""

import sys

from llmstream_cli.cli.process import leave, leave_on_interrupt, use_utf8
from llmstream_cli.files import set_home


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    leave_on_interrupt()
    use_utf8()
    set_home()
    from llmstream_cli.cli.app import run

    leave(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
