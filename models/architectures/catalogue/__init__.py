"""The entries of the registry of architectures, one file a family."""
