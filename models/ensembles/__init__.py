"""Models whose parts are models: what they are made of, how they are combined, and how a combiner learns."""
