"""Stream an answer from Python with the engine that the command uses.

Run it with the path of a GGUF file, or with none for the embedded model:

    python examples/stream_from_python.py [MODEL.gguf]
"""

import asyncio
import contextlib
import sys

from llmstream_cli.api import EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.models.resolve import ModelChoice, resolve
from llmstream_cli.prompts.messages import Message


async def main(path: str | None) -> None:
    """Ask for the capital of France and print the answer as it comes."""
    engine = InProcessEngine(EngineConfig(model_path=str(resolve(ModelChoice(model=path)).path)))
    engine.start()
    request = GenerationRequest(
        messages=(Message("user", "What is the capital of France?"),),
        sampling=SamplingParams(temperature=0.0, max_tokens=32),
    )
    try:
        # Leaving the block early, by an exception for one, cancels the generation.
        async with contextlib.aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                print(chunk.text, end="", flush=True)
                if chunk.usage is not None:
                    print(f"\n[{chunk.usage.completion_tokens} tokens, {chunk.finish_reason}]")
    finally:
        await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
