"""What NVRTC makes of the templates, without a GPU: no spills, no stack, few registers, the instructions meant."""
from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.device import resources
from lepton.codegen.cuda.products import PLAIN_TILES, SHAPES, TRIPLE_SHAPES
from lepton.codegen.cuda.source import device_source
from lepton.codegen.cuda.templates.attention import Attention
from lepton.codegen.cuda.templates.moves import FlatMap, Turn
from lepton.codegen.cuda.templates.product import (
    Columns,
    Matrix,
    PlainTile,
    Product,
    TensorTile,
    Tile,
    Windows,
    Zero,
    Zeros,
)
from lepton.codegen.cuda.templates.text import DeviceBody
from lepton.codegen.cuda.templates.warpgroup import Tiles, WarpgroupProduct, WarpgroupTile
from lepton.codegen.kernel import DimRef
from lepton.codegen.loops import Apply, Load, Ref, i64
from lepton.codegen.target import CUDA_TARGETS, Target
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue, Operand
from lepton.ir.diagnostics import NotInstalledError
from lepton.ir.types import DType

F32, F64, F16, BF16, I32 = DType.F32, DType.F64, DType.F16, DType.BF16, DType.I32
E4M3, E5M2 = DType.F8E4M3FN, DType.F8E5M2


def matrix(buffer: int, dtype: DType, *steps: int) -> Matrix:
    return Matrix(Operand(buffer, dtype, steps))


def stored(buffer: int, dtype: DType, sums: DType, *steps: int) -> Epilogue:
    return Epilogue((), (Operand(buffer, dtype, steps),), (Ref(ACCUMULATOR, sums),))


def product(tile: Tile, dtype: DType, sums: DType = F32, *, k_first: bool = False,
            make: Callable[..., Product] = Product, m: int = 512) -> DeviceBody:
    right = matrix(1, dtype, 1, 512) if k_first else matrix(1, dtype, 512, 1)
    return make(3, 0, sums, (), (m,), 512, 512, matrix(0, dtype, 512, 1), right, stored(2, dtype, sums, 512, 1), tile)


def by_warpgroups(tile: WarpgroupTile, dtype: DType, sums: DType = F32, *, windows: bool = False) -> DeviceBody:
    """4096 x 4096 x 512, or 3x3 over [8, 56, 56, 64]."""
    plain = product(TensorTile("f16", *SHAPES[0]), dtype, sums) if not windows else convolution(
        TensorTile("f16", *SHAPES[0]), dtype, sums)
    assert isinstance(plain, Product)
    tiles = Tiles(Operand(1, dtype, (*(0 for _ in plain.batch), tile.columns * 512)))
    return WarpgroupProduct(3, 0, sums, plain.batch, plain.rows, plain.n, plain.k, plain.a, tiles, plain.epilogue, tile)


def bytes_product(tile: Tile, columns: bool | None) -> DeviceBody:
    """u8 by i8; `columns`: with zero points of the right factor, and with sums of its columns."""
    zero = Zeros(Zero(3), Zero(0, Operand(3, DType.U8, ())), columns is True)
    return Product(4, 0, I32, (), (512,), 512, 512, matrix(0, DType.U8, 512, 1), matrix(1, DType.I8, 512, 1),
                   stored(2, I32, I32, 512, 1), tile, None if columns is None else zero)


def convolution(tile: Tile, dtype: DType, sums: DType = F32) -> DeviceBody:
    """3x3 over [8, 56, 56, 64]."""
    pixels = Operand(0, dtype, (0, 56 * 56 * 64, 0, 56 * 64, 64, 1))
    windows = Windows(pixels, (1, 56, 56), (1, 56, 56), (1, 3, 3), (1, 1, 1), (1, 1, 1), (0, 1, 1), 64)
    return Product(3, 0, sums, (1,), (8 * 3136,), 64, 576, windows, matrix(1, dtype, 0, 576, 1),
                   stored(2, sums if sums is I32 else dtype, sums, 0, 64, 1), tile)


