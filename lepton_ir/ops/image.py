"""Images: encoded in, pixels out."""
from __future__ import annotations

from lepton.ir import dims, images
from lepton.ir.op import op
from lepton.ir.ops.rules import fail, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type


def _decode_type(x: Type, *, pixel_format: str, symbols: tuple[str, ...]) -> TensorType:
    t = tensor(x, rank=1)
    if t.dtype is not DType.U8:
        raise fail("expected bytes, u8", x)
    if pixel_format not in images.CHANNELS:
        raise fail(f"pixel format {pixel_format!r}; there are {', '.join(images.CHANNELS)}", x)
    height, width = map(dims.sym, symbols)
    return TensorType(DType.U8, (height, width, images.CHANNELS[pixel_format]))


@op(_decode_type)
def decode_image(x: Array, *, pixel_format: str, symbols: tuple[str, ...]) -> Array:
    """The pixels of an encoded image (`lepton.ir.images.decode`): u8[height,width,channels]. Both sizes are known
    only when the model runs, and named by `symbols`."""
    return images.decode(x, pixel_format=pixel_format)
