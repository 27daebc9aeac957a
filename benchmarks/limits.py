"""What the hardware can do at most: a matrix product and a copy, measured like the models.

Command: `python -m distill.benchmarks.limits THREADS DEVICE`, which prints JSON. On the CPU the
product is numpy's in float32 with as many threads as its environment allows; the copy is done by
`THREADS` threads, each on a part of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

from distill.files import JsonModel

SIZE = 1024  # rows and columns of the matrices on a CPU
SIZE_GPU = 8192
COPY_BYTES = 2**27  # well beyond the caches
REPEATS = 15  # short ones, of which the fastest counts: a limit is what can be reached


class Limits(JsonModel):
    """What was reached.

    Attributes:
        flop_per_s: Of a product, by its precision.
        bytes_per_s: Of a copy, read and written.
    """

    flop_per_s: dict[str, float]
    bytes_per_s: float


def cpu_limits(threads: int) -> Limits:
    """A product by numpy, and a copy by so many threads."""
    a, b = (np.full((SIZE, SIZE), value, np.float32) for value in (0.5, 0.25))
    out = np.empty_like(a)
    product = fastest(lambda: np.matmul(a, b, out=out))
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    bounds = np.linspace(0, COPY_BYTES, threads + 1).astype(int).tolist()
    parts = [slice(low, high) for low, high in pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:
        copy = fastest(lambda: list(pool.map(lambda p: np.copyto(target[p], source[p]), parts)))
    products = {"fp32": 2 * SIZE**3 / product}
    return Limits(flop_per_s=products, bytes_per_s=2 * COPY_BYTES / copy)


def gpu_limits() -> Limits:
    """As `cpu_limits`, on the GPU by torch; float32 is TF32, as in its convolutions."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    products = {}
    for name, kind in (("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")):
        a = torch.ones(SIZE_GPU, SIZE_GPU, dtype=getattr(torch, kind), device="cuda")
        products[name] = 2 * SIZE_GPU**3 / fastest(lambda a=a: _finished(torch, a.matmul(a)))  # type: ignore[misc]
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = fastest(lambda: _finished(torch, target.copy_(source)))
    return Limits(flop_per_s=products, bytes_per_s=2 * COPY_BYTES / copy)


def _finished(torch: Any, result: Any) -> Any:
    torch.cuda.synchronize()
    return result


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    limits = gpu_limits() if sys.argv[2] == "cuda" else cpu_limits(int(sys.argv[1]))
    print(json.dumps(limits.to_json()))
