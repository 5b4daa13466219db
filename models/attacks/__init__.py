"""Attacks: small per-slot state machines, and the engine that keeps its slots full."""
