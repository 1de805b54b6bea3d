"""Recurrent layers: lstm, gru, rnn. A task is one direction of a block of sequences, all steps.

For a chunk of steps at a time, the inputs' part of the gates is one matrix product per sequence; then, step by step,
the states' part is a product over the sequences of the block, and the cell's formulas finish it. Everything in
between lies in scratch. Steps are counted in the order of processing; `position` says where in the sequence that is.
"""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.arith import Arith
from lepton.codegen.llvm.builder import Function, Int, Module, Val, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.cells import Activation, Cell
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.gemm import cover, heights, unravel, when
from lepton.codegen.templates.memory import Mask, mask_of, size, store_lanes, zeros
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.pack import copy_elements, fill_run, pack_panel
from lepton.codegen.templates.tiles import Tile
from lepton.ir.types import DType

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
PAD = 16     # elements behind every row of scratch: whole vectors may be read and written there


@dataclass(frozen=True, slots=True)
class Recurrent:
    """The body of a recurrent layer."""

    kind: str                                   # of GATES
    dtype: DType
    steps: Size
    batch: Size
    inputs: int
    hidden: int
    backwards: tuple[bool, ...]                 # one per direction
    functions: tuple[tuple[Activation, ...], ...]
    x: Operand                                  # over (t, n, i)
    w: Operand | int                            # over (d, i, gate*unit); or the buffer of packed panels
    r: Operand | int                            # over (d, h, gate*unit); or the buffer of packed panels
    b: Operand | None                           # over (d, 2*gates*hidden)
    lens: Operand | None                        # over (n)
    h0: Operand | None                          # over (d, n, h)
    c0: Operand | None
    p: Operand | None                           # over (d, 3*hidden)
    y: Operand                                  # over (t, d, n, h)
    ends: tuple[Operand, ...]                   # y_h and y_c, over (d, n, h)
    tile_w: Tile
    tile_r: Tile
    block: int                                  # sequences of a task
    chunk: int                                  # steps projected at a time
    input_forget: bool = False
    linear_before_reset: bool = False
    scales: tuple[Operand, Operand] | None = None   # of w and r, which are i8 then, over (d, gate*unit)

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Recurrent(self, module.kernel(symbol), target).run()

    @property
    def gates(self) -> int:
        return GATES[self.kind]

    @property
    def dot(self) -> Dot:
        """How w and r are read."""
        return FMA if self.scales is None else Dot(stored=DType.I8)

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Ranges of gates whose states' part is one product: gru's candidate waits for its reset gate."""
        if self.kind == "gru" and not self.linear_before_reset:
            return (0, 2), (2, 3)
        return ((0, self.gates),)

    def regions(self, lanes: int) -> dict[str, int]:
        """What lies in scratch, and how many elements it takes."""
        row, state = self.gates * self.hidden + PAD, self.hidden + PAD
        found = {
            "gates": self.chunk * self.block * row, "sums": self.block * row, "h": self.block * state,
            "c": self.block * state, "reset": self.block * state, "z": self.block * state, "bias": 2 * row,
            "peep": 3 * self.hidden + PAD, "lens": self.block * 8 // self.dtype.bytes + PAD}
        if self.scales is not None:
            found["scale"] = 2 * row
        if not isinstance(self.w, int):
            found["w"] = self.inputs * padded(self.gates * self.hidden, lanes)
        if not isinstance(self.r, int):
            found["r"] = sum(self.hidden * padded((b - a) * self.hidden, lanes) for a, b in self.parts)
        return {name: -(-count // 32) * 32 for name, count in found.items()}


def padded(columns: int, lanes: int) -> int:
    return -(-columns // lanes) * lanes


class _Recurrent:
    def __init__(self, body: Recurrent, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.lanes, self.bytes = target.lanes(body.dtype), body.dtype.bytes
        self.type = vec(self.lanes, memory_type(body.dtype))
        self.weight_bytes = body.dot.width(body.dtype)
        self.cell = Cell(Arith(fn, target), self.type, body.dtype)
        self.steps, self.batch = size(fn, body.steps), size(fn, body.batch)
        self.columns = body.gates * body.hidden
        self.row, self.state = self.columns + PAD, body.hidden + PAD
        every = (body.x, body.w, body.r, body.b, body.lens, body.h0, body.c0, body.p, body.y, *body.ends,
                 *(body.scales or ()))
        self.bases = {o: fn.buffer(o if isinstance(o, int) else o.buffer) for o in every if o is not None}
        self.place: dict[str, Val] = {}
        offset = 0
        for name, count in body.regions(self.lanes).items():
            self.place[name] = fn.gep(Val("ptr", "%scratch"), offset * self.bytes)
            offset += count

    def run(self) -> None:
        fn, body = self.fn, self.body
        blocks = fn.div(fn.add(self.batch, body.block - 1), body.block)

        def task(index: Int, _: list[Val]) -> None:
            d, block = unravel(fn, index, (len(body.backwards), blocks))
            first = fn.mul(block, body.block)
            rows = fn.min(fn.sub(self.batch, first), body.block)
            for i in range(len(body.backwards)):
                mine = True if len(body.backwards) == 1 else fn.compare("icmp eq", fn.i64(d), Val("i64", str(i)))

                def run(i: int = i) -> None:
                    self.direction(i, first, rows)

                when(fn, mine, run)

        fn.loop(Val("i64", "%hi"), task, start=Val("i64", "%lo"))

    def direction(self, d: int, first: Int, rows: Int) -> None:
        """One direction of sequences [first, first + rows)."""
        fn, body = self.fn, self.body
        self.prepare(d, first, rows)

        def chunk(i: Int, _: list[Val]) -> None:
            start = fn.mul(i, body.chunk)
            count = fn.min(fn.sub(self.steps, start), body.chunk)
            fn.loop(rows, lambda n, _: self.project(d, first, n, start, count))
            fn.loop(count, lambda t, _: self.step(d, first, rows, start, t))

        fn.loop(fn.div(fn.add(self.steps, body.chunk - 1), body.chunk), chunk)
        for operand, name in zip(body.ends, ("h", "c"), strict=False):
            def end(n: Int, _: list[Val], operand: Operand = operand, name: str = name) -> None:
                self.end(operand, name, d, first, n)

            fn.loop(rows, end)

    # --- preparation ---

    def prepare(self, d: int, first: Int, rows: Int) -> None:
        """Weights, biases, lengths and first states of a task."""
        fn, body = self.fn, self.body
        if isinstance(body.w, Operand):
            self.pack(body.w, d, body.inputs, (0, body.gates), body.tile_w, self.place["w"])
        if isinstance(body.r, Operand):
            to = self.place["r"]
            for part in body.parts:
                self.pack(body.r, d, body.hidden, part, body.tile_r, to)
                to = fn.gep(to, self.part_bytes(part))
        for half in range(2):
            to = fn.gep(self.place["bias"], half * self.row * self.bytes)
            self.copy(body.b, (d, half * self.columns), to, self.columns)
        for half, scale in enumerate(body.scales or ()):
            self.copy(scale, (d, 0), fn.gep(self.place["scale"], half * self.row * self.bytes), self.columns)
        self.copy(body.p, (d, 0), self.place["peep"], 3 * body.hidden)

        def sequence(n: Int, _: list[Val]) -> None:
            fn.store(fn.i64(self.given_length(fn.add(first, n))), self.place["lens"], fn.mul(n, 8))
            for name, source in (("h", body.h0), ("c", body.c0)):
                self.copy(source, (d, fn.add(first, n), 0), self.state_row(name, n), body.hidden)

        fn.loop(rows, sequence)

    def given_length(self, n: Int) -> Int:
        """How many steps of a sequence count. Lengths are data: out of range, they must not lead out of x and y."""
        fn, lens = self.fn, self.body.lens
        if lens is None:
            return self.steps
        raw = fn.load(memory_type(lens.dtype), lens.at(fn, self.bases[lens], (n,)))
        length = raw if raw.type == "i64" else fn.convert("sext", raw, "i64")
        return fn.max(fn.min(length, self.steps), 0)

    def pack(self, source: Operand, d: int, k: int, part: tuple[int, int], tile: Tile, to: Val) -> None:
        """Weights that are not constant: panels as pack_constant makes them."""
        fn, width = self.fn, tile.vectors * self.lanes
        start, columns = part[0] * self.body.hidden, (part[1] - part[0]) * self.body.hidden
        strides = (size(fn, source.strides[1]), size(fn, source.strides[2]))
        for first in range(0, columns, width):
            some = min(width, columns - first)
            at = source.at(fn, self.bases[source], (d, 0, start + first))
            pack_panel(fn, self.target, self.body.dtype, at, (k, some), strides, fn.gep(to, first * k * self.bytes),
                       -(-some // self.lanes))

    def part_bytes(self, part: tuple[int, int]) -> int:
        return self.body.hidden * padded((part[1] - part[0]) * self.body.hidden, self.lanes) * self.weight_bytes

    def copy(self, source: Operand | None, at: tuple[Int, ...], to: Val, count: int) -> None:
        """A run along the operand's last axis, zeros if there is none."""
        if source is None:
            fill_run(self.fn, self.body.dtype, to, count, self.lanes)
            return
        start = source.at(self.fn, self.bases[source], at)
        copy_elements(self.fn, self.target, self.body.dtype, start, to, count, size(self.fn, source.strides[-1]))

    def state_row(self, name: str, n: Int) -> Val:
        return self.fn.gep(self.place[name], self.fn.mul(n, self.state * self.bytes))

    def length(self, n: Int) -> Int:
        if self.body.lens is None:
            return self.steps
        return self.fn.load("i64", self.place["lens"], self.fn.mul(n, 8))

    # --- products ---

    def project(self, d: int, first: Int, n: Int, start: Int, count: Int) -> None:
        """The inputs' part of the gates of one sequence for `count` steps from `start`."""
        fn, body = self.fn, self.body
        length = self.length(n)
        alive = fn.max(fn.min(fn.sub(length, start), count), 0)
        position = fn.sub(fn.sub(length, 1), start) if body.backwards[d] else start
        step = fn.mul(size(fn, body.x.strides[0]), self.bytes)
        a = body.x.at(fn, self.bases[body.x], (position, fn.add(first, n), 0))
        w = self.place["w"] if isinstance(body.w, Operand) else fn.gep(
            self.bases[body.w], d * body.inputs * padded(self.columns, self.lanes) * self.weight_bytes)
        to = fn.gep(self.place["gates"], fn.mul(n, self.row * self.bytes))
        self.multiply(alive, body.steps, a, fn.sub(0, step) if body.backwards[d] else step,
                      fn.mul(size(fn, body.x.strides[2]), self.bytes), w, body.inputs, self.columns, body.tile_w, to,
                      body.block * self.row)

    def multiply_state(self, d: int, rows: Int, part: tuple[int, int], state: str) -> None:
        """sums[:, part] = state · R for all sequences of the block."""
        fn, body = self.fn, self.body
        w = self.place["r"] if isinstance(body.r, Operand) else fn.gep(
            self.bases[body.r], d * sum(map(self.part_bytes, body.parts)))
        if part != body.parts[0]:
            w = fn.gep(w, self.part_bytes(body.parts[0]))
        to = fn.gep(self.place["sums"], part[0] * body.hidden * self.bytes)
        self.multiply(rows, body.batch, self.place[state], self.state * self.bytes, self.bytes, w, body.hidden,
                      (part[1] - part[0]) * body.hidden, body.tile_r, to, self.row)

    def multiply(self, rows: Int, total: Size, a: Val, row: Int, step: Int, w: Val, k: int, columns: int, tile: Tile,
                 to: Val, to_row: int) -> None:
        """to = a · w; strides of `a` in bytes, of `to` in elements."""
        fn, width = self.fn, tile.vectors * self.lanes
        store = plain(Operand(0, self.body.dtype, (0, -1, 1)))
        given = {"row": row, "step": step, "k": k, "o0s1": to_row}
        full, rest = divmod(columns, width)

        def panel(p: Int, some: int) -> None:
            at, vectors = fn.gep(to, fn.mul(p, width * self.bytes)), -(-some // self.lanes)

            def piece(start: Int, height: int) -> None:
                micro = Micro(self.body.dtype, (1, height), vectors,
                              tuple(i * row for i in range(height)) if isinstance(row, int) else None,
                              step if isinstance(step, int) else None, k > 0, 0, store, some,
                              vectors * self.lanes * self.weight_bytes, dot=self.body.dot)
                source = fn.gep(w, fn.mul(p, width * k * self.weight_bytes))
                micro.call(fn, self.target, fn.gep(a, fn.mul(start, row)), source,
                           [fn.gep(at, fn.mul(start, to_row * self.bytes))], given)

            cover(fn, rows, self.sizes(tile, total), piece)

        fn.loop(full, lambda p, _: panel(p, width))
        if rest:
            panel(full, rest)

    def sizes(self, tile: Tile, total: Size) -> tuple[int, ...]:
        """Tile heights for any number of rows: blocks, chunks and lengths cut them."""
        if isinstance(total, int) and total == 1:
            return (1,)
        return heights(tile.rows, None)

    # --- one step ---

    def step(self, d: int, first: Int, rows: Int, start: Int, t: Int) -> None:
        fn, body = self.fn, self.body
        self.multiply_state(d, rows, body.parts[0], "h")
        if len(body.parts) > 1:
            fn.loop(rows, lambda n, _: self.each_vector(lambda at, mask: self.reset(d, n, t, at)))
            self.multiply_state(d, rows, body.parts[1], "reset")
        now = fn.add(start, t)
        fn.loop(rows, lambda n, _: self.finish(d, first, n, now, t))

    def finish(self, d: int, first: Int, n: Int, now: Int, t: Int) -> None:
        """The new state of one sequence and its row of y; zeros after its end."""
        fn, body = self.fn, self.body
        length = self.length(n)
        position = fn.sub(fn.sub(length, 1), now) if body.backwards[d] else now

        def store(at: Int, mask: Mask, row: Val, value: Val) -> None:
            stride = size(fn, body.y.strides[3])
            place = fn.gep(row, fn.mul(fn.mul(at, stride), self.bytes))
            store_lanes(fn, self.target, value, body.dtype, place, stride, mask)

        def alive() -> None:
            row = body.y.at(fn, self.bases[body.y], (position, d, fn.add(first, n), 0))
            self.each_vector(lambda at, mask: store(at, mask, row, self.unit(d, n, t, at)))

        def ended() -> None:
            row = body.y.at(fn, self.bases[body.y], (now, d, fn.add(first, n), 0))
            self.each_vector(lambda at, mask: store(at, mask, row, zeros(self.type)))

        if body.lens is None:
            alive()
            return
        going = fn.compare("icmp slt", fn.i64(now), fn.i64(length))
        when(fn, going, alive)
        when(fn, fn.op("xor", going, Val("i1", "true")), ended)

    def gate(self, gate: int, n: Int, t: Int, at: Int, state_part: bool = True) -> Val:
        """A gate's sum: the inputs' and the states' part and both biases (without the states' two, on demand)."""
        fn = self.fn
        place = fn.add(fn.mul(at, self.bytes), gate * self.body.hidden * self.bytes)
        row = fn.add(fn.mul(t, self.body.block), n)
        total = fn.load(self.type, fn.gep(self.place["gates"], fn.mul(row, self.row * self.bytes)), place)
        total = self.scaled(total, 0, place)
        total = fn.op("fadd", total, fn.load(self.type, self.place["bias"], place))
        return fn.op("fadd", total, self.state_gate(gate, n, at)) if state_part else total

    def state_gate(self, gate: int, n: Int, at: Int) -> Val:
        fn = self.fn
        place = fn.add(fn.mul(at, self.bytes), gate * self.body.hidden * self.bytes)
        sums = fn.load(self.type, fn.gep(self.place["sums"], fn.mul(n, self.row * self.bytes)), place)
        sums = self.scaled(sums, 1, place)
        return fn.op("fadd", sums, fn.load(self.type, fn.gep(self.place["bias"], self.row * self.bytes), place))

    def scaled(self, sums: Val, half: int, place: Int) -> Val:
        """Sums of levels of w (0) or r (1) times their scales."""
        if self.body.scales is None:
            return sums
        row = self.fn.gep(self.place["scale"], half * self.row * self.bytes)
        return self.fn.op("fmul", sums, self.fn.load(self.type, row, place))

    def load_state(self, name: str, n: Int, at: Int) -> Val:
        return self.fn.load(self.type, self.state_row(name, n), self.fn.mul(at, self.bytes))

    def store_state(self, name: str, n: Int, at: Int, value: Val) -> None:
        self.fn.store(value, self.state_row(name, n), self.fn.mul(at, self.bytes))

    def reset(self, d: int, n: Int, t: Int, at: Int) -> None:
        """gru: the update gate, and the state behind the reset gate."""
        f = self.body.functions[d][0]
        self.store_state("z", n, at, self.cell.activate(f, self.gate(0, n, t, at)))
        r = self.cell.activate(f, self.gate(1, n, t, at))
        self.store_state("reset", n, at, self.fn.op("fmul", r, self.load_state("h", n, at)))

    def unit(self, d: int, n: Int, t: Int, at: Int) -> Val:
        """The new h of one vector of units; states are updated."""
        fn, body, cell, functions = self.fn, self.body, self.cell, self.body.functions[d]
        if body.kind == "rnn":
            h = cell.activate(functions[0], self.gate(0, n, t, at))
        elif body.kind == "lstm":
            peep = None
            if body.p is not None:
                peep = [fn.load(self.type, self.place["peep"], fn.mul(fn.add(at, i * body.hidden), self.bytes))
                        for i in range(3)]
            sums = [self.gate(g, n, t, at) for g in range(4)]
            h, c = cell.lstm(sums, self.load_state("c", n, at), peep, functions, body.input_forget)
            self.store_state("c", n, at, c)
        else:
            h = self.gru_unit(functions, n, t, at)
        self.store_state("h", n, at, h)
        return h

    def gru_unit(self, functions: tuple[Activation, ...], n: Int, t: Int, at: Int) -> Val:
        fn, cell = self.fn, self.cell
        if self.body.linear_before_reset:
            z = cell.activate(functions[0], self.gate(0, n, t, at))
            r = cell.activate(functions[0], self.gate(1, n, t, at))
            total = fn.op("fadd", self.gate(2, n, t, at, False), fn.op("fmul", r, self.state_gate(2, n, at)))
        else:
            z = self.load_state("z", n, at)
            total = self.gate(2, n, t, at)
        return cell.gru(z, cell.activate(functions[1], total), self.load_state("h", n, at))

    def each_vector(self, body: object) -> None:
        """body(first unit, mask) over vectors of hidden units."""
        assert callable(body)
        whole, rest = divmod(self.body.hidden, self.lanes)
        self.fn.loop(whole * self.lanes, lambda at, _: body(at, None), step=self.lanes)
        if rest:
            body(whole * self.lanes, mask_of(self.fn, rest, 0, self.lanes))

    def end(self, operand: Operand, name: str, d: int, first: Int, n: Int) -> None:
        """A final state, from scratch to its place."""
        fn = self.fn
        row = operand.at(fn, self.bases[operand], (d, fn.add(first, n), 0))
        stride = size(fn, operand.strides[2])

        def vector(at: Int, mask: Mask) -> None:
            place = fn.gep(row, fn.mul(fn.mul(at, stride), self.bytes))
            store_lanes(fn, self.target, self.load_state(name, n, at), self.body.dtype, place, stride, mask)

        self.each_vector(vector)
