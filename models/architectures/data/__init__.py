"""What searches found, as data: one file a search space, each definition with its source."""
