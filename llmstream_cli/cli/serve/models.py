"""From model files to the models of a server: what each needs, and who may be in memory."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmstream_cli.api import FIRST_CTX_SIZE, EngineConfig, ModelInfo
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.terminal import complain, without_controls
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.machine import memory
from llmstream_cli.models.file_facts import FileFacts, read_facts
from llmstream_cli.models.resolve import ResolvedModel
from llmstream_cli.models.sizes import human_size
from llmstream_cli.server.served import ServedModel, ServedModels

KEEP_ALIVE_SECONDS = 300.0
"""Until a model is unloaded that a request loaded, where nothing else is said."""

_RESERVE = 10  # one part in so many of the machine's memory is left to others


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model on its way to be served."""

    found: ResolvedModel
    config: EngineConfig
    facts: FileFacts

    @property
    def needed_bytes(self) -> int:
        """All that the user asked for; of a context that is taken unasked, what it begins with."""
        ctx_size = self.config.ctx_size or min(FIRST_CTX_SIZE, self.ctx_size or FIRST_CTX_SIZE)
        return self.facts.memory_bytes(ctx_size, self.config.max_seqs)

    @property
    def ctx_size(self) -> int:
        """What is known of it before it is loaded: there may not be memory for all of that."""
        return self.config.ctx_size or self.facts.ctx_size or 0


def serve_models(
    all_found: Sequence[ResolvedModel],
    config: Callable[[ResolvedModel], EngineConfig],
    sampling: SamplingOptions,
    *,
    max_bytes: int | None,
    keep_alive: float | None,
    verbose: bool,
) -> ServedModels:
    """Make engines that share the memory; none is loaded yet.

    Args:
        all_found: the files, the default's first.
        config: how a model's engine is set up. Where there are several models, a context that is
            larger than one was trained with is made smaller for that one.
        sampling: what the user said of it.
        max_bytes: what they may take together; None takes what is available now but for a
            reserve, and at least what the first model needs.
        keep_alive: seconds until an unused one is unloaded; None is never for the first model, and
            `KEEP_ALIVE_SECONDS` for the others.
        verbose: show llama.cpp's log.

    Raises:
        InvalidValueError: two go by the same name.
    """
    several = len(all_found) > 1
    candidates = [_candidate(found, config(found), fits_ctx=several) for found in all_found]
    max_bytes = max_bytes or _default_max_bytes(candidates[0].needed_bytes)
    pool = EnginePool(max_bytes)
    served = []
    for index, candidate in enumerate(candidates):
        found = candidate.found
        prefix = f"{found.name}: " if several else ""
        engine_config = replace(candidate.config, max_bytes=max_bytes)
        usual = math.inf if index == 0 else KEEP_ALIVE_SECONDS
        member = pool.add(
            found.name,
            functools.partial(_make_engine, engine_config, prefix, verbose=verbose),
            needed_bytes=candidate.needed_bytes,
            keep_alive=usual if keep_alive is None else keep_alive,
            max_requests=candidate.config.max_seqs + candidate.config.max_queue,
        )
        served.append(
            ServedModel(
                tuple(dict.fromkeys((found.name, found.path.stem))),
                member,
                int(found.path.stat().st_mtime),
                sampling.over(found.advice()),
                {thinks: sampling.over(found.advice(thinks)) for thinks in (False, True)},
                residency=member,
                size_bytes=candidate.facts.file_bytes,
                describe=functools.partial(_describe, candidate),
            )
        )
    models = ServedModels(served)
    if several:
        _announce_others(candidates[1:], max_bytes)
    return models


def _candidate(found: ResolvedModel, config: EngineConfig, *, fits_ctx: bool) -> _Candidate:
    facts = read_facts(found.path)
    if fits_ctx and config.ctx_size is not None and facts.ctx_size is not None:
        config = replace(config, ctx_size=min(config.ctx_size, facts.ctx_size))
    return _Candidate(found, config, facts)


def _make_engine(config: EngineConfig, prefix: str, *, verbose: bool) -> SupervisedEngine:
    def log(text: str) -> None:
        complain(without_controls(prefix + text))  # it quotes the file, which anyone may have made

    return SupervisedEngine(config, log=log if verbose else None)


def _default_max_bytes(first_bytes: int) -> int:
    machine = memory()
    return max(machine.available - machine.total // _RESERVE, first_bytes)


def _announce_others(others: Sequence[_Candidate], max_bytes: float) -> None:
    """Tell what requests can load, and what of it they cannot."""
    names = ", ".join(candidate.found.name for candidate in others)
    complain(f"loaded on request: {names}; all models together take {human_size(max_bytes)}\n")
    for candidate in others:
        if candidate.needed_bytes > max_bytes:
            complain(
                f"warning: {candidate.found.name} needs {human_size(candidate.needed_bytes)}, so "
                "requests for it will fail; see --memory, --ctx-size and --parallel\n"
            )


def _describe(candidate: _Candidate) -> ModelInfo:
    """Say of a model that is not loaded what its file does."""
    facts = candidate.facts
    words = (facts.architecture, facts.quantization)
    return ModelInfo(
        name=candidate.found.path.stem,
        description=" ".join(word for word in words if word is not None),
        ctx_size=candidate.ctx_size,
        load_seconds=0.0,
        cpu_features={},
        ctx_train=facts.ctx_size or 0,
        vocab_size=facts.vocab_size,
        num_parameters=facts.num_parameters,
        size_bytes=sum(facts.weight_types.values()),
        metadata=dict(facts.metadata),
        chat_template=facts.chat_template,
    )
