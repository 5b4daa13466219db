"""Architectures: topologies with a name, a family, a lineage and a builder. The registry is the only way in."""
