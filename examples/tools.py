"""Let the model of `llmstream serve` call a function, through OpenAI's client.

llmstream serve &
python examples/tools.py [http://127.0.0.1:3030]
"""

import json
import sys
from typing import Any

from openai import OpenAI

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bern", "Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


def weather(city: str) -> str:
    """Stand in for a service that knows."""
    return f"It rains in {city}, at 12 °C."


def main(url: str) -> None:
    """Ask, call what the model asks for, and have it answer with the result."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    model = client.models.list().data[0].id
    asked: dict[str, Any] = {"model": model, "tools": [WEATHER], "temperature": 0}
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]

    # A larger model decides by itself ("auto"); a small one has to be told to call.
    first = client.chat.completions.create(
        messages=messages, tool_choice="required", parallel_tool_calls=False, **asked
    )
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls or []:
        result = weather(**json.loads(call.function.arguments))
        print(f"{call.function.name}({call.function.arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    second = client.chat.completions.create(
        messages=messages, tool_choice="none", max_tokens=64, **asked
    )
    print(second.choices[0].message.content)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3030")
