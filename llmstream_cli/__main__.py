"""The `llmstream` command; also `python -m llmstream_cli`."""

import sys

from llmstream_cli.cli.process import leave, leave_on_interrupt


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    leave_on_interrupt()
    from llmstream_cli.cli.app import run

    leave(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
