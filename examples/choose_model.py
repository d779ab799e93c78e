"""Ask every model of one server: choose_model.py [http://127.0.0.1:3030].

Start it with several, such as `llmstream serve --features smollm2 --features puffin`. The first is
loaded at once, the others when they are asked.
"""

import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3030"
client = OpenAI(base_url=f"{url}/v1", api_key="none")  # the server wants a key if it was given one

for model in client.models.list():
    answer = client.chat.completions.create(
        model=model.id,
        messages=[{"role": "user", "content": "Where is Paris?"}],
        temperature=0,
        max_tokens=16,
    )
    print(f"{model.id}: {answer.choices[0].message.content}")
