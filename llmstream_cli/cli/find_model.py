"""From a command's options to a model file that can be loaded in its own process."""

from llmstream_cli.cli.progress import make_progress
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel, resolve


def find_model(choice: ModelChoice) -> ResolvedModel:
    """Find the model; see `resolve`. One that nobody vouches for is tried first.

    Raises:
        ModelError: it cannot be found or fetched, or it cannot be loaded.
    """
    found = resolve(choice, make_progress())
    if not found.vouched:
        try_loading(found)
    return found


def try_loading(found: ResolvedModel) -> None:
    """Load the model in a process of its own, which a malformed file may abort; remember that.

    Raises:
        ModelError: it cannot be loaded.
    """
    import asyncio
    import logging

    from llmstream_cli.api import EngineConfig
    from llmstream_cli.engines.supervised import SupervisedEngine
    from llmstream_cli.models.trust import note_loaded

    async def load() -> None:
        engine = SupervisedEngine(EngineConfig(model_path=str(found.path)))
        engine.start()
        try:
            await engine.ready()
        finally:
            await engine.aclose()

    # What is raised says all that there is to say.
    logging.getLogger("llmstream_cli").addHandler(logging.NullHandler())
    asyncio.run(load())
    note_loaded(found.path)
