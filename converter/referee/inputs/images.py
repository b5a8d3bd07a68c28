"""A folder of images as inputs, sized and scaled as the model wants them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import DataError
from converter.referee.inputs.stream import Array, Sample, Stream
from converter.referee.proto.source import Port

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp", ".tif", ".tiff", ".pgm", ".gif"}
# Pillow goes by the content: of a file of any name it would give PostScript to Ghostscript, which runs it.
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
_MOST_PIXELS = (
    1 << 27
)  # of a resized image: of one that is a thousand times as long as wide, little is left in the centre
_SIZE = 224  # where the model leaves it open
_RESIZE = 256 / 224  # shorter side before the centre is cut out, as torchvision's reference transforms have it
# Mean and deviation of ImageNet's training images per channel (torchvision's reference values).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def open_images(
    folder: Path, preprocess: str, ports: Mapping[str, Port], sizes: Mapping[str, tuple[int, ...]], limit: int | None
) -> Stream:
    """Images of ``folder``: class folders in their order are labels 0, 1, ...; without any, no labels.

    Parameters
    ----------
    preprocess : {"imagenet", "unit", "tanh", "none"}
        Values of mean 0 and deviation 1 over ImageNet, in [0, 1], in [-1, 1], or 0 to 255 as they are. Images are
        resized (shorter side, bilinear) and cut out of the centre.
    sizes : mapping of input name to shape
        Sizes that the model leaves open; 224 x 224 otherwise.

    Raises
    ------
    DataError
        Pillow is missing, there are no images, or the model takes none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder of images")
    files = _list_files(folder)
    if not files:
        raise DataError(f"{folder}: holds no images, neither directly nor in folders by class")
    name, layout = _plan(ports, sizes)
    _import_pillow()
    return Stream(_read_samples(files, name, layout, preprocess, ports[name]), "images", str(folder), limit)


def _list_files(folder: Path) -> list[tuple[Path, int | None]]:
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    found: list[tuple[Path, int | None]] = [
        (p, label) for label, each in enumerate(classes) for p in sorted(each.rglob("*")) if _is_image(p)
    ]
    return found or [(p, None) for p in sorted(folder.iterdir()) if _is_image(p)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def _plan(
    ports: Mapping[str, Port], sizes: Mapping[str, tuple[int, ...]]
) -> tuple[str, tuple[bool, int, int, int, int]]:
    """The input that takes images, and whether channels come last, batch, channels, height and width."""
    names = [n for n, p in ports.items() if p.kind == "tensor" and (p.dims is None or len(p.dims) == 4)]
    if len(names) != 1 or len(ports) != 1:
        inputs = ", ".join(ports) or "none"
        raise DataError(f"images need a model with one input of four dimensions; its inputs are {inputs}")
    dims: tuple[Any, ...] = sizes.get(names[0]) or ports[names[0]].dims or (None, 3, None, None)
    last = dims[1] not in (1, 3) and dims[3] in (1, 3)
    batch, channels = dims[0], dims[3] if last else dims[1]
    height, width = (dims[1], dims[2]) if last else (dims[2], dims[3])
    numbers = [
        d if isinstance(d, int) and d > 0 else e
        for d, e in zip((batch, channels, height, width), (1, 3, _SIZE, _SIZE), strict=True)
    ]
    if numbers[1] not in (1, 3):
        raise DataError(f"input {names[0]!r} has {numbers[1]} channels; images have 1 or 3")
    return names[0], (last, numbers[0], numbers[1], numbers[2], numbers[3])


def _read_samples(
    files: list[tuple[Path, int | None]], name: str, layout: tuple[bool, int, int, int, int], how: str, port: Port
) -> Iterator[Sample]:
    last, batch, channels, height, width = layout
    dtype = port.dtype or np.dtype(np.float32)
    for start in range(0, len(files) - len(files) % batch, batch):
        part = files[start : start + batch]
        made = np.stack([_scale(_read_pixels(path, channels, height, width), how) for path, _ in part])
        values = made if last else np.moveaxis(made, 3, 1)
        labels = None if part[0][1] is None else np.array([label for _, label in part])
        yield Sample({name: np.ascontiguousarray(values).astype(dtype)}, labels, batch)


def _read_pixels(path: Path, channels: int, height: int, width: int) -> Array:
    """The centre of the resized image, [height, width, channels] in 0 to 255."""
    image_module = _import_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is damaged, and read all the same
            warnings.simplefilter("error", image_module.DecompressionBombWarning)  # over 89 million pixels
            with image_module.open(path, formats=_FORMATS) as opened:
                image = opened.convert("L" if channels == 1 else "RGB")
    except Exception as exc:  # each of Pillow's readers has errors of its own for a damaged file
        raise DataError(f"{path}: no readable image ({' '.join(str(exc).split())[:100]})") from exc
    scale = max(height / image.height, width / image.width) * _RESIZE
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size[0] * size[1] > _MOST_PIXELS:
        raise DataError(f"{path}: is {image.width} x {image.height} pixels, too narrow for {width} x {height}; cut it")
    image = image.resize(size, image_module.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.float32).reshape(height, width, channels)


def _scale(pixels: Array, how: str) -> Array:
    if how == "none":
        return pixels
    if how == "tanh":
        return pixels / np.float32(127.5) - np.float32(1)
    unit = pixels / np.float32(255)
    if how == "unit":
        return unit
    channels = pixels.shape[2]
    mean, std = (np.array(v if channels == 3 else v[:1], np.float32) for v in (_MEAN, _STD))
    return np.asarray((unit - mean) / std)


def _import_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as exc:
        raise DataError("images need Pillow; install biasopt[images]") from exc
    return Image
