"""ImageDecoder: compiled, it calls a function that Pillow computes."""
from __future__ import annotations

import io
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

import lepton
from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import text_model


def encoded(pixels: np.ndarray, form: str) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return np.frombuffer(file.getvalue(), np.uint8)


def image_model(pixel_format: str = "RGB") -> onnx.ModelProto:
    return text_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        i (uint8[N] data) => (uint8[H,W,C] image) {{ image = ImageDecoder<pixel_format = "{pixel_format}">(data) }}""")


@pytest.mark.parametrize("form", ["png", "bmp", "tiff", "ppm"])
def test_images_of_any_size(form: str) -> None:
    models = {name: lepton.compile(image_model(name)) for name in ("RGB", "BGR", "Grayscale")}
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 5), (40, 2)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        data = encoded(pixels, form)
        np.testing.assert_array_equal(models["RGB"](data), pixels)
        np.testing.assert_array_equal(models["BGR"](data), pixels[..., ::-1])
        grey = models["Grayscale"](data)
        assert grey.shape == (height, width, 1)
        np.testing.assert_allclose(grey[..., 0], pixels @ [0.299, 0.587, 0.114], atol=1)


def test_no_image() -> None:
    model = lepton.compile(image_model())
    good = encoded(np.zeros((9, 9, 3), np.uint8), "png")
    for wrong in (np.zeros(0, np.uint8), np.zeros(99, np.uint8), good[:20], good[:-30]):
        with pytest.raises(LeptonError, match="image"):
            model(wrong)
    assert model(good).shape == (9, 9, 3)
    with pytest.raises(LeptonError, match="pixel format 'CMYK'"):
        load(image_model("CMYK"))


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(LeptonError, match="needs Pillow"):
        lepton.compile(image_model())(np.zeros(9, np.uint8))
