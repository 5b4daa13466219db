"""What is measured: architectures, weights, data, attacks, evaluation and training.

Torch lives in this room and nowhere else, and only in the modules that compute: names, specifications
and catalogues (`specs`, `errors`, every `registry`, `weights.catalogue`) import without it, so that a command line or
an app can ask what there is in milliseconds.
"""
