"""Images as ONNX's ImageDecoder means them, by Pillow. Imports nothing of the compiler: whoever runs models uses it."""
from __future__ import annotations

import io
from typing import Any

import numpy as np

from lepton.ir.diagnostics import LeptonError, UsageError

Array = np.ndarray[Any, np.dtype[Any]]
CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}
FORMATS = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")  # PPM: all of PNM


def decode(data: Array, *, pixel_format: str = "RGB") -> Array:
    """The pixels of an encoded image, u8[height, width, channels], of as many channels as CHANNELS says.

    Only the formats that ONNX names are tried. Raises UsageError for bytes that are no such image, LeptonError where
    Pillow is not installed."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise LeptonError("decoding images needs Pillow, which is not installed",
                          help="pip install 'lepton-compiler[image]', or register a function of yours as "
                               "'ai.onnx::ImageDecoder'") from error
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=FORMATS) as image:
            pixels = np.asarray(image.convert("L" if pixel_format == "Grayscale" else "RGB"))
    except UnidentifiedImageError as error:
        raise UsageError(f"{data.size} bytes that are no image in a known format",
                         help=f"known: {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot decode an image: {error}") from error
    pixels = pixels.reshape(*pixels.shape[:2], CHANNELS[pixel_format])
    return np.ascontiguousarray(pixels[..., ::-1] if pixel_format == "BGR" else pixels)
