"""Networks with their input contract, and what a plug-in that builds one imports."""

from distill.models.classifier import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    Classifier,
    Contract,
    Family,
    Outputs,
    build_classifier,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Channels",
    "Classifier",
    "Contract",
    "Family",
    "Outputs",
    "build_classifier",
]
