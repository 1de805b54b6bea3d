"""decode_image: a function of the program that runs the model."""
from __future__ import annotations

from lepton.codegen.host import host_call, registered
from lepton.codegen.program import HostCall
from lepton.ir import ops
from lepton.ir.core import Node


@host_call(ops.decode_image)
def decode_image(node: Node) -> HostCall:
    return registered("ai.onnx::ImageDecoder", node)
