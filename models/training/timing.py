"""How long training takes, from a few steps on made-up images."""

from __future__ import annotations

import time

import torch

from models.architectures import registry
from models.classifier import Classifier
from models.datasets.registry import Dataset
from models.specs import ArchitectureSpec

#: Pixels of a measured step, and its images at least and at most.
_PIXELS, _FEWEST, _MOST = 8192, 2, 64


def seconds_an_image(architecture: ArchitectureSpec, dataset: Dataset, device: str) -> float:
    """Seconds that an image takes in a training step: forward, backward and the update of the weights.

    The better of two steps after one to warm up, in small batches: a full batch is at most as slow. Global random
    state is left as it was.
    """
    where = torch.device(device)
    channels, height, width = dataset.image_shape
    count = max(_FEWEST, min(_MOST, _PIXELS // (height * width)))
    cuda = [where.index or 0] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(0)
        network = registry.build(architecture, num_classes=dataset.n_classes, in_channels=channels)
        classifier = Classifier(network, dataset.preprocessing, dataset.n_classes).to(where).train()
        images = torch.rand(count, channels, height, width, device=where)
        labels = torch.arange(count, device=where) % dataset.n_classes
        trained = [p for p in classifier.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-6)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(classifier(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            # Reading a number waits for the device.
            float(loss.detach())
            took.append(time.perf_counter() - began)
    return min(took[1:]) / count
