"""Distillate: a folder of labelled images in; a small, fast, verified ONNX classifier out."""

from distill.environment import send_nothing

send_nothing()  # before anything that it concerns is imported

from distill.runtime.predict import Prediction, Predictor  # noqa: E402

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "__version__"]