def attention(kind: str | None, dtype: DType, depth: int, block: int = 64) -> DeviceBody:
    steps = (4 * 128 * depth, 128 * depth, depth, 1)
    sums = F64 if dtype is F64 else F32
    return Attention(5, 0, sums, kind, (2, 4), 128, 128, depth, depth, matrix(0, dtype, *steps),
                     matrix(1, dtype, *steps), matrix(2, dtype, *steps), Operand(4, dtype, (0, 0, 128, 1)), 0.125,
                     stored(3, dtype, sums, *steps), block)


def flat_map(dtype: DType, run: int) -> DeviceBody:
    """x * x."""
    e = Load("e0", i64(0), F32)
    return FlatMap(2, 1, DimRef(0), run, (Operand(0, dtype, (1,)),), (Operand(1, dtype, (1,)),),
                   (Apply("mul", (e, e), F32),), ())


def turn(dtype: DType) -> DeviceBody:
    return Turn(2, 2, (3,), DimRef(0), DimRef(1), Operand(0, dtype, (4096, 1, 64)), Operand(1, dtype, (4096, 64, 1)))


COPY = "LDGSTS.E.BYPASS.128"
# name -> (body, most registers of a thread, instructions that must occur)
KERNELS: dict[str, tuple[DeviceBody, int, Sequence[str]]] = {
    "plain": (product(PLAIN_TILES[0], F32, k_first=True), 128, ("FFMA", "LDS.128", "LDG.E.128", "STG.E.128")),
    "plain_conv": (convolution(PLAIN_TILES[0], F32), 128, ("FFMA", "LDG.E.128")),
    "plain_middle": (product(PLAIN_TILES[1], F32), 96, ("FFMA",)),
    "plain_slices": (product(PlainTile(1, 1, 8, 8, 16, 4), F32), 128, ("FFMA",)),
    "columns": (product(PLAIN_TILES[0], F32, make=Columns, m=4), 64, ("LDG.E.128", "SHFL")),
    "f16": (product(TensorTile("f16", *SHAPES[0]), F16), 128, ("HMMA.16816.F32 ", "LDSM.16.M88.4", COPY)),
    "bf16_conv": (convolution(TensorTile("bf16", *SHAPES[0]), BF16), 168, ("HMMA.16816.F32.BF16", COPY)),
    "tf32": (product(TensorTile("tf32", *SHAPES[1]), F32), 128, ("HMMA.1688.F32.TF32", "LDSM.16.M88.4")),
    "map": (flat_map(F32, 4), 40, ("LDG.E.128", "STG.E.128")),
    "turn": (turn(F32), 48, ("STS", "LDS")),
    "tf32x3": (product(TensorTile("tf32x3", *TRIPLE_SHAPES[0]), F32), 255, ("HMMA.1688.F32.TF32", COPY)),
    "bytes": (bytes_product(TensorTile("u8s8", *SHAPES[0]), None), 128, ("IMMA.16832.U8.S8", "LDSM.16.M88.4", COPY)),
    "bytes_zeros": (bytes_product(TensorTile("u8s8", *SHAPES[0]), True), 192, ("IMMA.16832.U8.S8", COPY)),
    "attention": (attention(None, F32, 64), 128, ("FFMA", "MUFU.EX2")),
    "attention_f16": (attention("f16", F16, 64), 224, ("HMMA.16816.F32 ", "LDSM.16.MT88.4", COPY)),
}
MORE: dict[str, tuple[DeviceBody, int, Sequence[str]]] = {
    "f64": (product(PLAIN_TILES[0], F64, F64), 255, ("DFMA",)),
    "plain_least": (product(PLAIN_TILES[2], F32, k_first=True), 128, ("FFMA",)),
    "bf16_least": (product(TensorTile("bf16", *SHAPES[2]), BF16), 80, ("HMMA",)),
    "tf32_conv": (convolution(TensorTile("tf32", *SHAPES[0]), F32), 168, ("HMMA.1688.F32.TF32",)),
    "map_f16": (flat_map(F16, 8), 48, ("LDG.E.128", "STG.E.128")),
    "turn_u8": (turn(DType.U8), 48, ("STS.U8", "LDS.U8")),
    "tf32x3_middle": (product(TensorTile("tf32x3", *TRIPLE_SHAPES[1]), F32), 255, ("HMMA.1688.F32.TF32",)),
    "tf32x3_conv": (convolution(TensorTile("tf32x3", *TRIPLE_SHAPES[0]), F32), 255, ("HMMA.1688.F32.TF32",)),
    "bytes_rows": (bytes_product(TensorTile("u8s8", *SHAPES[0]), False), 168, ("IMMA.16832.U8.S8",)),
    "bytes_conv": (convolution(TensorTile("s8s8", *SHAPES[0]), DType.I8, I32), 168, ("IMMA.16832.S8.S8", COPY)),
    "attention_f64": (attention(None, F64, 64, 32), 255, ("DFMA",)),
    "attention_wide": (attention("bf16", BF16, 128), 255, ("HMMA.16816.F32.BF16",)),
}


