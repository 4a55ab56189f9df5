# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures in (for the vision tower and for the VQ tokenizer) and pictures out. Pillow only: no torchvision."""

import base64
import binascii
import io
import os
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.utils import is_torch_available, logging

from .image_grid_wallaroo import BUCKETS_512, cells_over, fit_size, nearest_bucket

if is_torch_available():
    import torch

logger = logging.get_logger(__name__)

# Modes that Pillow turns into RGB by itself without losing what a viewer would show.
PLAIN_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")
# What Pillow raises for broken files, besides a `ValueError`: its decoders differ.
BROKEN = (OSError, SyntaxError, RuntimeError, ValueError, Image.DecompressionBombError)
# Longest side over shortest; beyond it the vision tower sees nothing, and covering a bucket would take all memory.
MAX_ASPECT_RATIO = 200
URL_TIMEOUT = 30  # seconds


def to_rgb(image: Any, name: str = "images") -> Image.Image:
    """An upright RGB picture from whatever a user has.

    Handles EXIF rotation, palettes, greyscale of 8 and 16 bits, CMYK, and transparency (laid on white).

    Args:
        image: a PIL image, a path, URL or base64 string, bytes, or an array or tensor of uint8 or of floats in
            [0, 1] with 1, 3 or 4 channels first or last.
        name: the argument it came in, for the error message.
    """
    picture = _open(image, name)
    if picture.mode not in (*PLAIN_MODES, "RGBA", "LA", "PA", "La", "RGBa", "I", "I;16", "I;16B", "I;16L", "I;16N"):
        raise ValueError(
            f"`{name}` holds a picture of mode {picture.mode!r}, whose values have no known range. "
            "Convert it to 'RGB' first."
        )
    if min(picture.size) == 0 or max(picture.size) > MAX_ASPECT_RATIO * min(picture.size):
        raise ValueError(
            f"`{name}` holds a picture of {picture.width} x {picture.height} pixels (width x height), but it must have "
            f"pixels, and sides whose ratio is at most {MAX_ASPECT_RATIO}."
        )
    try:
        return _flatten(ImageOps.exif_transpose(picture))
    except BROKEN as error:
        raise ValueError(
            f"`{name}` holds a picture that cannot be decoded, it is truncated or corrupt: {error}."
        ) from error


def to_mask(mask: Any, name: str = "region_mask") -> np.ndarray:
    """Bools `(height, width)` of a mask, true where it is white (or transparent).

    Args:
        mask: what `to_rgb` takes, or an array or tensor of bools; from middle grey on it is white.
        name: the argument it came in, for the error message.
    """
    if is_torch_available() and isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
        mask = mask.cpu().numpy()
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = mask.astype(np.uint8) * 255
    levels = np.asarray(to_rgb(mask, name).convert("L"))
    if levels.max() == 1:
        raise ValueError(
            f"`{name}` has no value above 1 of 255, which is all black. Pass bools, or 0 and 255, instead of 0 and 1."
        )
    return levels >= 128


