"""Model families, one file each, and one recipe per teacher worth training."""
