"""Distillate: a folder of labelled images in; a small, fast, verified ONNX classifier out."""

from typing import TYPE_CHECKING, Any

from distill.environment import send_nothing

send_nothing()  # before anything that it concerns is imported

if TYPE_CHECKING:
    from distill.runtime.faces import FaceFinder, label_faces
    from distill.runtime.predict import Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["FaceFinder", "Prediction", "Predictor", "__version__", "label_faces"]


def __getattr__(name: str) -> Any:
    """What is offered here is imported when it is asked for, so that commands begin at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from distill.runtime import faces  # which has the others, too

    return getattr(faces, name)
