"""Ensembles of decision trees: eight walks at once, without branches but for the one that ends them.

Every element of x becomes an integer key that sorts as the floats do, so that a node is one integer comparison; in the
second half of a row's keys (there if some node sends NaN to its yes side) NaN comes before all, in the first after all.
A node is a record {limit, feature, yes, no}: where its key lies in the row, where its children lie, counted from the
table's middle. Leaves lie before the middle and lead to themselves: the walks are over when all places are negative.

The walks are scalar on purpose: their loads are the work, and gathers (AVX-512's too) take longer for the same loads.
Eight independent chains keep the machine full where one would wait for each of its loads and mispredict each branch.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Operand
from lepton.codegen.templates.memory import load_lanes, mask_of, size, store_lanes
from lepton.ir.ops.trees import NOTHING
from lepton.ir.types import DType

WALKS = 8
NODE_BYTES = {DType.F32: 16, DType.F64: 32}   # powers of two: a place is a number of leaves shifted
SUM_BYTES = 8                                 # sums are f64: ties of votes stay ties
KEYS = {DType.F32: DType.I32, DType.F64: DType.I64}


@dataclass(frozen=True, slots=True)
class Trees:
    """The body of a tree_ensemble kernel. A task is `block` rows, all trees."""

    rows: Size
    features: int
    trees: int
    x: Operand               # over (row, feature)
    y: Operand               # over (row, target)
    nodes: int               # buffers: records; the bytes in front of their middle
    middle: int
    roots: int               # i64 per tree: bytes from the middle
    weights: int             # rows of `pitch` elements per leaf
    owner: int | None        # i64 per leaf: bytes from a row's first sum to that of the leaf's target
    targets: int
    aggregate: str
    twice: bool              # whether rows of keys have a second half
    block: int

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Trees(self, module.kernel(symbol), target).run()

    @property
    def limit_bytes(self) -> int:
        return self.x.dtype.bytes

    @property
    def sum_lanes(self) -> int:
        """Lanes in which the sums of a row are added: as few as hold them all, at most four."""
        return 1 if self.owner is not None else min(1 << max(0, self.targets - 1).bit_length(), 4)

    @property
    def pitch(self) -> int:
        """Elements of a row of sums, and of a leaf's row of weights."""
        return -(-self.targets // self.sum_lanes) * self.sum_lanes

    def key_pitch(self, lanes: int) -> int:
        """Bytes of one half of a row of keys: whole vectors."""
        return -(-self.features // lanes) * lanes * self.limit_bytes

    def row_bytes(self, lanes: int) -> int:
        """Bytes of a row of keys. The row behind must not lie a multiple of 4 KiB away: one set of the cache."""
        whole = self.key_pitch(lanes) * (2 if self.twice else 1)
        return whole + 64 if whole % 2048 == 0 else whole

    def scratch(self, target: Target) -> int:
        keys = self.block * self.row_bytes(target.lanes(self.x.dtype))
        return -(-keys // 64) * 64 + self.block * self.pitch * SUM_BYTES


class _Trees:
    def __init__(self, body: Trees, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.lanes = target.lanes(body.x.dtype)
        self.rows = size(fn, body.rows)
        self.x, self.y = fn.buffer(body.x.buffer), fn.buffer(body.y.buffer)
        self.middle = fn.gep(fn.buffer(body.nodes), body.middle)
        self.roots, self.weights = fn.buffer(body.roots), fn.buffer(body.weights)
        self.owner = None if body.owner is None else fn.buffer(body.owner)
        self.keys = Val("ptr", "%scratch")
        self.row_bytes = body.row_bytes(self.lanes)
        self.sums = fn.gep(self.keys, -(-body.block * self.row_bytes // 64) * 64)
        self.sum_bytes = body.pitch * SUM_BYTES
        self.sum_type = vec(body.sum_lanes, "double")
        self.shift = NODE_BYTES[body.x.dtype].bit_length() - 1

    def run(self) -> None:
        self.fn.loop(Val("i64", "%hi"), lambda t, _: self.task(t), start=Val("i64", "%lo"))

    def task(self, index: Int) -> None:
        fn, body = self.fn, self.body
        first = fn.mul(index, body.block)
        count = fn.min(fn.sub(self.rows, first), body.block)
        fn.loop(count, lambda r, _: self.prepare(fn.add(first, r), r))
        whole = fn.div(count, WALKS)

        def tree(t: Int, _: list[Val]) -> None:
            root = fn.load("i64", self.roots, fn.mul(t, 8), 8)
            fn.loop(whole, lambda g, _: self.rows_of_tree(root, fn.mul(g, WALKS)))

        fn.loop(body.trees, tree)
        fn.loop(count, lambda r, _: self.trees_of_row(r), start=fn.mul(whole, WALKS))
        fn.loop(count, lambda r, _: self.deliver(fn.add(first, r), r))

    # --- rows in and out ---

    def prepare(self, row: Int, place: Int) -> None:
        """Keys of a row, and its first sums."""
        fn, body = self.fn, self.body
        stride = size(fn, body.x.strides[1])
        source = body.x.at(fn, self.x, (row, 0))
        target = fn.gep(self.keys, fn.mul(place, self.row_bytes))
        step = self.lanes * body.limit_bytes

        def vector(v: Int, columns: int) -> None:
            at = fn.gep(source, fn.mul(fn.mul(v, step), stride))
            mask = mask_of(fn, columns, 0, self.lanes)
            value = load_lanes(fn, self.target, body.x.dtype, at, self.lanes, stride, mask)
            halves = (False, True) if body.twice else (False,)
            for half, low in enumerate(halves):
                to = fn.add(fn.mul(v, step), half * body.key_pitch(self.lanes))
                fn.store(self.key(value, low), target, to)

        full, rest = divmod(body.features, self.lanes)
        fn.loop(full, lambda v, _: vector(v, self.lanes))
        if rest:
            vector(full, rest)
        nothing = literal(self.sum_type, NOTHING[body.aggregate])
        for start in range(0, body.pitch, body.sum_lanes):
            fn.store(nothing, self.sum_row(place), start * SUM_BYTES)

    def key(self, x: Val, low: bool) -> Val:
        """Integers in the order of the floats; both zeros are 0. NaN is the largest, or (low) the smallest."""
        fn, dtype = self.fn, KEYS[self.body.x.dtype]
        type, top = vec(self.lanes, dtype.value), (1 << dtype.bits - 1) - 1
        bits = fn.convert("bitcast", fn.op("fadd", x, literal(x.type, 0.0)), type)
        flip = fn.op("lshr", fn.op("ashr", bits, literal(type, dtype.bits - 1)), literal(type, 1))
        nan = fn.compare("fcmp uno", x, x)
        return fn.select(nan, literal(type, -top - 1 if low else top), fn.op("xor", bits, flip))

    def sum_row(self, place: Int) -> Val:
        return self.fn.gep(self.sums, self.fn.mul(place, self.sum_bytes))

    def deliver(self, row: Int, place: Int) -> None:
        fn, body = self.fn, self.body
        sums, wide = self.sum_row(place), body.y.dtype is DType.F64
        stride = size(fn, body.y.strides[1])

        def one(j: Int, _: list[Val]) -> None:
            value = fn.load("double", sums, fn.mul(j, SUM_BYTES))
            if body.aggregate != "sum":
                none = fn.compare("fcmp oeq", value, literal("double", NOTHING[body.aggregate]))
                value = fn.select(none, literal("double", 0.0), value)
            value = value if wide else fn.convert("fptrunc", value, "float")
            store_lanes(fn, self.target, value, body.y.dtype, body.y.at(fn, self.y, (row, j)), stride)

        fn.loop(body.targets, one)

    # --- walking ---

    def rows_of_tree(self, root: Val, first: Int) -> None:
        """One tree, eight rows."""
        fn = self.fn
        places = [fn.add(first, k) for k in range(WALKS)]
        rows = [fn.gep(self.keys, fn.mul(p, self.row_bytes)) for p in places]
        for place, leaf in zip(places, self.walk([root] * WALKS, rows), strict=True):
            self.collect(place, leaf)

    def trees_of_row(self, place: Int) -> None:
        """One row, eight trees at once: for the rows that are too few for `rows_of_tree`."""
        fn, row = self.fn, self.fn.gep(self.keys, self.fn.mul(place, self.row_bytes))
        whole, rest = divmod(self.body.trees, WALKS)

        def some(first: Int, count: int) -> None:
            roots = [fn.load("i64", self.roots, fn.mul(fn.add(first, k), 8), 8) for k in range(count)]
            for leaf in self.walk(roots, [row] * count):
                self.collect(place, leaf)

        fn.loop(whole, lambda g, _: some(fn.mul(g, WALKS), WALKS))
        if rest:
            some(whole * WALKS, rest)

    def walk(self, roots: Sequence[Val], rows: Sequence[Val]) -> list[Val]:
        """Where the walks from `roots` end: bytes from the middle, negative."""
        fn = self.fn
        before, head, done = fn.block, fn.new_label("walk"), fn.new_label("leaves")
        fn.branch(head)
        fn.label(head)
        begin = len(fn.lines)
        at = [Val("i64", f"%{head}_{k}") for k in range(len(roots))]
        following = [self.step(place, row) for place, row in zip(at, rows, strict=True)]
        every = following[0]
        for place in following[1:]:
            every = fn.op("and", every, place)
        fn.branch_if(fn.compare("icmp slt", every, Val("i64", "0")), done, head)
        fn.lines[begin:begin] = [f"  {a.text} = phi i64 [ {r.text}, %{before} ], [ {f.text}, %{head} ]"
                                 for a, r, f in zip(at, roots, following, strict=True)]
        fn.label(done)
        return following

    def step(self, place: Val, row: Val) -> Val:
        """The child of a node. Loaded by index, as LLVM may make a jump of a select between loads."""
        fn, body = self.fn, self.body
        node, key = fn.gep(self.middle, place), KEYS[body.x.dtype].value
        feature = fn.convert("zext", fn.load("i32", node, body.limit_bytes), "i64")
        seen, limit = fn.load(key, row, feature), fn.load(key, node)
        side = fn.convert("zext", fn.compare("icmp sgt", seen, limit), "i64")
        child = fn.load("i32", fn.gep(node, fn.mul(side, 4)), body.limit_bytes + 4)
        return fn.convert("sext", child, "i64")

    def collect(self, place: Int, leaf: Val) -> None:
        """Add what a leaf gives to the sums of a row."""
        fn, body = self.fn, self.body
        number = fn.op("ashr", fn.op("sub", Val("i64", "-1"), leaf), Val("i64", str(self.shift)))
        sums, width = self.sum_row(place), body.y.dtype.bytes
        if self.owner is not None:
            sums = fn.gep(sums, fn.load("i64", self.owner, fn.mul(number, 8), 8))
            weights = fn.gep(self.weights, fn.mul(number, width))
        else:
            weights = fn.gep(self.weights, fn.mul(number, body.pitch * width))

        def part(i: Int, _: Sequence[Val] = ()) -> None:
            at = fn.mul(i, body.sum_lanes * SUM_BYTES)
            new = fn.load(vec(body.sum_lanes, memory_type(body.y.dtype)), weights, fn.mul(i, body.sum_lanes * width))
            new = new if width == SUM_BYTES else fn.convert("fpext", new, self.sum_type)
            fn.store(self.combine(fn.load(self.sum_type, sums, at), new), sums, at)

        fn.loop(1 if self.owner is not None else body.pitch // body.sum_lanes, part)

    def combine(self, old: Val, new: Val) -> Val:
        fn = self.fn
        if self.body.aggregate == "sum":
            return fn.op("fadd", old, new)
        kind = "fcmp olt" if self.body.aggregate == "min" else "fcmp ogt"
        return fn.select(fn.compare(kind, new, old), new, old)
