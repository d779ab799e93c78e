"""What the server counts and measures, for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

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


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        models: whose engines are asked for theirs at each scrape.

    Attributes:
        requests: requests by route, status and how they ended.
        first_token_seconds: from a request to its first token.
        token_gap_seconds: between two tokens of an answer.
    """

    def __init__(self, models: ServedModels) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(models))
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "llmstream_requests",
            "Requests over HTTP that have ended.",
            ("route", "status", "ended"),
            registry=self._registry,
        )
        self.first_token_seconds = Histogram(
            "llmstream_first_token_seconds",
            "From a request to the first token of its answer, the queue included.",
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self.token_gap_seconds = Histogram(
            "llmstream_token_gap_seconds",
            "Between two tokens of an answer.",
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
        for name, help_ in _ENGINE_GAUGES.items():
            gauge = GaugeMetricFamily(f"llmstream_engine_{name}", help_, labels=("model",))
            yield self._fill(gauge, name)
        for name, help_ in _ENGINE_COUNTERS.items():
            counter = CounterMetricFamily(f"llmstream_engine_{name}", help_, labels=("model",))
            yield self._fill(counter, name)

    def _fill(
        self, family: GaugeMetricFamily | CounterMetricFamily, name: str
    ) -> GaugeMetricFamily | CounterMetricFamily:
        for model in self._models.models:
            family.add_metric([model.name], getattr(model.engine.metrics, name))
        return family