# Of sm_90a alone.
EARLY = ("PREEXIT", "ACQBULK")           # what lp_begin becomes: griddepcontrol
BULK = ("UBLKCP", "SYNCS", "USETMAXREG", COPY, *EARLY)
WARPGROUPS: dict[str, tuple[DeviceBody, int, Sequence[str]]] = {
    "warpgroup_f16": (by_warpgroups(WarpgroupTile("f16", 256, 4), F16), 168, ("HGMMA.64x256x16.F32 ", *BULK)),
    "warpgroup_bf16": (by_warpgroups(WarpgroupTile("bf16", 128, 6), BF16), 168, ("HGMMA.64x128x16.F32.BF16", *BULK)),
    "warpgroup_narrow": (by_warpgroups(WarpgroupTile("f16", 64, 8), F16), 168, ("HGMMA.64x64x16.F32 ", *BULK)),
    "warpgroup_conv": (by_warpgroups(WarpgroupTile("f16", 64, 8), F16, windows=True), 168,
                       ("HGMMA.64x64x16.F32 ", *BULK)),
    "warpgroup_wide_conv": (by_warpgroups(WarpgroupTile("bf16", 256, 4), BF16, windows=True), 168,
                            ("HGMMA.64x256x16.F32.BF16", *BULK)),
    "warpgroup_bytes": (by_warpgroups(WarpgroupTile("u8s8", 256, 4), DType.U8, I32), 168,
                        ("IGMMA.64x256x32.U8.S8", *BULK)),
    "warpgroup_float8": (by_warpgroups(WarpgroupTile("e4m3e4m3", 128, 6), E4M3), 168,
                         ("QGMMA.64x128x32.F32.E4M3.E4M3", *BULK)),
    "warpgroup_float8_conv": (by_warpgroups(WarpgroupTile("e5m2e4m3", 64, 8), E5M2, windows=True), 168,
                              ("QGMMA.64x64x32.F32.E5M2.E4M3", *BULK)),
}
FLOAT8 = {"float8": product(TensorTile("e4m3e4m3", *SHAPES[0]), E4M3),
          "float8_conv": convolution(TensorTile("e5m2e4m3", *SHAPES[1]), E5M2)}
# By warps: sm_120 multiplies 8-bit floats as they are; sm_90 turns them into halves, which takes registers.
FLOAT8_GATES = {"cuda-sm120": ((168, 168), ("QMMA.16832.F32.E4M3.E4M3", "QMMA.16832.F32.E5M2.E4M3")),
                "cuda-sm90": ((255, 184), ("HMMA.16816.F32 ", "HMMA.16816.F32 "))}


@cache
def library() -> nvrtc.Nvrtc | None:
    try:
        return nvrtc.nvrtc()
    except NotInstalledError:
        return None


def beside(tool: str) -> str | None:
    """A program of NVIDIA's wheels or of a toolkit."""
    wheels = [Path(p) / "nvidia/cu13/bin" / tool for p in sys.path if p]
    return next((str(p) for p in wheels if p.exists()), None) or shutil.which(tool)


