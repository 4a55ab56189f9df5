# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What Prometheus reads at `/metrics`."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server, in a registry of their own: a process may have several servers."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter(
            "wallaroo_requests",
            "Requests by path and status; 499: the client left.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "wallaroo_request_seconds",
            "From a request's arrival to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "wallaroo_batch_size", "Pictures that were made at once.", buckets=BATCHES, registry=registry
        )
        self.batch_seconds = Histogram(
            "wallaroo_batch_seconds", "What a batch or an answer took.", ["kind"], buckets=SECONDS, registry=registry
        )
        self.images = Counter("wallaroo_images", "Pictures that were made.", ["task"], registry=registry)
        self.tokens = Counter(
            "wallaroo_tokens", "Tokens of conversations, read and written.", ["kind"], registry=registry
        )
        self._gauges = {
            "wallaroo_queue_length": "Pictures and answers that wait.",
            "wallaroo_running": "Pictures and answers that are being made.",
            "wallaroo_requests_open": "Requests that are being served.",
        }

    def watch(self, name: str, value: Callable[[], float]) -> None:
        """Has one of the gauges read from a function."""
        Gauge(name, self._gauges[name], registry=self.registry).set_function(value)


__all__ = ["Metrics"]
