"""Stream an answer of `llmstream serve` with httpx.

llmstream serve &
python examples/token_stream.py [http://127.0.0.1:3030]
"""

import sys

import httpx2

SECONDS = 300.0  # between two pieces: a queue or a long prompt can take a while


def main(url: str) -> None:
    """Print an answer as it comes, then stop another one early."""
    question = {"query": "Where is Paris?", "temperature": 0, "max_tokens": 24}
    with httpx2.stream("POST", f"{url}/token_stream", json=question, timeout=SECONDS) as reply:
        if reply.is_error:
            # One line that says what to do: no such model, the queue is full, a wrong value, …
            sys.exit(reply.read().decode())
        # Raises httpx2.RemoteProtocolError if the server cuts the answer off.
        for text in reply.iter_text():
            print(text, end="", flush=True)
    print()

    question = {"query": "Count to a thousand.", "temperature": 0, "max_tokens": 200}
    with httpx2.stream("POST", f"{url}/token_stream", json=question, timeout=SECONDS) as reply:
        for text in reply.iter_text():
            print(text)
            break  # leaving the block closes the connection, and the server stops generating
    print("stopped")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3030")
