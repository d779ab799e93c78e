"""From model files to the models of a server: what each needs, and who may be in memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from llmstream_cli.api import FIRST_CTX_SIZE, EngineConfig, ModelInfo
from llmstream_cli.cli.serve.options import ServeOptions
from llmstream_cli.cli.terminal import without_controls, write_stderr
from llmstream_cli.core.reasoning import names_reasoning
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import PooledEngine
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.machine import memory
from llmstream_cli.models.file_facts import FileFacts, read_facts
from llmstream_cli.models.resolve import ResolvedModel
from llmstream_cli.models.sizes import human_size
from llmstream_cli.server.served import ServedModel, ServedModels

_KEEP_ALIVE_SECONDS = 300.0  # of models that requests load, unless the user says otherwise
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

    def describe(self) -> ModelInfo:
        """Say of a model that is not loaded what its file does."""
        facts, config = self.facts, self.config
        default = config.default_chat_format if facts.chat_template is None else None
        chat_format = config.chat_format or default
        template = facts.chat_template if chat_format is None else chat_format.template
        return ModelInfo(
            name=self.found.path.stem,
            description=" ".join(filter(None, (facts.architecture, facts.quantization))),
            ctx_size=self.ctx_size,
            load_seconds=0.0,
            cpu_features={},
            ctx_train=facts.ctx_size or 0,
            vocab_size=facts.vocab_size,
            num_parameters=facts.num_parameters,
            size_bytes=sum(facts.weight_types.values()),
            metadata=dict(facts.metadata),
            chat_template=template,
            thinks=names_reasoning(template or ""),
        )


def serve_models(
    all_found: Sequence[ResolvedModel],
    config: Callable[[ResolvedModel], EngineConfig],
    how: ServeOptions,
    *,
    max_bytes: int | None,
    keep_alive: float | None,
) -> ServedModels:
    """Make engines that share the memory; none is loaded yet.

    Args:
        all_found: the files, the default's first.
        config: how a model's engine is set up. Of several models, each has its context cut to
            what it was trained with.
        how: what the user said.
        max_bytes: what they may take together; None takes what is available now but for a
            reserve, and at least what the first model needs.
        keep_alive: seconds until an unused one is unloaded; None is never for the first model.

    Raises:
        InvalidValueError: two go by the same name.
    """
    several = len(all_found) > 1
    candidates = []
    for found in all_found:
        facts, wanted = read_facts(found.path), config(found)
        if several and wanted.ctx_size is not None and facts.ctx_size is not None:
            wanted = replace(wanted, ctx_size=min(wanted.ctx_size, facts.ctx_size))
        candidates.append(_Candidate(found, wanted, facts))
    if max_bytes is None:
        machine = memory()
        unreserved = machine.available - machine.total // _RESERVE
        max_bytes = max(unreserved, candidates[0].needed_bytes)
    pool = EnginePool(max_bytes)
    served: list[ServedModel] = []
    for candidate in candidates:
        found, wanted = candidate.found, replace(candidate.config, max_bytes=max_bytes)
        log = partial(_log, f"{found.name}: " if several else "") if how.verbose else None
        usual = _KEEP_ALIVE_SECONDS if served else math.inf
        member = PooledEngine(
            pool,
            found.name,
            partial(SupervisedEngine, wanted, log=log),
            needed_bytes=candidate.needed_bytes,
            keep_alive=usual if keep_alive is None else keep_alive,
            max_requests=wanted.max_seqs + wanted.max_queue,
        )
        served.append(
            ServedModel(
                tuple(dict.fromkeys((found.name, found.path.stem))),
                member,
                int(found.path.stat().st_mtime),
                how.sampling.over(found.advice()),
                {thinks: how.sampling.over(found.advice(thinks)) for thinks in (False, True)},
                residency=member,
                size_bytes=candidate.facts.file_bytes,
                describe=candidate.describe,
            )
        )
    models = ServedModels(served)
    if several:
        _announce_others(candidates[1:], max_bytes)
    return models


def _log(prefix: str, text: str) -> None:
    write_stderr(without_controls(prefix + text))  # it quotes the file, which anyone may have made


def _announce_others(others: Sequence[_Candidate], max_bytes: int) -> None:
    names = ", ".join(candidate.found.name for candidate in others)
    write_stderr(f"loaded on request: {names}; all models together take {human_size(max_bytes)}\n")
    for candidate in others:
        if candidate.needed_bytes > max_bytes:
            write_stderr(
                f"warning: {candidate.found.name} needs {human_size(candidate.needed_bytes)}, so "
                "requests for it will fail; see --memory, --ctx-size and --parallel\n"
            )
