"""Weights: files that say what they are, found and read safely."""
