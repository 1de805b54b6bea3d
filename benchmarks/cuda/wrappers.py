"""The instructions that kernels stand on, one kernel each: does a GPU do what the tests' simulator says it does?

Both run the same text on the same words. Products are of small whole numbers, so that every order of summing gives the
same; functions of libm may differ in their last bits.
"""
from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tests.cuda.simulated import library

THREADS = 32
SHARED = 40 * 1024
Words = np.ndarray[Any, np.dtype[np.uint32]]
random = np.random.default_rng(7)
WARPGROUPS = "sm_90a"
FLOAT8 = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


@dataclass(frozen=True, eq=False)
class Wrapper:
    """A kernel of `threads` that makes `results` words of `words`."""

    name: str
    body: str
    words: Words
    results: int
    threads: int = THREADS
    arch: str = ""           # the only one that has it
    tolerance: float = 0.0   # 0: the same bits, but for what NaN is made of; else words are floats

    def text(self, symbol: str) -> str:
        return (f"LP_KERNEL({self.threads}) {symbol}(const u32 *in, u32 *out, unsigned char *scratch, "
                f"i64 scratch_stride, i64 tasks) {{ LP_SHARED lp_begin(); const int t = (int)LP_THREAD; (void)t; "
                f"{self.body} }}\n")

    def on_device(self, device: Any, image: bytes, symbol: str) -> Words:
        """By `benchmarks.cuda.driver`."""
        function = device.function(image, symbol.encode(), SHARED)
        there, out = device.put(self.words.ctypes.data, self.words.nbytes), np.zeros(self.results, np.uint32)
        result = device.put(out.ctypes.data, out.nbytes)
        device.launch(function, 1, self.threads, SHARED, [there, result, 0, 0, 1])
        device.get(out.ctypes.data, result, out.nbytes)
        device.free_all()
        return out

    def on_simulator(self, code: ctypes.CDLL, symbol: str) -> Words:
        """By a library of `simulated`."""
        out = np.zeros(self.results, np.uint32)
        code[f"run_{symbol}"](ctypes.c_void_p(self.words.ctypes.data), ctypes.c_void_p(out.ctypes.data))
        return out

    def difference(self, got: Words, want: Words) -> float:
        """Of floats: the largest, relative to 1 and up. Of bits: how many words differ."""
        a, b = got.view(np.float32), want.view(np.float32)
        if not self.tolerance:
            return float(((got != want) & ~(np.isnan(a) & np.isnan(b))).sum())
        with np.errstate(invalid="ignore"):
            apart = np.abs(a.astype(np.float64) - b) / np.maximum(1.0, np.abs(b))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        return float(np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart)).max())


def source(wrappers: Sequence[Wrapper]) -> str:
    """Their kernels: k0, k1, ..."""
    return "".join(w.text(f"k{i}") for i, w in enumerate(wrappers))


def simulated(wrappers: Sequence[Wrapper]) -> ctypes.CDLL:
    """The same for the simulator: run_k0(in, out), ..."""
    runs = "".join(f'extern "C" void run_k{i}(const u32 *in, u32 *out) {{ lp_sim::launch(1, {w.threads}, {SHARED}, '
                   f"[=] {{ k{i}(in, out, nullptr, 0, 1); }}); }}\n" for i, w in enumerate(wrappers))
    return library(source(wrappers) + runs)


def bits(count: int) -> Words:
    return random.integers(0, 1 << 32, count, dtype=np.uint32)


def floats(values: Any) -> Words:
    return np.asarray(values, np.float32).view(np.uint32)


def small(kind: str, count: int) -> Words:
    """Words of small whole numbers."""
    if kind == "bytes":
        return bits(count)
    whole = random.integers(-8, 9, count * {"tf32": 1, "e4m3": 4, "e5m2": 4}.get(kind, 2)).astype(np.float32)
    if kind in FLOAT8:
        return whole.astype(FLOAT8[kind]).view(np.uint32)
    if kind == "f16":
        return whole.astype(np.float16).view(np.uint32)
    return whole.view(np.uint32) if kind == "tf32" else (whole.view(np.uint32) >> 16).astype(np.uint16).view(np.uint32)


def product(name: str, kind: str, sums: str) -> Wrapper:
    """A fragment's product with a sum that is there already: 4 words, 2 words and 4 sums of each lane."""
    store = "lp_bitcast<u32>(d[i])" if sums == "float" else "(u32)d[i]"
    start = f"{sums}(t % 5 - 2)"
    body = (f"u32 a[4]; {sums} d[4]; for (int i = 0; i < 4; ++i) {{ a[i] = in[t * 6 + i]; d[i] = {start}; }} "
            f"{name}(d, a, in[t * 6 + 4], in[t * 6 + 5]); for (int i = 0; i < 4; ++i) out[t * 4 + i] = {store};")
    return Wrapper(name, body, small(kind, THREADS * 6), THREADS * 4, arch=WARPGROUPS if kind in FLOAT8 else "")


def matrices(name: str) -> Wrapper:
    return Wrapper(name, "for (int i = 0; i < 4; ++i) ((u32 *)lp_shared)[t * 4 + i] = in[t * 4 + i]; lp_sync_warp(); "
                         f"u32 r[4]; {name}(r, lp_shared + t * 16); for (int i = 0; i < 4; ++i) out[t * 4 + i] = r[i];",
                   bits(THREADS * 4), THREADS * 4)


