"""What the server counts and measures, for Prometheus."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from llmstream_cli.server.served import ServedModels

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# Attributes of `EngineMetrics`, `ServedModel` and `Residency`, and what they mean.
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
_MODEL_GAUGES = {"is_loaded": "Whether the model is loaded, 1, or not, 0."}
_RESIDENCY_GAUGES = {
    "memory_bytes": "What the model takes of the memory for models; 0 while it is not loaded.",
}
_RESIDENCY_COUNTERS = {
    "loads": "How often the model was loaded.",
    "load_seconds": "How long all its loads took together.",
    "unloads": "How often it was unloaded.",
}


class Metrics:
    """The metrics of one server, in a registry of its own; engines are asked at each scrape."""

    def __init__(self, models: ServedModels) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_EngineCollector(models))
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "llmstream_requests",
            "Requests over HTTP that have ended.",
            ("route", "status", "ended", "model"),
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "llmstream_first_token_seconds",
            "From a request to the first token of its answer; the queue and a load included.",
            ("model",),
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.token_gap_seconds = Histogram(
            "llmstream_token_gap_seconds",
            "Between two tokens of an answer.",
            ("model",),
            buckets=_GAP_BUCKETS,
            registry=registry,
        )

    def expose(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        models = {model.name: model for model in self._models.models}
        engines = {name: model.engine.metrics for name, model in models.items()}
        residencies = {name: model.residency for name, model in models.items() if model.residency}
        yield from _families(GaugeMetricFamily, "engine", _ENGINE_GAUGES, engines)
        yield from _families(CounterMetricFamily, "engine", _ENGINE_COUNTERS, engines)
        yield from _families(GaugeMetricFamily, "model", _MODEL_GAUGES, models)
        yield from _families(GaugeMetricFamily, "model", _RESIDENCY_GAUGES, residencies)
        yield from _families(CounterMetricFamily, "model", _RESIDENCY_COUNTERS, residencies)


def _families(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    of: str,
    attributes: Mapping[str, str],
    by_model: Mapping[str, object],
) -> Iterator[Metric]:
    """Yield a metric for each attribute, with its values by model."""
    for name, meaning in attributes.items():
        metric = family(f"llmstream_{of}_{name.removeprefix('is_')}", meaning, labels=("model",))
        for model, one in by_model.items():
            metric.add_metric([model], getattr(one, name))
        yield metric
