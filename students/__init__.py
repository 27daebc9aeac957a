"""Student networks, one file each, and the recipes that train them."""
