"""Pictures of text for the OCR models, from a font of 5x7 dots that lies here: no font files, no imaging library."""

from __future__ import annotations

import numpy as np

GLYPH_ROWS, GLYPH_COLUMNS = 7, 5
INK, PAPER = 0.0, 1.0

# One character per line: seven rows of five dots, as one hexadecimal digit pair each, top row first.
_FONT = """
0 0e 11 13 15 19 11 0e
1 04 0c 04 04 04 04 0e
2 0e 11 01 02 04 08 1f
3 1f 02 04 02 01 11 0e
4 02 06 0a 12 1f 02 02
5 1f 10 1e 01 01 11 0e
6 06 08 10 1e 11 11 0e
7 1f 01 02 04 08 08 08
8 0e 11 11 0e 11 11 0e
9 0e 11 11 0f 01 02 0c
A 0e 11 11 11 1f 11 11
B 1e 11 11 1e 11 11 1e
C 0e 11 10 10 10 11 0e
D 1c 12 11 11 11 12 1c
E 1f 10 10 1e 10 10 1f
F 1f 10 10 1e 10 10 10
G 0e 11 10 17 11 11 0f
H 11 11 11 1f 11 11 11
I 0e 04 04 04 04 04 0e
J 07 02 02 02 02 12 0c
K 11 12 14 18 14 12 11
L 10 10 10 10 10 10 1f
M 11 1b 15 15 11 11 11
N 11 11 19 15 13 11 11
O 0e 11 11 11 11 11 0e
P 1e 11 11 1e 10 10 10
Q 0e 11 11 11 15 12 0d
R 1e 11 11 1e 14 12 11
S 0f 10 10 0e 01 01 1e
T 1f 04 04 04 04 04 04
U 11 11 11 11 11 11 0e
V 11 11 11 11 11 0a 04
W 11 11 11 15 15 15 0a
X 11 11 0a 04 0a 11 11
Y 11 11 11 0a 04 04 04
Z 1f 01 02 04 08 10 1f
"""
_DOTS = {
    line[0]: np.array([[int(row, 16) >> bit & 1 for bit in range(4, -1, -1)] for row in line[2:].split()], np.float32)
    for line in _FONT.strip().splitlines()
}


def line_of_text(text: str, dot: int = 4, margin: int = 8) -> np.ndarray:
    """Grey image [height, width] in [0, 1], dark on light; capitals, digits and spaces, `dot` pixels to a dot."""
    gap = np.zeros((GLYPH_ROWS, 1), np.float32)
    blank = np.zeros((GLYPH_ROWS, 3), np.float32)
    columns = np.concatenate([part for char in text for part in (_DOTS.get(char, blank), gap)], axis=1)
    ink = np.pad(np.kron(columns, np.ones((dot, dot), np.float32)), margin)
    return PAPER - (PAPER - INK) * _soften(ink, passes=max(1, dot // 3))


def _soften(image: np.ndarray, passes: int) -> np.ndarray:
    """Edges as a camera sees them: 1-2-1 filters along both axes."""
    for _ in range(passes):
        for axis in (0, 1):
            image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
    return image


def page(height: int, width: int, lines: tuple[str, ...], dot: int) -> np.ndarray:
    """Grey image [height, width] with the lines below each other; what does not fit is cut."""
    canvas = np.full((height, width), PAPER, np.float32)
    top = 4
    for text in lines:
        line = line_of_text(text, dot)[: max(0, height - top), :width]
        canvas[top : top + line.shape[0], : line.shape[1]] = line
        top += line.shape[0] + 4
    return canvas


def recogniser_input(text: str, width: int | None = None) -> np.ndarray:
    """float32[1, 3, 48, width] in [-1, 1], as PP-OCR's recogniser and direction classifier want it."""
    grey = line_of_text(text, dot=5, margin=6)
    canvas = np.full((48, width or -(-grey.shape[1] // 8) * 8), PAPER, np.float32)
    canvas[: grey.shape[0], : grey.shape[1]] = grey[:48, : canvas.shape[1]]
    return np.repeat((canvas[None, None] - 0.5) / 0.5, 3, axis=1).astype(np.float32)


def detector_input(height: int, width: int, lines: tuple[str, ...], grain: float = 0.05) -> np.ndarray:
    """float32[1, 3, height, width], normalised as PP-OCR's detector wants it: ImageNet's mean and deviation.

    Paper has grain: on perfectly flat areas the network amplifies rounding, and ONNX Runtime's own optimised and plain
    graphs differ by 3e-4 (640x640); with grain they agree to 2e-5.
    """
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    grey = page(height, width, lines, dot=3) + np.random.default_rng(0).standard_normal((height, width)) * grain
    return np.asarray((grey - mean[:, None, None]) / deviation[:, None, None], np.float32)[None]
