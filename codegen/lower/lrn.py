"""lrn: each element divided by a power of the sum of squares over the channels around it."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, For, Let, Load, LoopKind, Ref, Stmt, Store, Update, Var, add, i64, mul
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import cut, grain_for, least, most, nest_loops, sub
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.scalar import ap
from lepton.ir import ops
from lepton.ir.dims import ceildiv, product

BAND = 16      # pixels squared together: what is stored and read back at once at other offsets makes the loads wait
UNROLLED = 16  # channels of a window that are written out


@lowers(ops.lrn)
def lrn(group: Group, options: LowerOptions) -> Kernel:
    return _Lrn(group).kernel()


class _Lrn:
    def __init__(self, group: Group) -> None:
        self.fused, self.attrs = Fused(group), anchor_of(group).attrs
        self.nest, self.shape = self.fused.nest, self.fused.result.shape
        self.dtype = widened(self.fused.result.dtype)
        self.axis = 1 if self.attrs["layout"] == "nchw" else len(self.shape) - 1
        self.ahead = (self.attrs["size"] - 1) // 2
        self.flops = product(self.shape) * (2 * self.attrs["size"] + 8)

    def kernel(self) -> Kernel:
        """Vectors go over the channels where these are contiguous, over the last axis elsewhere."""
        views = self.fused.before_views(0).values()
        last = len(self.shape) - 1
        over_channels = self.axis == last or (
            all(v[self.axis] == 1 for v in views) and not all(v[last] == 1 for v in views))
        return self.over_channels() if over_channels else self.over_space()

    def over_space(self) -> Kernel:
        """A serial loop over those channels of the window that exist."""
        nest, size = self.nest, self.attrs["size"]
        tasks = cut(self.shape, work=size + 8)
        coords, around = nest_loops(self.shape, tasks, nest)
        k, channel, channels = nest.var("k"), coords[self.axis], self.shape[self.axis]
        start = most(i64(0), sub(channel, i64(self.ahead)))
        end = least(nest.size(channels), add(channel, i64(size - self.ahead)))
        lets: list[Stmt] = []
        neighbour = self.fused.before(0, self._with_channel(coords, add(start, k)), lets)
        acc, x = self._variable("acc"), self._variable("n")
        window = For(k.name, sub(end, start), (
            *lets, Let(x.name, neighbour), Update(acc.name, "add", ap("mul", x, x))))
        body = [Var(acc.name, Const(0.0, self.dtype)), window, *self._divided(coords, acc)]
        return nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks),
                           writes=self.fused.group.outputs, flops=self.flops)

    def over_channels(self) -> Kernel:
        """Squares of a band of pixels go to scratch, with zeros around their channels; then each window is `size` loads
        at neighbouring places."""
        nest, size = self.nest, self.attrs["size"]
        channels = self.shape[self.axis]
        space = [n for a, n in enumerate(self.shape) if a != self.axis]
        sizes = [*space[:-1], ceildiv(space[-1], BAND)]
        work = (size + 8) * BAND * (channels if isinstance(channels, int) else 64)
        tasks = cut(sizes, vector=False, work=work)
        coords, around = nest_loops(sizes, tasks, nest, vector=False)
        pitch = add(nest.size(channels), i64(size - 1))
        squares = nest.scratch(self.dtype, (channels + (size - 1)) * BAND)
        first = mul(coords[-1], i64(BAND))
        count = least(i64(BAND), sub(nest.size(space[-1]), first))

        def pixels(row: str, body: tuple[Stmt, ...]) -> Stmt:
            return For(row, count, body)

        p, j, q, c = nest.var("p"), nest.var("j"), nest.var("q"), nest.var("c")
        at = self._with_pixel(coords, add(first, p), j)
        lets: list[Stmt] = []
        x = self._variable("x")
        lets.append(Let(x.name, self.fused.before(0, at, lets)))
        fill = For(j.name, nest.size(channels), (*lets, Store(
            squares, add(mul(p, pitch), add(j, i64(self.ahead))), ap("mul", x, x))), LoopKind.VECTOR)
        acc, k = self._variable("acc"), nest.var("k")
        term = Load(squares, add(mul(q, pitch), add(c, k)), self.dtype)
        window = For(k.name, i64(size), (Update(acc.name, "add", term),),
                     LoopKind.UNROLL if size <= UNROLLED else LoopKind.SERIAL)
        divide = For(c.name, nest.size(channels), (
            Var(acc.name, Const(0.0, self.dtype)), window,
            *self._divided(self._with_pixel(coords, add(first, q), c), acc)), LoopKind.VECTOR)
        body = [pixels(p.name, (*self._zeros(squares, mul(p, pitch)), fill)), pixels(q.name, (divide,))]
        return nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks),
                           writes=self.fused.group.outputs, flops=self.flops)

    def _zeros(self, squares: str, row: Expr) -> list[Stmt]:
        """What stands for the channels that do not exist, before and behind those of a pixel."""
        channels, behind = self.nest.size(self.shape[self.axis]), self.attrs["size"] - 1 - self.ahead
        found: list[Stmt] = []
        for start, count in ((row, self.ahead), (add(row, add(channels, i64(self.ahead))), behind)):
            z = self.nest.var("z")
            found.append(For(z.name, i64(count), (Store(squares, add(start, z), Const(0.0, self.dtype)),)))
        return found

    def _divided(self, coords: Sequence[Expr], total: Expr) -> list[Stmt]:
        """The outputs at `coords`, whose window's squares sum to `total`."""
        a, body, base = self.attrs, list[Stmt](), self._variable("base")
        scaled = ap("mul", total, Const(a["alpha"] / a["size"], self.dtype))
        body.append(Let(base.name, ap("add", scaled, Const(a["bias"], self.dtype))))
        x = self.fused.before(0, coords, body)
        result = ap("div", x, self._power(base, a["beta"], body))
        return [*body, *self.fused.stores(coords, result)]

    def _power(self, base: Expr, exponent: float, lets: list[Stmt]) -> Expr:
        """base ** exponent for a base that is hardly ever negative: by square roots for the usual exponents, else
        through log and exp, where NaN comes out as it should."""
        if exponent == 1:
            return base
        if exponent in (0.5, 0.75):
            root = self._variable("root")
            lets.append(Let(root.name, ap("sqrt", base)))
            return root if exponent == 0.5 else ap("mul", root, ap("sqrt", root))
        return ap("exp", ap("mul", ap("log", base), Const(exponent, base.dtype)))

    def _variable(self, stem: str) -> Ref:
        return Ref(self.nest.fresh(stem), self.dtype)

    def _with_channel(self, coords: Sequence[Expr], channel: Expr) -> list[Expr]:
        return [channel if a == self.axis else x for a, x in enumerate(coords)]

    def _with_pixel(self, coords: Sequence[Expr], last: Expr, channel: Expr) -> list[Expr]:
        """Coordinates of an element: `coords` count pixels but for the last of these, which is `last`."""
        place: list[Expr] = [*coords[:-1], last]
        place.insert(self.axis, channel)
        return place
