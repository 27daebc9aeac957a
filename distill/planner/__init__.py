"""`distill run DATA` without a recipe: what to train for how long, decided by data and machine."""
