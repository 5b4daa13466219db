"""Which device computes, and with how many threads."""

from __future__ import annotations

import os
import re

from models.errors import DeviceError, InvalidSpec


def check_name(name: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`, without importing torch; raises `InvalidSpec` for anything else."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise InvalidSpec(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:<n> or mps.")
    return name


def choose(name: str) -> str:
    """The torch device for a name; `auto` takes CUDA, then MPS, then the CPU. Raises `DeviceError` if it is not
    there.
    """
    import torch

    check_name(name)
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        wanted = int(name.partition(":")[2] or 0)
        if wanted >= count:
            found = (
                f"this machine has {count} CUDA device{'s' * (count != 1)}" if count else "torch sees no CUDA device"
            )
            raise DeviceError(f"device {name} is not there: {found}. Use --device cpu, or auto to take what there is.")
        return f"cuda:{wanted}"
    if name == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not there: torch sees no Apple GPU. Use --device cpu or auto.")
    return name


def label(device: str) -> str:
    """A torch device as results record it: a GPU with its name."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def describe() -> list[dict[str, str]]:
    """The devices that torch sees, for people."""
    import torch

    found = [{"device": "cpu", "name": f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"}]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found.append(
                {"device": f"cuda:{index}", "name": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"}
            )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found


def set_threads(threads: int | None) -> int:
    """Use this many CPU threads (all that torch would take when None); returns the number in force."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
