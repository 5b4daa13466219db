"""Datasets: named, fingerprinted sets of labelled examples in a stable order, as [0, 1] pixels."""