def group_product(name: str, kind: str, sums: str, columns: int) -> Wrapper:
    """A warp group's product of 64 rows by `columns` columns, 128 bytes along k, with sums that are there already."""
    words, each = (64 + columns) * 32, columns // 2
    store = "lp_bitcast<u32>(d[i])" if sums == "float" else "(u32)d[i]"
    body = (f"for (int i = t; i < {words}; i += 128) *(u32 *)(lp_shared + i / 32 * 128 + ((i % 32 / 4 ^ (i / 32 & 7)) "
            f"<< 4) + i % 4 * 4) = in[i]; lp_publish(); lp_sync(); {sums} d[{each}]; "
            f"LP_UNROLL for (int i = 0; i < {each}; ++i) d[i] = {sums}((t + i) % 5 - 2); lp_products_begin(); "
            f"LP_UNROLL for (int k = 0; k < 4; ++k) {name}(d, lp_rows128(lp_shared + k * 32), "
            "lp_rows128(lp_shared + 64 * 128 + k * 32)); lp_products_commit(); lp_products_wait<0>(); "
            f"LP_UNROLL for (int i = 0; i < {each}; ++i) out[t * {each} + i] = {store};")
    return Wrapper(f"{name}, {columns} columns", body, small(kind, words), 128 * each, 128, WARPGROUPS)


def barrier(name: str, arrivals: int, round: str) -> Wrapper:
    """Three rounds of a barrier's phases; `round` fills 128 words of shared memory with `now`, 128 words of `in`."""
    body = (f"u64 *const b = (u64 *)(lp_shared + 4096); if (t == 0) {{ lp_barrier_start(b, {arrivals}); "
            "lp_barriers_started(); lp_publish(); } lp_sync(); for (int r = 0; r < 3; ++r) { "
            f"const u32 *now = in + r * 128; {round} lp_barrier_wait(b, r & 1); "
            "out[r * 128 + t] = ((u32 *)lp_shared)[127 - t]; lp_sync(); }")
    return Wrapper(name, body, bits(3 * 128), 3 * 128, 128, WARPGROUPS)


def function(name: str, values: Any) -> Wrapper:
    """A function of one float, on 32 of them."""
    return Wrapper(f"lp_{name}", f"out[t] = lp_bitcast<u32>(lp_{name}(lp_bitcast<float>(in[t])));",
                   floats(np.resize(values, THREADS)), THREADS, tolerance=2e-6)


HARD = [0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 1e-30, -3.25, 7.5, 0.1]
WRAPPERS = (
    Wrapper("lp_shuffle_down", "out[t] = lp_shuffle_down(in[t], 3);", bits(THREADS), THREADS),
    Wrapper("lp_shuffle_xor", "out[t] = lp_shuffle_xor(in[t], 5);", bits(THREADS), THREADS),
    Wrapper("lp_load16, lp_store16", "u32 x[4]; lp_load16(in + t * 4, x); lp_store16(out + (31 - t) * 4, x);",
            bits(THREADS * 4), THREADS * 4),
    Wrapper("lp_copy16", "lp_copy16(lp_shared + t * 16, in + t * 4, t % 3 != 0); lp_copy_commit(); lp_copy_wait<0>(); "
                         "lp_sync(); for (int i = 0; i < 4; ++i) out[t * 4 + i] = ((u32 *)lp_shared)[(t ^ 1) * 4 + i];",
            bits(THREADS * 4), THREADS * 4),
    Wrapper("lp_reduce", "float x = lp_bitcast<float>(in[t]); x = lp_reduce<float>(x, 0.0f, lp_shared, "
                         "[](float a, float b) { return a + b; }); out[t] = lp_bitcast<u32>(x);",
            floats(random.integers(-99, 99, 128)), 128, threads=128),
    matrices("lp_load_matrices"), matrices("lp_load_matrices_turned"),
    product("lp_mma_f16", "f16", "float"), product("lp_mma_bf16", "bf16", "float"),
    product("lp_mma_tf32", "tf32", "float"),
    *(product(f"lp_mma_{a}8{b}8", "bytes", "i32") for a in "su" for b in "su"),
    Wrapper("lp_to_tf32", "out[t] = lp_to_tf32(in[t]);", bits(1024), 1024, threads=1024),
    Wrapper("lp_from_f16", "out[t] = lp_bitcast<u32>(lp_from_f16((u16)in[t]));", bits(1024), 1024, threads=1024),
    Wrapper("lp_to_f16", "out[t] = lp_to_f16(lp_bitcast<float>(in[t]));",
            floats(random.standard_normal(1024) * 10.0 ** random.integers(-9, 6, 1024)), 1024, threads=1024),
    *(function(name, HARD) for name in ("exp", "tanh", "erf", "sin", "cos", "atan", "expm1")),
    *(function(name, np.abs(HARD)) for name in ("log", "log1p", "sqrt")),
    barrier("lp_barrier_arrive", 4, "((u32 *)lp_shared)[t] = now[t]; lp_sync_warp(); "
                                    "if (t % 32 == 0) lp_barrier_arrive(b);"),
    barrier("lp_copy_bulk", 1, "if (t == 0) { lp_barrier_expect(b, 512); lp_copy_bulk(lp_shared, now, 256, b); "
                               "lp_copy_bulk(lp_shared + 256, now + 64, 256, b); }"),
    *(group_product(f"lp_products_{kind}", "bytes" if "8" in kind else kind, "i32" if "8" in kind else "float", columns)
      for kind in ("f16", "bf16", "s8s8", "u8s8") for columns in (64, 128, 256)),
    *(group_product(f"lp_products_{kind}{kind}", kind, "float", columns) for kind in FLOAT8 for columns in (64, 128)),
    *(product(f"lp_mma_{kind}{kind}", kind, "float") for kind in FLOAT8),
)
