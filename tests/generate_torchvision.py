"""Write what torchvision says about its classification models: their weights, and how those want images.

`python -m tests.generate_torchvision` after an update of torchvision. A test compares the file with the installed one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "models" / "architectures" / "data" / "torchvision.json"


def described() -> dict[str, dict[str, Any]]:
    """Every classification model: side of its images, and for each set of weights its preprocessing and its size."""
    from torchvision import models

    found: dict[str, dict[str, Any]] = {}
    for name in models.list_models(module=models):
        weights = {}
        for member in models.get_model_weights(name):
            accuracy = member.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            if math.isnan(accuracy):
                continue  # features without a classifier
            transforms = member.transforms()
            weights[member.name] = {
                "resize": transforms.resize_size[0],
                "crop": transforms.crop_size[0],
                "interpolation": transforms.interpolation.value,
                "mean": list(transforms.mean),
                "std": list(transforms.std),
                "num_params": member.meta["num_params"],
                "top1": accuracy,
                "url": member.url,
            }
        default = models.get_model_weights(name).DEFAULT.name
        found[name] = {"input_size": weights[default]["crop"], "default": default, "weights": weights}
    return found


def text() -> str:
    entries = (f" {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(described().items()))
    return "{\n" + ",\n".join(entries) + "\n}\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
