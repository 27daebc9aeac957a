"""A built-in data set of drawn faces that wear a mask correctly, incorrectly or not at all.

Every picture is a pure function of (seed, index); nothing is read from disk or network.
"""

from distill.data.demo.painter import CLASSES, SIZE, label_of, paint

__all__ = ["CLASSES", "SIZE", "label_of", "paint"]