def _flatten(picture: Image.Image) -> Image.Image:
    """RGB of a picture in any of the known modes."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        # Mode "I" holds what its maker meant; only values beyond 255 tell that it was 16 bits.
        shift = 8 if picture.mode != "I" or values.max() > 255 else 0
        return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _open(image: Any, name: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, os.PathLike):
        image = os.fspath(image)
    if isinstance(image, (str, bytes, bytearray)):
        try:
            return Image.open(image if isinstance(image, str) and os.path.isfile(image) else io.BytesIO(_bytes(image)))
        except BROKEN as error:
            shown = image if len(image) <= 500 else image[:80]
            raise ValueError(
                f"`{name}` holds {shown!r}, which is no readable picture: expected a PIL image, a path, a URL, base64, "
                f"bytes or an array ({error})."
            ) from error
    if is_torch_available() and isinstance(image, torch.Tensor):
        image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.cpu().numpy()
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    raise ValueError(
        f"`{name}` holds a {type(image).__name__}, but expected a PIL image, a path, a URL, base64, bytes or an array."
    )


def _bytes(image: str | bytes | bytearray) -> bytes:
    """The file behind a URL or in a base64 string. transformers' own loader drops alpha and 16 bits on the way."""
    if not isinstance(image, str):
        return bytes(image)
    if image.startswith(("http://", "https://")):
        with urllib.request.urlopen(image, timeout=URL_TIMEOUT) as response:
            return response.read()
    encoded = image.partition("base64,")[2] if image.startswith("data:") else image
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise FileNotFoundError("there is no such file, and it is no base64") from None


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    pixels = array
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if np.issubdtype(pixels.dtype, np.floating) and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if (
        pixels.dtype != np.uint8
        or not pixels.size
        or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)))
    ):
        raise ValueError(
            f"`{name}` holds an array of shape {array.shape} and dtype {array.dtype}, but expected uint8, or floats in "
            "[0, 1], with 1, 3 or 4 channels first or last."
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


class WallarooImageProcessor(Qwen2VLImageProcessorPil):
    """Qwen2.5-VL's Pillow image processor, with the streams of image generation and editing.

    Calling it gives the vision tower's `pixel_values` and `image_grid_thw`, as Qwen2.5-VL's does. `preprocess_cells`
    gives the VQ tokenizer's input, `postprocess` turns decoded pixels into pictures.

    Args:
        size: `shortest_edge` and `longest_edge`, the fewest and most pixels the vision tower sees (docs/protocol.md
            section 9).
        buckets: (height / width, height, width) in pixels of the sizes that images are made in.
        downsample_factor: pixels a cell, along each side; both sides of an image are multiples of it.
    """

    _auto_class = "AutoImageProcessor"
    size = {"shortest_edge": 12544, "longest_edge": 188160}
    buckets: Sequence[Sequence[float]] = BUCKETS_512
    downsample_factor: int = 16

    def __init__(self, buckets: Sequence[Sequence[float]] | None = None, downsample_factor: int = 16, **kwargs: Any):
        super().__init__(**kwargs)
        self.buckets = [list(bucket) for bucket in (self.buckets if buckets is None else buckets)]
        self.downsample_factor = downsample_factor

    def bucket_of(self, height: float, width: float) -> tuple[int, int]:
        """Size (height, width) in pixels in which a picture of this shape is made."""
        return nearest_bucket(height, width, self.buckets)

    def check_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size, or raises where a side is not a positive multiple of `downsample_factor`."""
        for name, side in (("height", height), ("width", width)):
            if (
                isinstance(side, bool)
                or not isinstance(side, (int, np.integer))
                or side <= 0
                or side % self.downsample_factor
            ):
                raise ValueError(
                    f"`{name}` must be a positive multiple of {self.downsample_factor} pixels, but got {side!r}. "
                    f"The size nearest to a shape is `aspect_ratio='W:H'`; the usual sizes are {self._bucket_text()}."
                )
        if (height, width) not in {(bucket[1], bucket[2]) for bucket in self.buckets}:
            logger.warning_once(
                f"{height} x {width} (height x width) is none of the sizes the model was trained in; it is taken as it "
                f"is. The usual sizes are {self._bucket_text()}."
            )
        return int(height), int(width)

    def _bucket_text(self) -> str:
        return ", ".join(f"{int(bucket[1])}x{int(bucket[2])}" for bucket in self.buckets)

    def vision_grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Patches (1, height, width) in which the vision tower sees a picture of this size in pixels."""
        resized = smart_resize(
            height,
            width,
            factor=self.patch_size * self.merge_size,
            min_pixels=self.size["shortest_edge"],
            max_pixels=self.size["longest_edge"],
        )
        return 1, resized[0] // self.patch_size, resized[1] // self.patch_size

    def fit(
        self,
        image: Image.Image,
        height: int,
        width: int,
        stretch: bool = False,
        resample: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> Image.Image:
        """Resizes to cover `height` x `width` and crops the centre; with `stretch` resizes to just that."""
        new_height, new_width, left, top = fit_size(image.height, image.width, height, width, stretch)
        if (new_height, new_width) != (image.height, image.width):
            image = image.resize((new_width, new_height), resample)
        return image.crop((left, top, left + width, top + height))

    def mask_cells(
        self,
        region_mask: Any,
        source_size: tuple[int, int],
        size: tuple[int, int],
        stretch: bool = False,
        name: str = "region_mask",
    ) -> np.ndarray:
        """The cells of an image that a mask touches: bools `(grid_height, grid_width)`.

        Args:
            region_mask: see `to_mask`; of the size of the source or of the image.
            source_size, size: (height, width) in pixels, of the source and of the image it is fitted to.
            stretch: as for `fit`.
            name: the argument the mask came in, for error messages.
        """
        mask, factor = to_mask(region_mask, name), self.downsample_factor
        if mask.shape not in (source_size, size):
            raise ValueError(
                f"`{name}` must have the size of its source, {source_size[0]} x {source_size[1]}, or of the image to "
                f"be made, {size[0]} x {size[1]} (height x width in pixels), but is {mask.shape[0]} x {mask.shape[1]}."
            )
        stretch = stretch or mask.shape != source_size
        new_height, new_width, left, top = fit_size(*mask.shape, *size, stretch)
        rows = np.array(cells_over(size[0] // factor, factor, top, new_height, mask.shape[0]))
        columns = np.array(cells_over(size[1] // factor, factor, left, new_width, mask.shape[1]))
        # White pixels above and to the left of each corner.
        white = np.pad(mask.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        below, above = white[rows[:, 1]], white[rows[:, 0]]
        cells = (below - above)[:, columns[:, 1]] > (below - above)[:, columns[:, 0]]
        if mask.any() and not cells.any():
            raise ValueError(
                f"`{name}` is white only where its source is cropped to fit {size[0]} x {size[1]} pixels. Pass "
                "`original_size=True`, which crops nothing, or another size."
            )
        return cells

    def keep_outside(self, picture: Image.Image, source: Any, region_mask: Any) -> Image.Image:
        """`picture` where the mask is white, and the pixels of its `source` where it is not.

        Args:
            picture: an edit, of its source's own size (`original_size`), or as it was made.
            source: the picture that was edited.
            region_mask: as it was given to the processor.
        """
        source, mask = to_rgb(source, "source"), Image.fromarray(to_mask(region_mask))
        nearest, size = Image.Resampling.NEAREST, (picture.height, picture.width)
        if mask.size not in (source.size, picture.size) and source.size != picture.size:
            raise ValueError(
                f"`region_mask` must have the size of `source`, {source.height} x {source.width}, or of `picture`, "
                f"{size[0]} x {size[1]} (height x width in pixels), but is {mask.height} x {mask.width}."
            )
        mask = self.fit(mask, *size, mask.size != source.size, nearest)
        return Image.composite(picture, self.fit(source, *size), mask)

    def preprocess_cells(
        self,
        images: Sequence[Any],
        sizes: Sequence[tuple[int, int]],
        name: str = "images",
        stretch: Sequence[bool] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Input of the VQ tokenizer.

        Args:
            images: pictures, see `to_rgb`.
            sizes: (height, width) in pixels that each is fitted to.
            name: the argument the pictures came in, for error messages.
            stretch: whether each is stretched to its size, in place of being cropped; by default none is.

        Returns:
            Pixels, float32 in [-1, 1] of shape `(num_images, 3, max_height, max_width)`, padded with zeros at the
            right and the bottom; grids, int64 of shape `(num_images, 2)`: (grid_height, grid_width).
        """
        shape = max(height for height, _ in sizes), max(width for _, width in sizes)
        pixels = np.zeros((len(images), 3, *shape), dtype=np.float32)
        stretched = [False] * len(images) if stretch is None else stretch
        for row, image, (height, width), whole in zip(pixels, images, sizes, stretched, strict=True):
            fitted = np.asarray(self.fit(to_rgb(image, name), height, width, whole), dtype=np.float32)
            row[:, :height, :width] = ((fitted / 255 - 0.5) / 0.5).transpose(2, 0, 1)
        return pixels, np.asarray(sizes, dtype=np.int64) // self.downsample_factor

    def postprocess(self, pixels: Any, sizes: Any = None) -> list[Image.Image]:
        """PIL images of decoded pixels: a tensor `(num_images, 3, height, width)` or a list of `(3, height, width)`.

        Values in [-1, 1] become 0..255 as in the released programs: 127.5 * x + 128, clamped, truncated.

        Args:
            pixels: of the images.
            sizes: (height, width) in pixels that each is resized to, as the processor returns them with
                `original_size=True`; one an image, or one a prompt with as many images of each. By default as made.
        """
        pictures = []
        for image in [pixels] if isinstance(pixels, torch.Tensor) and pixels.ndim == 3 else pixels:
            values = (127.5 * image.detach().float() + 128).clamp(0, 255).to(torch.uint8)
            pictures.append(Image.fromarray(values.permute(1, 2, 0).cpu().numpy()))
        if sizes is None:
            return pictures
        wanted = [(int(height), int(width)) for height, width in sizes]
        if not wanted or len(pictures) % len(wanted):
            raise ValueError(
                f"`sizes` must be one an image, or one a prompt with as many images of each, but got {len(wanted)} for "
                f"{len(pictures)} images."
            )
        wanted = [size for size in wanted for _ in range(len(pictures) // len(wanted))]
        return [self.fit(picture, *size, stretch=True) for picture, size in zip(pictures, wanted, strict=True)]


__all__ = ["WallarooImageProcessor"]
