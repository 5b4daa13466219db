"""A classifier: a network behind its own normalisation, taking [0, 1] pixels to logits.

Attacks work on pixels, so the normalisation must be inside what they differentiate. The weights stay those of the bare
network, so that released checkpoints keep their parameter names.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import EvaluationError
from models.specs import Preprocessing


class Normalize(nn.Module):
    """(x - mean) / std per channel, for x of shape (N, C, H, W) in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """`network` behind `Normalize`; always returns one tensor of logits (N, num_classes)."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, num_classes: int) -> None:
        super().__init__()
        self.normalize = Normalize(preprocessing)
        self.network = network
        self.num_classes = num_classes

    def with_network(self, network: nn.Module) -> Classifier:
        """The same with another network behind the same normalisation."""
        twin = Classifier.__new__(Classifier)
        nn.Module.__init__(twin)
        twin.normalize, twin.network, twin.num_classes = self.normalize, network, self.num_classes
        return twin

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_of_normalized(self.normalize(x))

    def logits_of_normalized(self, z: Tensor) -> Tensor:
        """Logits for inputs that are normalised already (the `normalized-clamped` threat space)."""
        return pick_logits(self.network(z), len(z), self.num_classes)


def pick_logits(output: Any, n: int, num_classes: int) -> Tensor:
    """The logits (n, num_classes) in what a network returned.

    That is the tensor itself; `logits` or `out` of a dictionary or of an object; of a tuple the first element, or, when
    that has another shape, the only one that has the shape of logits. Raises `EvaluationError` for anything else,
    rather than guess.
    """
    found = output
    if isinstance(found, dict):
        found = found.get("logits", found.get("out"))
    elif isinstance(getattr(found, "logits", None), Tensor):
        found = found.logits
    elif isinstance(found, (tuple, list)):
        fitting = [part for part in found if isinstance(part, Tensor) and part.shape == (n, num_classes)]
        first = found[0] if found else None
        found = fitting[0] if fitting and (len(fitting) == 1 or fitting[0] is first) else first
    if not isinstance(found, Tensor):
        raise EvaluationError(
            f"the model returns {type(output).__name__}, in which no logits were recognised: return a tensor, a tuple "
            "that begins with the logits, or a dictionary with 'logits'."
        )
    if found.shape != (n, num_classes):
        raise EvaluationError(
            f"the model returns logits of shape {tuple(found.shape)} for {n} examples of {num_classes} classes; "
            f"expected ({n}, {num_classes})."
        )
    return found


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients, full float32 precision, repeatable kernels; all is put back afterwards.

    Raises `EvaluationError` at the end if a buffer (BatchNorm statistics, say) changed meanwhile: then the model was
    not the same for every example and no verdict holds.
    """
    modes = [(module, module.training) for module in model.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    before = buffers_digest(model)
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    settings = cuda.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        model.eval()
        for parameter, _ in wants:
            parameter.requires_grad_(False)
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = settings
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)
        for module, training in modes:
            module.training = training
    if buffers_digest(model) != before:
        raise EvaluationError(
            "the model changed its own buffers while it was evaluated (BatchNorm statistics?), so its verdicts depend "
            "on the order of examples. Make it deterministic in evaluation mode."
        )


def buffers_digest(model: nn.Module) -> str:
    """SHA-256 over all buffers."""
    return tensors_sha256(dict(model.named_buffers()))


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, sorted by name: a model's identity."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()
