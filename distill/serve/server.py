"""Starts a service: opens models, listens, and serves in one process or in several."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile

from distill.runtime.predict import Predictor
from distill.serve.logs import log
from distill.serve.settings import METRICS_FOLDER, Settings
from distill.serve.sockets import address_of, is_loopback, listen


def serve(settings: Settings) -> int:
    """Serves until it is told to end, then finishes what was accepted.

    Returns:
        The signal that ended it, or 0.

    Raises:
        UserError: A file that is not one of ours, or an address that cannot be listened at.
    """
    with contextlib.ExitStack() as stack:
        gc.disable()  # what is loaded here stays: looking for garbage in it takes a while
        stack.callback(gc.enable)
        predictors = open_models(settings)
        sockets = listen(settings.host, settings.port, settings.workers)
        for one in sockets:
            stack.callback(one.close)
        names, workers = list(settings.models), settings.workers
        log(logging.INFO, "listening", url=address_of(sockets[0]), models=names, workers=workers)
        if settings.token is None and not is_loopback(sockets[0]):
            log(logging.WARNING, "no token is set: whoever reaches this address may ask")
        os.environ.pop(METRICS_FOLDER, None)
        stack.callback(os.environ.pop, METRICS_FOLDER, None)
        if workers > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="distill-metrics-"))
            os.environ[METRICS_FOLDER] = folder
        # Not before: the client of Prometheus looks at that variable when it is imported.
        from distill.serve.supervisor import Supervisor
        from distill.serve.worker import work

        gc.freeze()  # nor is it looked through later, which would take tens of milliseconds
        stack.callback(gc.unfreeze)
        gc.enable()
        if workers > 1:
            return Supervisor(settings, sockets).run()
        return work(settings, predictors, sockets[0])


def open_models(settings: Settings) -> dict[str, Predictor]:
    """The models, by name.

    Raises:
        UserError: A file that is missing, or not one of ours.
    """
    return {name: Predictor(path, settings.threads) for name, path in settings.models.items()}
