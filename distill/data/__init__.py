"""Images: where they come from, what is wrong with them, and what a network sees of them."""
