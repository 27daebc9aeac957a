"""Distillate: a folder of labelled images in; a small, fast, verified ONNX classifier out."""

from distill.runtime.predict import Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "__version__"]
