"""Where published weights are to be had: a quick look before long work, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from distill.config import ModelConfig
from distill.errors import UserError
from distill.models.classifier import model_options, split_name
from distill.models.weights import ADVICE, check_weights_file
from distill.registry import find_module

PATIENCE_S = 5.0


class Origin(NamedTuple):
    """Of the weights that a family's `build` loads where it is asked for the library's own.

    Attributes:
        name: Of the network they are for.
        file: Where they are already, in a cache or an installed package.
        url: What is there where they can be downloaded; empty where they cannot.
        advice: What to do where they are nowhere.
        license: As their publisher states it; empty where that is nowhere.
        repository: Their name on the Hub; empty where they are not there.
    """

    name: str
    file: Path | None
    url: str
    advice: str = ADVICE
    license: str = ""
    repository: str = ""


def torch_origin(name: str, url: str) -> Origin:
    """Of weights that torch keeps in its cache under the last part of their URL."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    return Origin(name, file if file.is_file() else None, url)


def can_load(config: ModelConfig) -> UserError | None:
    """Why the weights that a model starts from cannot be had; None where they can.

    A module without a function `origin`, which says where they are, is believed.
    """
    try:
        if isinstance(config.pretrained, str):
            check_weights_file(config.pretrained)
        elif config.pretrained:
            check_shape(config)
        origin = origin_of(config)
    except UserError as error:
        return error
    if origin is None or origin.file or (origin.url and answers(origin.url)):
        return None
    there = f"at {urlsplit(origin.url).hostname}" if origin.url else "to be fetched"
    what = f"no pretrained weights for {origin.name}, neither on this machine nor {there}"
    return UserError(what, "model.pretrained", origin.advice)


def check_shape(config: ModelConfig) -> None:
    """Raises `UserError` where a family has weights for some shapes only, and not for this one."""
    family, _ = _family(config)
    if hasattr(family, "weights_of"):
        family.weights_of(model_options(config))


def origin_of(config: ModelConfig) -> Origin | None:
    """Of the library's own weights of a model; None where it starts from none, or none is known."""
    if config.pretrained is not True:
        return None
    family, variant = _family(config)
    return family.origin(variant) if hasattr(family, "origin") else None


def _family(config: ModelConfig) -> tuple[Any, str]:
    """The file that a model comes from, and which of its models that is."""
    folder, module, variant = split_name(config.name)
    return find_module(folder, module, "model.name", "build"), variant


def answers(url: str) -> bool:
    """Whether a server has something; asked for its head only."""
    request = Request(url, method="HEAD", headers={"User-Agent": "distillate"})
    try:
        with urlopen(request, timeout=PATIENCE_S):
            return True
    except HTTPError as error:
        return error.code not in (401, 403, 404)  # others are about the question, or pass
    except OSError:
        return False
