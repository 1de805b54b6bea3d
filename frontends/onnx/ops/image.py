"""Images."""
from __future__ import annotations

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value


@imports("ImageDecoder", since=20)
def image_decoder(c: Call) -> Value:
    """The answer has to have the sizes that the image has: they are the data's."""
    return c(ops.decode_image, c.ranked(0, 1), pixel_format=c.s("pixel_format", "RGB"),
             symbols=(c.fresh("image_height"), c.fresh("image_width")))
