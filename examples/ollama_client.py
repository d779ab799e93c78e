"""Chat with `llmstream serve` through Ollama's client: streamed, and as a typed object.

llmstream serve &
python examples/ollama_client.py [http://127.0.0.1:3030]
"""

import sys
from typing import Literal

from ollama import Client
from pydantic import BaseModel


class Place(BaseModel):
    """What the model has to fill in."""

    city: Literal["Paris", "Rome"]
    continent: Literal["Europe", "Asia"]


def main(url: str) -> None:
    """Stream an answer, then get one as an object."""
    with Client(url) as client:
        model = client.list().models[0].model or ""

        stream = client.chat(
            model,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            options={"temperature": 0, "num_predict": 32},
            stream=True,
        )
        for part in stream:
            print(part.message.content, end="", flush=True)
            if part.done:
                print(f"\n[{part.eval_count} tokens]")

        answer = client.chat(
            model,
            messages=[{"role": "user", "content": "Where is the Eiffel tower?"}],
            format=Place.model_json_schema(),
            options={"temperature": 0},
        )
        print(repr(Place.model_validate_json(answer.message.content or "")))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3030")
