"""Training: recipes as data, and the loop that follows them."""
