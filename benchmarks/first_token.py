"""Time from the start of a process to the first byte of its output, for commands in turn.

    python benchmarks/first_token.py [-n RUNS] 'COMMAND' ['COMMAND' ...]

Every command runs once to warm up and then RUNS times, A B C A B C …, so that a machine whose speed
drifts treats them alike. Printed: minimum, median and maximum for each, and the median ratio of the
first command to each other one, round by round.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import time


def first_byte_seconds(command: list[str]) -> float:
    """Run a command up to its first byte of output, then kill it."""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)
        seconds = time.perf_counter() - started
        process.kill()
    if not first:
        raise SystemExit(f"no output from: {shlex.join(command)}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-n", "--runs", type=int, default=15)
    parser.add_argument("commands", nargs="+")
    arguments = parser.parse_args()
    commands = [shlex.split(command) for command in arguments.commands]
    for command in commands:
        first_byte_seconds(command)
    rounds = [[first_byte_seconds(command) for command in commands] for _ in range(arguments.runs)]
    for number, command in enumerate(commands):
        times = [times[number] for times in rounds]
        ratio = statistics.median(times[0] / times[number] for times in rounds)
        print(
            f"{min(times):7.3f} {statistics.median(times):7.3f} {max(times):7.3f} s"
            f"  first/this {ratio:5.2f}  {shlex.join(command)}"
        )


if __name__ == "__main__":
    main()
