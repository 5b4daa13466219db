"""Builders of networks that other packages define: torchvision's and timm's registries, and importable factories."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from models.architectures import external
from models.errors import InvalidSpec, UnknownName


def from_torchvision(*, name: str, num_classes: int, in_channels: int, auxiliary: bool = False) -> nn.Module:
    """A classification model of torchvision, freshly initialised.

    GoogLeNet and Inception v3 get the transformation of inputs that torchvision's weights for them were trained with;
    `auxiliary` keeps their training-only heads.
    """
    from torchvision import models

    if in_channels != 3:
        raise InvalidSpec(f"torchvision:{name} takes colour images (3 channels), not {in_channels} channels.")
    arguments: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": auxiliary, "transform_input": True, "init_weights": False}
    network: nn.Module = models.get_model(name, **arguments)
    return network


def from_timm(*, name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """A model of timm, freshly initialised; `options` are keyword arguments of `timm.create_model`.

    Raises `UnknownName` with the nearest names of timm's registry.
    """
    import timm

    if not timm.is_model(name):
        known = timm.list_models()
        raise UnknownName("timm model", name, known, listing="python -c 'import timm; print(*timm.list_models())'")
    try:
        with warnings.catch_warnings():
            # timm still builds models by their earlier names, and says so.
            warnings.simplefilter("ignore", UserWarning)
            network: nn.Module = timm.create_model(
                name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options
            )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InvalidSpec(f"timm cannot build {name} so: {_first_line(error)}.") from error
    return network


def imported(*, target: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """What the factory `package.module:function` returns for `options`.

    `num_classes` and `in_channels` are passed on where the factory has parameters of these names. The current folder
    is searched last, so that a file beside the person works and nothing there shadows an installed package. Raises
    `InvalidSpec` when there is no such factory, or it does not return a module.
    """
    module_name, _, path = target.partition(":")
    sys.path.extend(folder for folder in external.import_folders() if folder not in sys.path)
    try:
        # What their code prints is talk, and stdout is for data.
        with contextlib.redirect_stdout(sys.stderr):
            factory: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidSpec(
            f"cannot import {module_name} ({_first_line(error)}): install its package here, or run in its folder."
        ) from error
    except (Exception, SystemExit) as error:
        raise InvalidSpec(f"importing {module_name} failed: {type(error).__name__}: {_first_line(error)}.") from error
    for part in path.split("."):
        if not hasattr(factory, part):
            known = [n for n in dir(factory) if not n.startswith("_")]
            raise UnknownName(f"name in {module_name}", path, known, listing=f"python -c 'help(\"{module_name}\")'")
        factory = getattr(factory, part)
    if isinstance(factory, nn.Module):
        raise InvalidSpec(f"{target} is a module, not a factory: name a function or class that returns one.")
    if not callable(factory):
        raise InvalidSpec(f"{target} is a {type(factory).__name__}, not a function that returns a module.")
    arguments = {**_accepted(factory, {"num_classes": num_classes, "in_channels": in_channels}), **options}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore", DeprecationWarning)
            network = factory(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        hint = "" if _takes(factory, arguments) else " Give its arguments with --set."
        raise InvalidSpec(f"{target}({given}) failed: {type(error).__name__}: {_first_line(error)}.{hint}") from error
    if not isinstance(network, nn.Module):
        raise InvalidSpec(f"{target} returned {type(network).__name__}, not a torch module.")
    return network


def _accepted(factory: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments for which the factory has a parameter of that very name."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    return {k: v for k, v in offered.items() if k in parameters}


def _takes(factory: Any, arguments: dict[str, Any]) -> bool:
    """Whether a factory can be called with these arguments, as far as its signature says."""
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError:
        return False
    except ValueError:
        return True  # it has no signature that can be read
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def source_digest(name: str) -> str | None:
    """SHA-256 of the source file of the module that a factory lies in, once it is imported; None when there is none.

    Tensors do not say what a network computes from them: edited code is another network.
    """
    target = external.target_of(name)
    module = sys.modules.get(target.partition(":")[0])
    path = getattr(module, "__file__", None)
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None
    except OSError:
        return None
