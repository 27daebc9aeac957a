"""Views of training images, each a pure function of (seed, image, number)."""
