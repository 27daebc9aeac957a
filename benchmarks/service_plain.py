"""The opponent that everybody writes first: FastAPI, one image per request, decoded in the handler.

`python -m distill.benchmarks.service_plain MODEL PORT WORKERS`, run by uvicorn.
"""

from __future__ import annotations

import os
import sys

import uvicorn
from fastapi import FastAPI, UploadFile

from distill.runtime.predict import Predictor

VARIABLE = "BENCH_MODEL"  # what tells workers of the file


def app() -> FastAPI:
    """A service of the model that the environment names."""
    predictor, service = Predictor(os.environ[VARIABLE]), FastAPI()

    @service.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @service.post("/predict")
    def predict(image: UploadFile) -> dict[str, object]:  # not async: runs in a pool of threads
        answer = predictor.predict(image.file.read())[0]
        return {"labels": answer.labels, "prob": answer.prob, "probs": answer.probs}

    return service


def main(model: str, port: str, workers: str) -> None:
    """Serves until it is stopped."""
    os.environ[VARIABLE] = model
    name = "distill.benchmarks.service_plain:app"
    uvicorn.run(
        name,
        factory=True,
        host="127.0.0.1",
        port=int(port),
        workers=int(workers),
        log_level="warning",
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
