"""Kept adversarial examples as files for elsewhere: PNG images that people look at, tensors that programs read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from explorer.errors import FAILED, ExplorerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.kept import Kept

#: Channels of grey and of coloured pictures.
_CHANNELS = (1, 3)


def export(kept: Kept, evaluation_id: str, folder: Path, form: str, scale: float | None = None) -> list[Path]:
    """Write examples into a folder as `png`, `npz` or `safetensors`; returns the files.

    `scale` is the factor of the differences in PNG files: None for the greatest whole one that cuts none off. Raises
    `ExplorerError` when the folder cannot be written, or when a file of one of the names is there: nothing is written
    then.
    """
    files = _files(kept, evaluation_id, form, scale)
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise ExplorerError(f"{folder / there[0]} is there already: nothing was written. Export to another folder.")
    written = []
    for name, content in files.items():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, content())
        except FileExistsError:
            raise ExplorerError(f"{path} is there already: export to another folder.") from None
        except OSError as error:
            raise ExplorerError(f"cannot write {path}: {error.strerror or error}.", FAILED) from None
        written.append(path)
    return written


def _write(path: Path, content: bytes) -> None:
    """A new file, whole or not at all."""
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError:
            path.unlink()
            raise


def _files(kept: Kept, evaluation_id: str, form: str, scale: float | None) -> dict[str, Callable[[], bytes]]:
    """What is to be written, by name, each made when it is asked for."""
    if form == "npz":
        return {f"{evaluation_id}.npz": lambda: _npz(kept)}
    if form == "safetensors":
        return {f"{evaluation_id}.safetensors": lambda: _safetensors(kept, evaluation_id)}
    return _pictures(kept, scale)


def _npz(kept: Kept) -> bytes:
    from models.kept import dump

    buffer = io.BytesIO()
    dump(kept, buffer)
    return buffer.getvalue()


def _safetensors(kept: Kept, evaluation_id: str) -> bytes:
    from dataclasses import fields

    from safetensors.numpy import save

    return save({f.name: getattr(kept, f.name) for f in fields(kept)}, metadata={"evaluation_id": evaluation_id})


def _pictures(kept: Kept, scale: float | None) -> dict[str, Callable[[], bytes]]:
    """Three images an example: as it is, as attacked, and the change, where grey is none."""
    import numpy as np

    channels = kept.clean.shape[1]
    if channels not in _CHANNELS:
        raise ExplorerError(f"images of {channels} channels are no pictures: export them with --as npz.")
    greatest = float(kept.linf.max(initial=0))
    factor = scale if scale is not None else max(1.0, float(np.floor(0.5 / greatest))) if greatest else 1.0
    found: dict[str, Callable[[], bytes]] = {}
    for row, (example, label) in enumerate(zip(kept.examples.tolist(), kept.labels.tolist(), strict=True)):
        clean, adversarial = kept.clean[row], kept.adversarial[row]
        seen, rounded = int(kept.predictions[row]), int(kept.rounded_predictions[row])
        # The file holds the rounded image, of which the model may say something else.
        attacked = f"{seen}" if seen == rounded else f"{seen}-in-8-bits-{rounded if rounded >= 0 else 'none'}"
        begin = f"{example:05d}-label-{label}"
        change = (adversarial - clean) * np.float32(factor) + np.float32(0.5)
        for name, image in (
            (f"{begin}-clean-{int(kept.clean_predictions[row])}.png", clean),
            (f"{begin}-adversarial-{attacked}.png", adversarial),
            (f"{begin}-difference-x{factor:g}.png", change),
        ):
            found[name] = lambda image=image: _png(image)  # type: ignore[misc]
    return found


def _png(image: NDArray[np.float32]) -> bytes:
    """An image (channels, height, width) in [0, 1] as PNG, rounded as the model was asked about it."""
    from PIL import Image

    from models.kept import eight_bits

    pixels = eight_bits(image)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy()).save(buffer, "PNG")
    return buffer.getvalue()
