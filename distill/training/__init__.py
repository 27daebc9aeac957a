"""The one training loop, and what a run is made of."""
