"""What an experiment found: rows of numbers, and tables of them."""
