"""What the server counts and measures, for Prometheus."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from llmstream_cli.api import EngineState
from llmstream_cli.server.served import ServedModels

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_ENGINE_GAUGES = {
    "running": "Requests that hold a slot.",
    "waiting": "Requests in the queue.",
    "slots": "Requests that can run at once.",
    "cache_tokens": "Tokens in the KV cache.",
    "cache_capacity": "Tokens that the KV cache can hold.",
    "rss_bytes": "Resident memory of the engine's process; 0 where it is the server's.",
}
_ENGINE_COUNTERS = {
    "prompt_tokens": "Tokens of the prompts that began to run.",
    "cached_tokens": "Those of them that were taken from the prefix cache.",
    "generated_tokens": "Tokens drawn.",
    "steps": "Steps computed.",
    "step_seconds": "Time of all steps together.",
    "restarts": "How often the engine died and was started again.",
}
_MODEL_GAUGES = {
    "memory_bytes": "What the model takes of the memory for models; 0 while it is not loaded.",
}
_MODEL_COUNTERS = {
    "loads": "How often the model was loaded.",
    "load_seconds": "How long all its loads took together.",
    "unloads": "How often it was unloaded.",
}


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        models: whose engines are asked for theirs at each scrape.

    Attributes:
        requests: requests by route, status, how they ended, and model.
        first_token_seconds: from a request to its first token, by model.
        token_gap_seconds: between two tokens of an answer, by model.
    """

    def __init__(self, models: ServedModels) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(models))
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "llmstream_requests",
            "Requests over HTTP that have ended.",
            ("route", "status", "ended", "model"),
            registry=self._registry,
        )
        self.first_token_seconds = Histogram(
            "llmstream_first_token_seconds",
            "From a request to the first token of its answer; the queue and a load included.",
            ("model",),
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self.token_gap_seconds = Histogram(
            "llmstream_token_gap_seconds",
            "Between two tokens of an answer.",
            ("model",),
            buckets=_GAP_BUCKETS,
            registry=self._registry,
        )

    def expose(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Asks the engines when it is asked."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        engines = {model.name: model.engine.metrics for model in self._models.models}
        for name, help_ in _ENGINE_GAUGES.items():
            yield _gauge(f"llmstream_engine_{name}", help_, _values(engines, name))
        for name, help_ in _ENGINE_COUNTERS.items():
            yield _counter(f"llmstream_engine_{name}", help_, _values(engines, name))
        yield _gauge(
            "llmstream_model_loaded",
            "Whether the model is loaded, 1, or not, 0.",
            {m.name: m.engine.status.state is EngineState.READY for m in self._models.models},
        )
        residencies = {model.name: model.residency for model in self._models.models}
        present = {name: one for name, one in residencies.items() if one is not None}
        for name, help_ in _MODEL_GAUGES.items():
            yield _gauge(f"llmstream_model_{name}", help_, _values(present, name))
        for name, help_ in _MODEL_COUNTERS.items():
            yield _counter(f"llmstream_model_{name}", help_, _values(present, name))


def _values(by_model: Mapping[str, object], name: str) -> dict[str, float]:
    return {model: getattr(one, name) for model, one in by_model.items()}


def _gauge(name: str, help_: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=("model",))
    for model, value in values.items():
        family.add_metric([model], value)
    return family


def _counter(name: str, help_: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=("model",))
    for model, value in values.items():
        family.add_metric([model], value)
    return family
