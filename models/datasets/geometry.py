"""How stored images become the square images a model sees: shorter side resized, centre cropped, before any attack.

Images are resized by Pillow, antialiased and rounded to whole grey levels, as torchvision's transforms do on PIL
images: published ImageNet accuracies are measured that way, and the pixels here are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from models.errors import DataError, InvalidSpec

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

#: The options of a dataset's name that say its geometry: `imagenet@size=288,interpolation=bicubic`.
OPTIONS = ("size", "resize", "crop", "interpolation")

#: The classic ratio of evaluation on photographs: 256 to 224.
RESIZE_PER_CROP = 256 / 224

LARGEST = 4096


@dataclass(frozen=True)
class Geometry:
    """Resize the shorter side to `resize` (None: leave the size), then crop the central square of side `crop`."""

    resize: int | None
    crop: int
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise InvalidSpec(f"interpolation {self.interpolation!r} is unknown: {' or '.join(INTERPOLATIONS)}.")
        for what, value in (("crop", self.crop), ("resize", self.resize)):
            if value is not None and not 1 <= value <= LARGEST:
                raise InvalidSpec(f"{what} must be 1 to {LARGEST} pixels, not {value}.")
        if self.resize is not None and self.resize < self.crop:
            raise InvalidSpec(
                f"a crop of {self.crop} pixels does not fit in images resized to {self.resize}: make resize at least "
                f"{self.crop}."
            )

    @property
    def text(self) -> str:
        """The one text for this geometry; `parse` reads it back."""
        return f"resize={self.resize or 'none'},crop={self.crop},interpolation={self.interpolation}"

    @classmethod
    def of_size(cls, size: int, *, photographs: bool) -> Geometry:
        """The usual geometry for square inputs of side `size`.

        Photographs are resized to 8/7 of it and cropped (256 to 224); images that are stored as squares, such as
        CIFAR's, keep their border.
        """
        return cls(round(size * RESIZE_PER_CROP) if photographs else size, size)

    @classmethod
    def parse(cls, text: str) -> Geometry:
        """Read `resize=256,crop=224,interpolation=bilinear`, or a size such as `224`; raises `InvalidSpec`."""
        if text.strip().isdigit():
            return cls.of_size(int(text), photographs=True)
        options = {}
        for part in text.split(","):
            key, _, value = part.partition("=")
            options[key.strip()] = value.strip()
        return cls.from_options(options, None, photographs=True)

    @classmethod
    def from_options(cls, options: Mapping[str, str], default: Geometry | None, *, photographs: bool) -> Geometry:
        """The geometry that options of a dataset's name ask for; what they leave out is as in `default`.

        `size=S` asks for the usual geometry of that size; `crop` without `resize` does too. Raises `InvalidSpec` for
        an unknown option, a size that is no whole number, or no size at all.
        """
        unknown = [key for key in options if key not in OPTIONS]
        if unknown:
            raise InvalidSpec(f"{unknown[0]!r} is no option of a dataset's geometry: {', '.join(OPTIONS)} are.")
        if "size" in options and "crop" in options:
            raise InvalidSpec("size and crop say the same: give one of them.")
        side = _pixels(options, "size") or _pixels(options, "crop")
        if side is None and default is None:
            raise InvalidSpec("say the side of the images in pixels: size=224, or resize=256,crop=224.")
        base = cls.of_size(side, photographs=photographs) if side is not None else default
        assert base is not None
        resize = base.resize if "resize" not in options else _pixels(options, "resize")
        chosen = options.get("interpolation", default.interpolation if default else "bilinear")
        for interpolation in INTERPOLATIONS:
            if chosen == interpolation:
                return cls(resize, base.crop, interpolation)
        raise InvalidSpec(f"interpolation {chosen!r} is unknown: {' or '.join(INTERPOLATIONS)}.")

    def apply(self, image: Image, name: str) -> Image:
        """The square image for an image of any size; `name` is how an error calls it.

        The same pixels as torchvision's `Resize(resize, interpolation)` and `CenterCrop(crop)` on a PIL image, except
        that an image smaller than the crop raises `DataError` where torchvision would give it a black border.
        """
        from PIL.Image import Resampling

        width, height = image.size
        if self.resize is not None:
            # The longer side is cut down to a whole number, as torchvision does.
            if width <= height:
                wanted = (self.resize, int(self.resize * height / width))
            else:
                wanted = (int(self.resize * width / height), self.resize)
            if wanted != image.size:
                kind = Resampling.BILINEAR if self.interpolation == "bilinear" else Resampling.BICUBIC
                image = image.resize(wanted, kind)
        width, height = image.size
        if width < self.crop or height < self.crop:
            raise DataError(
                f"{name} is {width}x{height} pixels, and a crop of {self.crop} does not fit: give a resize, such as "
                f"resize={round(self.crop * RESIZE_PER_CROP)}."
            )
        # `round` goes to the even number at a half, here as there.
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))


def _pixels(options: Mapping[str, str], key: str) -> int | None:
    text = options.get(key)
    if text is None or (key == "resize" and text.lower() == "none"):
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InvalidSpec(f"{key} must be a number of pixels, not {text!r}.")
    return int(text)
