"""LitServe with the same file: `python -m distill.benchmarks.service_litserve MODEL PORT WORKERS`.

It runs in an environment of its own, as what it brings would change ours. Each of its workers
decodes and runs a batch of what is waiting, as LitServe's guide for images has it; a session has
one thread, as there is a worker per core.
"""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from distill.runtime.predict import Predictor

MAX_BATCH, BATCH_TIMEOUT_S = 8, 0.005


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Picture in, labels out."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    def setup(self, device: str) -> None:
        """Opens the file in a worker."""
        self.predictor = Predictor(self.model, threads=1)

    def decode_request(self, request: Request) -> Any:
        """The picture's pixels."""
        return self.predictor.pixels(request["image"].file.read())

    def batch(self, inputs: list[Any]) -> Any:
        """Pixels of several requests."""
        return np.stack(inputs)

    def predict(self, pixels: Any) -> list[Any]:
        """Answers to pixels, one each."""
        return [self.predictor.decide(row) for row in self.predictor.probs(pixels)]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Answers as they are."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """What is sent of an answer."""
        return {"labels": output.labels, "prob": output.prob, "probs": output.probs}


def main(model: str, port: str, workers: str) -> None:
    """Serves until it is stopped."""
    api = Api(model, max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers))
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:4])
