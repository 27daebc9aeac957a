"""Scores of probabilities against labels, and what follows from them; numpy only."""