def check(kernels: dict[str, tuple[DeviceBody, int, Sequence[str]]], arch: str, folder: Path,
          target: str = "cuda-sm90") -> None:
    made = library()
    if made is None:
        pytest.skip("NVRTC is not installed")
    texts = [body.emit_cuda(f"t_{name}", CUDA_TARGETS[target]).text for name, (body, _, _) in kernels.items()]
    image = made.compile(device_source(texts), arch)
    assert not re.findall(r"C75\d\d", image.log), image.log
    found = resources(image.log)
    for name, (_, most, _) in kernels.items():
        used = found[f"t_{name}"]
        assert used["spills"] == 0, name
        assert used["stack"] == 0, name
        assert used["registers"] <= most, (name, used)
    tool = beside("nvdisasm")
    if tool is None:
        return
    path = folder / "k.cubin"
    path.write_bytes(image.data)
    code = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=True).stdout
    parts = {p.split("\n", 1)[0].strip().strip(","): p for p in re.split(r"\.section\s+\.text\.", code)[1:]}
    for name, (_, _, wanted) in kernels.items():
        text = next(p for key, p in parts.items() if re.match(rf"t_{name}\b", key))
        assert not re.findall(r"\b(?:LDL|STL)\b", text), f"{name} keeps something in local memory"
        for instruction in wanted:
            assert instruction in text, (name, instruction)


def test_templates(tmp_path: Path) -> None:
    check(KERNELS, "sm_80", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120"])
def test_templates_everywhere(arch: str, tmp_path: Path) -> None:
    check(KERNELS | MORE, arch, tmp_path)


def test_the_library_finds_its_other_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some wheels' libnvrtc has no RPATH: what it opens by name must be in the process before."""
    opened: list[tuple[str, int]] = []

    def opens(path: str, mode: int = ctypes.DEFAULT_MODE) -> None:
        opened.append((Path(path).name, mode))
        if "builtins" not in path:
            raise OSError("enough")

    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0"):
        (tmp_path / name).touch()
    monkeypatch.setattr(ctypes, "CDLL", opens)
    with pytest.raises(OSError, match="enough"):
        nvrtc.Nvrtc(tmp_path / "libnvrtc.so.13")
    assert opened == [("libnvrtc-builtins.so.13.0", ctypes.RTLD_GLOBAL), ("libnvrtc.so.13", ctypes.DEFAULT_MODE)]


PTX_TARGETS = [t for t in CUDA_TARGETS.values() if t.ptx]


@pytest.mark.parametrize(("target", "version"), [
    ("sm_80", "8.0"), ("sm_90", "8.0"), ("sm_100", "8.6"), ("sm_120", "8.7")])
def test_ptx_asks_for_the_oldest_assembler_that_knows_its_target(target: str, version: str) -> None:
    text = f"//\n.version 9.0\n.target {target}\n.address_size 64\n"
    assert nvrtc.lowered_ptx(text.encode()).decode() == text.replace("9.0", version)


@pytest.mark.slow
@pytest.mark.parametrize("target", PTX_TARGETS, ids=lambda t: t.name)
def test_assemblers_take_the_ptx(target: Target, tmp_path: Path) -> None:
    """ptxas is what a driver has inside. It is part of CUDA's toolkits, and of the wheel nvidia-cuda-nvcc."""
    made, tool = library(), beside("ptxas")
    if made is None or tool is None:
        pytest.skip("NVRTC or ptxas is not installed")
    texts = [body.emit_cuda(f"t_{name}", target).text for name, (body, _, _) in (KERNELS | MORE).items()]
    path = tmp_path / "k.ptx"
    path.write_bytes(nvrtc.lowered_ptx(made.compile(device_source(texts), target.ptx).data).rstrip(b"\0"))
    subprocess.run([tool, f"-arch={target.arch}", str(path), "-o", str(tmp_path / "k.cubin")], check=True)


def test_warpgroups(tmp_path: Path) -> None:
    """ptxas also says where products of warp groups wait for each other, which they must not (C75xx)."""
    check(WARPGROUPS, "sm_90a", tmp_path)


@pytest.mark.parametrize("target", ["cuda-sm120", pytest.param("cuda-sm90", marks=pytest.mark.slow)])
def test_float8(target: str, tmp_path: Path) -> None:
    most, instructions = FLOAT8_GATES[target]
    kernels: dict[str, tuple[DeviceBody, int, Sequence[str]]] = {
        name: (body, most[i], ("LDSM.16.M88.4", COPY, instructions[i]))
        for i, (name, body) in enumerate(FLOAT8.items())}
    check(kernels, CUDA_TARGETS[target].arch, tmp_path, target)
