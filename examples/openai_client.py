"""Chat with `llmstream serve` through OpenAI's client: streamed, and as a typed object.

llmstream serve &
python examples/openai_client.py [http://127.0.0.1:3030]
"""

import sys
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """What the model has to fill in."""

    city: Literal["Paris", "Rome"]
    continent: Literal["Europe", "Asia"]


def main(url: str) -> None:
    """Stream an answer, then get one as an object."""
    # Without --api-key the server takes any key; the client wants one.
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    model = client.models.list().data[0].id

    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage is not None:
            print(f"\n[{chunk.usage.completion_tokens} tokens]")

    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Where is the Eiffel tower?"}],
        response_format=Place,
        temperature=0,
    )
    print(repr(answer.choices[0].message.parsed))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3030")
