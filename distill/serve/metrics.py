"""What is counted and timed, for Prometheus; with several workers all of them add up.

`prometheus_client` looks at `PROMETHEUS_MULTIPROC_DIR` when it is imported, so what starts workers
sets that before it imports this.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

from distill.serve.settings import METRICS_FOLDER

MEDIA_TYPE = CONTENT_TYPE_LATEST
STAGES = ("decode", "queue", "model")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one worker, and the text that has those of all."""

    def __init__(self) -> None:
        # When each was first counted is twice the text.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "distillate_requests",
            "Requests that were answered.",
            ("path", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "distillate_request_seconds",
            "Of requests for predictions that were answered, or given up as too slow (504).",
            buckets=SECONDS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "distillate_stage_seconds",
            "Where a picture's time goes.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = {stage: stage_seconds.labels(stage) for stage in STAGES}
        self.batch_pictures = Histogram(
            "distillate_batch_pictures",
            "Pictures that a model saw at a time.",
            ("model",),
            buckets=SIZES,
            registry=registry,
        )
        self.answers = Counter(
            "distillate_answers",
            "First labels of what was asked about; an empty one where the model abstained.",
            ("model", "label"),
            registry=registry,
        )
        self.outliers = Counter(
            "distillate_outliers",
            "Of these, those that are unlike the pictures a model was trained on.",
            ("model",),
            registry=registry,
        )
        self.pending = Gauge(
            "distillate_pending_pictures",
            "Pictures that are accepted and not yet answered.",
            ("model",),
            multiprocess_mode="livesum",
            registry=registry,
        )

    def text(self) -> bytes:
        """All figures in Prometheus's format; those of workers that have died count."""
        if folder := os.environ.get(METRICS_FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry)


def of_this_process(metrics: Metrics) -> None:
    """Adds memory, processor time and open files; of a service that is one process."""
    ProcessCollector(registry=metrics._registry)
