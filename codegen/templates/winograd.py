"""Winograd's F(4x4, 3x3): a 3x3 convolution as 36 small matrix products, with a quarter of the multiplications.

Tiles of 6x6 input pixels overlap by two and give 4x4 outputs. For a group of tile rows of one image:
    V[p][tile][c] = Bᵀ d B          M[p][tile][o] = V[p] U[p],  p < 36          y = Aᵀ M A, epilogue, store
V and M lie in scratch and are meant to stay in L2. U = G w Gᵀ is made by a step before the kernel, or, where every
filter is used by one task only, by the kernel itself, panel by panel. A task is a group of tile rows times a block of
filters; tasks that follow each other on the same group share V.

Results differ from direct convolution by rounding: about two to three times its error, see
tests/codegen/test_winograd.py. Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with
points (winograd_filters.py) that halve the error of theirs.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand, plain
from lepton.codegen.templates.gemm import Ahead, cover, unravel, when
from lepton.codegen.templates.memory import fma, load_raw, mask_of, size
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.pack import Border, copy_line
from lepton.codegen.templates.tiles import Tile
from lepton.codegen.templates.winograd_filters import FAR, NEAR, Filters
from lepton.codegen.templates.winograd_output import Output
from lepton.ir.types import DType

INPUT, OUTPUT, POINTS = 6, 4, 36
FILTER_TRANSFORM = 280   # multiply-adds that making one filter's 36 numbers takes as long as, measured
TILE_TRANSFORM = 100     # and a tile's
PAD = 16       # elements between rows of V and M and between matrices of U, so that no pitch is a power of two


@dataclass(frozen=True, slots=True)
class Winograd:
    """The body of a 3x3 convolution, stride 1, sizes known but for the number of images."""

    dtype: DType
    images: Size
    out: tuple[int, int]
    into: tuple[int, int]
    channels: int
    filters: int
    pads: tuple[int, int]
    x: Operand               # over (n, d, h, w, channel), channels adjacent
    w: int                   # buffer of pack_taps' result, or of U
    epilogue: Epilogue       # over (n, d, h, w, filter)
    tile: Tile
    rows: int                # tile rows of a task
    block_panels: int        # panels of filters of a task
    stored: DType | None = None   # of the taps, where that is not `dtype`
    resident: bool = False   # w is U, all 36 matrices of it

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Winograd(self, module.kernel(symbol), target).run()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles in an image."""
        return -(-self.out[0] // OUTPUT), -(-self.out[1] // OUTPUT)

    def pitches(self, lanes: int) -> tuple[int, int]:
        """Elements between tiles in V and in M."""
        width = self.tile.vectors * lanes
        return -(-self.channels // lanes) * lanes + PAD, self.block_panels * width + PAD

    def matrix(self, lanes: int) -> int:
        """Elements of one of U's 36 matrices: for all filters, or for a panel's."""
        return matrix(self.channels, self.filters if self.resident else self.tile.vectors * lanes, lanes)

    def scratch_bytes(self, lanes: int) -> int:
        """V and M for a group of tile rows, a patch of input with its border, and U unless it is given."""
        tiles = self.rows * self.grid[1]
        patch = INPUT * INPUT * -(-self.channels // 16) * 16
        made = 0 if self.resident else self.matrix(lanes)
        return (POINTS * (tiles * sum(self.pitches(lanes)) + made) + patch) * self.dtype.bytes


def matrix(channels: int, filters: int, lanes: int) -> int:
    """Elements of a matrix of U with its padding."""
    return channels * -(-filters // lanes) * lanes + PAD


class _Winograd:
    def __init__(self, body: Winograd, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.lanes, self.bytes = target.lanes(body.dtype), body.dtype.bytes
        self.element = memory_type(body.dtype)
        self.type = vec(self.lanes, self.element)
        self.width = body.tile.vectors * self.lanes
        self.panels = -(-body.filters // self.width)
        self.blocks = -(-self.panels // body.block_panels)
        self.images = size(fn, body.images)
        self.x, self.w = fn.buffer(body.x.buffer), fn.buffer(body.w)
        self.strides = tuple(fn.mul(size(fn, s), self.bytes) for s in body.x.strides)
        tiles = body.rows * body.grid[1]
        self.v_row, self.m_row = (p * self.bytes for p in body.pitches(self.lanes))
        self.v_plane, self.m_plane = tiles * self.v_row, tiles * self.m_row
        self.v = Val("ptr", "%scratch")
        self.m = fn.gep(self.v, POINTS * self.v_plane)
        self.patch = fn.gep(self.m, POINTS * self.m_plane)
        beyond = fn.gep(self.patch, INPUT * INPUT * -(-body.channels // 16) * 16 * self.bytes)
        self.u = self.w if body.resident else beyond
        self.matrix = body.matrix(self.lanes) * self.bytes
        self.full, self.tail = divmod(body.filters, self.width)
        self.transform = Filters(target, body.dtype, self.matrix, body.stored)
        self.output = Output(fn, target, body.epilogue, body.dtype, self.m_plane)

    def run(self) -> None:
        fn, body = self.fn, self.body
        groups = -(-body.grid[0] // body.rows)

        def task(index: Int, last: list[Val]) -> list[Val]:
            place, block = (index, 0) if self.blocks == 1 else (fn.div(index, self.blocks), fn.rem(index, self.blocks))
            n, group = unravel(fn, place, (self.images, groups))
            first = 0 if groups == 1 else fn.mul(group, body.rows)
            rows = body.grid[0] if groups == 1 else fn.min(fn.sub(body.grid[0], first), body.rows)
            changed = fn.compare("icmp ne", fn.i64(place), last[0])
            when(fn, changed, lambda: self.each_tile(first, rows, lambda y, x, i: self.read_tile(n, y, x, i)))
            start = fn.mul(block, body.block_panels)
            panels = fn.min(fn.sub(self.panels, start), body.block_panels)
            self.multiply(fn.mul(rows, body.grid[1]), start, panels)
            filters = fn.min(fn.mul(panels, self.width), fn.sub(body.filters, fn.mul(start, self.width)))
            channel = fn.mul(start, self.width)
            self.each_tile(first, rows, lambda y, x, i: self.write_tile((n, y, x, channel), i, filters))
            return [fn.i64(place)]

        fn.loop(Val("i64", "%hi"), task, [Val("i64", "-1")], start=Val("i64", "%lo"))

    @property
    def panel_bytes(self) -> int:
        """Bytes of a panel in one matrix of U."""
        return self.width * self.bytes * self.body.channels

    def taps(self, panel: Int) -> Val:
        stored = self.body.stored or self.body.dtype
        return self.fn.gep(self.w, self.fn.mul(panel, 9 * self.panel_bytes * stored.bytes // self.body.dtype.bytes))

    def each_panel(self, start: Int, count: Int, body: Callable[[Int, int], None]) -> None:
        """body(panel, vectors) for panels [start, start + count)."""
        fn = self.fn
        end = fn.add(start, count)
        fn.loop(fn.min(end, self.full), lambda p, _: body(p, self.body.tile.vectors), start=start)
        if self.tail:
            full = self.full
            last = end > full if isinstance(end, int) else fn.compare("icmp sgt", end, fn.i64(full))
            when(fn, last, lambda: body(full, -(-self.tail // self.lanes)))

    def each_tile(self, first: Int, rows: Int, body: object) -> None:
        """body(tile row, tile column, number in the group) for all tiles of a group."""
        fn, wide = self.fn, self.body.grid[1]
        assert callable(body)

        def row(y: Int, _: list[Val]) -> None:
            fn.loop(wide, lambda x, _: body(fn.add(first, y), x, fn.add(fn.mul(y, wide), x)))

        fn.loop(rows, row)

    # --- input ---

    def read_tile(self, n: Int, y: Int, x: Int, index: Int) -> None:
        """V for one tile: straight from the input, or from a copy with zeros where the tile sticks out."""
        fn, body = self.fn, self.body
        top = fn.sub(fn.mul(y, OUTPUT), body.pads[0])
        left = fn.sub(fn.mul(x, OUTPUT), body.pads[1])
        offset = fn.add(fn.mul(n, self.strides[0]), fn.mul(left, self.strides[3]))
        to = fn.gep(self.v, fn.mul(index, self.v_row))
        inside = self._within(((top, body.into[0] - INPUT), (left, body.into[1] - INPUT)))

        def direct() -> None:
            source = fn.gep(self.x, fn.add(offset, fn.mul(top, self.strides[2])))
            self.call_transform(source, self.strides[2], self.strides[3], to)

        def copied() -> None:
            pixel = body.channels * self.bytes
            border = Border.around(fn, left, INPUT, body.into[1])

            def line(i: Int, _: list[Val]) -> None:
                row = fn.add(top, i)
                source = fn.gep(self.x, fn.add(offset, fn.mul(row, self.strides[2])))
                kept = border.unless(fn, self._within(((row, body.into[0] - 1),)))
                copy_line(fn, self.target, body.dtype, source, fn.gep(self.patch, fn.mul(i, INPUT * pixel)), kept,
                          body.channels, (size(fn, body.x.strides[3]), 1), (body.channels, 1))

            fn.loop(INPUT, line)
            self.call_transform(self.patch, INPUT * pixel, pixel, to)

        when(fn, inside, direct)
        outside = not inside if isinstance(inside, bool) else fn.op("xor", inside, Val("i1", "true"))
        when(fn, outside, copied)

    def _within(self, pairs: tuple[tuple[Int, int], ...]) -> bool | Val:
        """Whether 0 <= position <= last for all."""
        fn = self.fn
        result: bool | Val = True
        for position, last in pairs:
            if last < 0:
                return False
            if isinstance(position, int):
                if not 0 <= position <= last:
                    return False
                continue
            test = fn.compare("icmp ule", position, Val("i64", str(last)))
            result = test if result is True else fn.op("and", result, test) if isinstance(result, Val) else result
        return result

    def call_transform(self, source: Val, row: Int, pixel: Int, to: Val) -> None:
        """Bᵀ d B for all channels of a tile, in a function of its own."""
        fn = self.fn
        name = f"winograd_input_{self.element}_{self.body.channels}_{self.v_plane}"
        if name not in fn.module.functions:
            self.define_transform(name)
        fn.emit(f"call void @{name}({source}, {fn.i64(row)}, {fn.i64(pixel)}, {to})")

    def define_transform(self, name: str) -> None:
        args = [("ptr noalias readonly", "x"), ("i64", "row"), ("i64", "pixel"), ("ptr noalias", "v")]
        fn = self.fn.module.function(name, args, internal=True, attributes="noinline")
        row, pixel = Val("i64", "%row"), Val("i64", "%pixel")
        lines = [fn.gep(Val("ptr", "%x"), fn.mul(row, i)) for i in range(INPUT)]
        places = [fn.mul(pixel, j) for j in range(INPUT)]
        lanes = self.lanes

        def vector(c: Int, rest: int) -> None:
            mask = mask_of(fn, rest, 0, lanes)
            at = fn.mul(c, self.target.vector_bytes)
            columns = []
            for place in places:
                offset = fn.add(place, at)
                d = [load_raw(fn, self.element, line, lanes, offset, mask) for line in lines]
                columns.append(self._input(fn, d))
            to = fn.gep(Val("ptr", "%v"), at)
            for i in range(INPUT):
                for j, value in enumerate(self._input(fn, [column[i] for column in columns])):
                    fn.store(value, to, (i * INPUT + j) * self.v_plane, self.target.vector_bytes)

        whole, rest = divmod(self.body.channels, lanes)
        fn.loop(whole, lambda c, _: vector(c, lanes))
        if rest:
            vector(whole, rest)

    def _input(self, fn: Function, d: list[Val]) -> list[Val]:
        """Bᵀ on six vectors."""

        def scaled(k: float, x: Val, y: Val) -> Val:
            return fma(fn, self.target.fma, x, literal(self.type, k), y)

        near, far = NEAR * NEAR, FAR * FAR            # near * far = 1
        a, b = scaled(-far, d[2], d[4]), scaled(-far, d[1], d[3])
        c, e = scaled(-near, d[2], d[4]), scaled(-near, d[1], d[3])
        return [scaled(-near - far, d[2], fn.op("fadd", d[0], d[4])), scaled(NEAR, b, a), scaled(-NEAR, b, a),
                scaled(FAR, e, c), scaled(-FAR, e, c), scaled(-near - far, d[3], fn.op("fadd", d[1], d[5]))]

    # --- the products ---

    def multiply(self, tiles: Int, start: Int, panels: Int) -> None:
        """M[p] = V[p] U[p] for the panels of a block."""
        fn = self.fn
        if self.body.resident:
            fn.loop(POINTS, lambda p, _: self.each_panel(start, panels, lambda i, vectors: self.product(
                p, tiles, fn.sub(i, start), fn.gep(self.u, fn.mul(i, self.panel_bytes)), vectors)))
            return

        def panel(i: Int, vectors: int) -> None:
            self.transform.call(fn, self.taps(i), self.u, vectors, self.body.channels)
            taps = self.taps(fn.add(i, 1))
            fn.loop(POINTS, lambda p, _: self.product(p, tiles, fn.sub(i, start), self.u, vectors, taps))

        self.each_panel(start, panels, panel)

    def product(self, p: Int, tiles: Int, place: Int, u: Val, vectors: int, taps: Val | None = None) -> None:
        """One panel of one of the 36 products, the `place`-th of the block. `taps`: what the next panel is made of."""
        fn, body = self.fn, self.body
        store = plain(Operand(0, body.dtype, (0, -1, 1)))
        v, m = fn.gep(self.v, fn.mul(p, self.v_plane)), fn.gep(self.m, fn.mul(p, self.m_plane))
        w = fn.gep(u, fn.mul(p, self.matrix))
        to = fn.gep(m, fn.mul(place, self.width * self.bytes))
        pitch = vectors * self.target.vector_bytes
        ahead = Ahead(fn, self.target, tiles, body.tile.rows, body.channels, pitch)
        if taps is not None:
            # Nine taps are a quarter of 36 numbers: every product fetches its 36th of them.
            ahead = Ahead(fn, self.target, tiles, body.tile.rows, body.channels, pitch // 4, distance=0)
            w_next = fn.gep(taps, fn.mul(p, body.channels * pitch // 4))
        else:
            w_next = w
        given: dict[str, Int] = {"k": body.channels, "o0s1": self.m_row // self.bytes, "share": ahead.share}

        def tile(first: Int, height: int) -> None:
            rows = tuple(r * self.v_row for r in range(height))
            micro = Micro(body.dtype, (1, height), vectors, rows, self.bytes, True, 0, store, vectors * self.lanes,
                          pitch, True, ahead.lines)
            following = ahead.place(w_next, fn.div(first, body.tile.rows))
            micro.call(fn, self.target, fn.gep(v, fn.mul(first, self.v_row)), w,
                       [fn.gep(to, fn.mul(first, self.m_row))], given, following)

        cover(fn, tiles, self.heights(), tile)

    def heights(self) -> tuple[int, ...]:
        """Tile heights for whole groups of tile rows and for the last one."""
        body, most = self.body, self.body.tile.rows
        counts = [rows * body.grid[1] for rows in (min(body.rows, body.grid[0]), body.grid[0] % body.rows)]
        found = {min(most, n) for n in counts if n} | {n % most for n in counts if n % most}
        return tuple(sorted(found, reverse=True))

    # --- output ---

    def write_tile(self, at: tuple[Int, Int, Int, Int], index: Int, filters: Int) -> None:
        """Aᵀ M A and the epilogue for one tile, as much of it as lies inside the image."""
        fn, body = self.fn, self.body
        n, y, x, channel = at
        oy, ox = fn.mul(y, OUTPUT), fn.mul(x, OUTPUT)
        rows = OUTPUT if body.out[0] % OUTPUT == 0 else fn.min(fn.sub(body.out[0], oy), OUTPUT)
        columns = OUTPUT if body.out[1] % OUTPUT == 0 else fn.min(fn.sub(body.out[1], ox), OUTPUT)
        m = fn.gep(self.m, fn.mul(index, self.m_row))
        self.output.write(m, (n, 0, oy, ox, channel), (rows, columns), filters, body.filters % self.lanes)


def saving(out: tuple[int, int], channels: int, filters: int) -> float:
    """How many of a direct convolution's multiplications stand against one of Winograd's form. Counted in multiply-adds
    per channel and filter: the input's and the output's transforms are shared by all filters and channels, the filters'
    is made once a run."""
    tiles = -(-out[0] // OUTPUT) * -(-out[1] // OUTPUT)
    made = tiles * (POINTS + TILE_TRANSFORM / filters + TILE_TRANSFORM / channels) + FILTER_TRANSFORM
    return 9 * out[0] * out[1] / made


def profitable(out: tuple[int, int], channels: int, filters: int) -> bool:
    """Whether the saved multiplications outweigh the transforms."""
    return channels >= 16 and filters >= 16 and saving(out, channels, filters) > 1 / 0.9
