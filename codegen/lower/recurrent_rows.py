"""Recurrent layers as loop kernels of any float type: one task per direction and sequence, its states in scratch.

    for t:  for each gate: sum = b + W x[t] + R h;    for each unit: the cell;    y[t] = h
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Cast, Const, Expr, For, Let, Load, LoopKind, Ref, Select, Stmt, Store, Update, Var, add
from lepton.codegen.loops import i64 as whole
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import offset, sub, unflatten
from lepton.codegen.lower.recurrent import COUNT, USUAL
from lepton.codegen.lower.scalar import ap
from lepton.ir.core import Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import product
from lepton.ir.ops.recurrent import ACTIVATIONS, DIRECTIONS
from lepton.ir.types import DType

Formula = Callable[[Expr, Expr, Expr], Expr]   # of x, alpha, beta


def recurrent_rows(group: Group, options: LowerOptions) -> Kernel:
    """All steps of all directions of an lstm, gru or rnn."""
    node = group.anchor
    assert node is not None
    if group.body.outputs != node.results:
        raise UnsupportedError(f"{node.op.name} with ops fused behind it is not supported",
                               where=node.loc[0] if node.loc else None)
    if len(node.inputs) > COUNT[node.op.name]:
        raise UnsupportedError(f"{node.op.name} with weights in i8 is not supported here",
                               where=node.loc[0] if node.loc else None)
    return {"lstm": _Lstm, "gru": _Gru, "rnn": _Rnn}[node.op.name](group).kernel()


class _Cell(Anchored):
    gates = 1

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        names = ("x", "w", "r", "b", "lens", "h0", "c0", "p")
        self.inputs: dict[str, Value | None] = dict(
            zip(names, (*self.node.inputs, *(None,) * len(names)), strict=False))
        x = self.needed("x")
        self.dtype, self.attrs = widened(x.tensor.dtype), self.node.attrs
        self.first = self.attrs["layout"] == 0
        self.steps, self.batch = x.tensor.shape[:2] if self.first else x.tensor.shape[1::-1]
        self.hidden, self.length = int(self.attrs["hidden"]), x.tensor.shape[2]
        self.backwards = DIRECTIONS[self.attrs["direction"]]
        self.sums = self.nest.scratch(self.dtype, self.gates * self.hidden)
        self.states = [self.nest.scratch(self.dtype, self.hidden) for _ in self.node.results[1:]]
        self.later = self.nest.scratch(self.dtype, self.hidden)    # what h will be, where h is still read

    def needed(self, name: str) -> Value:
        value = self.inputs[name]
        assert value is not None
        return value

    # --- the kernel --------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        nest, shape = self.nest, (len(self.backwards), self.batch)
        task, step = nest.var("t"), nest.var("s")
        self.d, self.n = unflatten(task, shape, nest)
        lens = self.inputs["lens"]
        length = nest.size(self.steps) if lens is None else Cast(self.element(lens, [self.n]), DType.I64)
        end, alive, time = nest.var("end"), Ref(nest.fresh("alive"), DType.BOOL), nest.var("time")
        self.alive, self.time = alive, time
        back = sub(Ref(end.name, DType.I64), add(step, whole(1)))
        turned: Expr = step if not any(self.backwards) else back if all(self.backwards) else Select(
            ap("equal", self.d, whole(0)), step, back)
        one = For(step.name, nest.size(self.steps), (
            Let(alive.name, ap("less", step, end)), Let(time.name, Select(alive, turned, step)), *self.step(),
            self.each(lambda j: self.row(j))))
        body = (Let(end.name, length), self.each(self.begin), one, self.each(self.end))
        sizes = product((2, self.steps, *shape, self.gates * self.hidden, self.length + self.hidden))
        return nest.kernel((For(task.name, whole(0), body, LoopKind.TASKS),), product(shape),
                           writes=self.group.outputs, flops=sizes)

    def step(self) -> list[Stmt]:
        """From the states to the next ones."""
        raise NotImplementedError

    def each(self, body: Callable[[Expr], Sequence[Stmt]], count: int = 1) -> Stmt:
        """For every unit, of `count` gates."""
        j = self.nest.var("j")
        return For(j.name, whole(count * self.hidden), tuple(body(j)), LoopKind.VECTOR)

    def at(self, *coords: Expr) -> list[Expr]:
        """Coordinates of a state: (d, n, …), or (n, d, …)."""
        d, n, *more = coords
        return [d, n, *more] if self.first else [n, d, *more]

    def begin(self, j: Expr) -> list[Stmt]:
        found: list[Stmt] = []
        for state, name in zip(self.states, ("h0", "c0"), strict=False):
            initial = self.inputs[name]
            value = self.zero if initial is None else self.element(initial, self.at(self.d, self.n, j))
            found.append(Store(state, j, value))
        return found

    def row(self, j: Expr) -> list[Stmt]:
        coords = [self.time, self.d, self.n, j] if self.first else [self.n, self.time, self.d, j]
        return [self.put(0, coords, Select(self.alive, self.state(0, j), self.zero))]

    def end(self, j: Expr) -> list[Stmt]:
        return [self.put(1 + i, self.at(self.d, self.n, j), self.state(i, j)) for i in range(len(self.states))]

    def put(self, i: int, coords: Sequence[Expr], value: Expr) -> Stmt:
        place = self.group.body.outputs.index(self.node.results[i])
        strides = self.group.accesses[self.group.outputs[place]].strides
        return Store(self.targets[place], offset(coords, strides, self.nest), value)

    # --- parts of a step ---------------------------------------------------------------------------

    @property
    def zero(self) -> Expr:
        return Const(0.0, self.dtype)

    def state(self, i: int, j: Expr) -> Expr:
        return Load(self.states[i], j, self.dtype)

    def gate(self, i: int, j: Expr) -> Expr:
        return Load(self.sums, add(j, whole(i * self.hidden)), self.dtype)

    def kept(self, i: int, j: Expr, value: Expr) -> Stmt:
        """The next state, unless the sequence is over."""
        return Store(self.states[i], j, Select(self.alive, value, self.state(i, j)))

    def bias(self, g: Expr, of_state: bool) -> Expr:
        b, skipped = self.inputs["b"], whole(self.gates * self.hidden if of_state else 0)
        return self.zero if b is None else self.element(b, [self.d, add(g, skipped)])

    def sum(self, g: Expr, *, of_state: bool, start: Expr | None = None, source: str = "") -> tuple[list[Stmt], Ref]:
        """What the input, or the state (or `source` in its place), gives a gate, on top of `start` and its bias."""
        total, k = Ref(self.nest.fresh("sum"), self.dtype), self.nest.var("k")
        first = self.bias(g, of_state)
        matrix = self.needed("r" if of_state else "w")
        x = [self.time, self.n, k] if self.first else [self.n, self.time, k]
        value = Load(source or self.states[0], k, self.dtype) if of_state else self.element(self.needed("x"), x)
        term = ap("mul", value, self.element(matrix, [self.d, g, k]))
        extent = whole(self.hidden) if of_state else self.nest.size(self.length)
        return [Var(total.name, first if start is None else ap("add", start, first)),
                For(k.name, extent, (Update(total.name, "add", term),))], total

    def sums_of(self, count: int) -> Stmt:
        """The whole sums of the first gates."""
        def one(g: Expr) -> list[Stmt]:
            of_input, own = self.sum(g, of_state=False)
            of_state, both = self.sum(g, of_state=True, start=own)
            return [*of_input, *of_state, Store(self.sums, g, both)]

        return self.each(one, count)

    def named(self, stem: str, value: Expr, lets: list[Stmt]) -> Ref:
        lets.append(Let(self.nest.fresh(stem), value))
        last = lets[-1]
        assert isinstance(last, Let)
        return Ref(last.name, value.dtype)

    def activation(self, slot: int, x: Expr, lets: list[Stmt]) -> Ref:
        """The layer's function at `slot`, of each direction its own."""
        usual = USUAL[self.node.op.name]
        x = self.named("x", self.clipped(x), lets)
        made = [self.function(d * len(usual) + slot, usual[slot], x) for d in range(len(self.backwards))]
        same = all(m == made[0] for m in made)
        value = made[0] if same else Select(ap("equal", self.d, whole(0)), made[0], made[1])
        return self.named("f", value, lets)

    def function(self, place: int, usual: str, x: Expr) -> Expr:
        names, alphas, betas = (self.attrs[k] for k in ("activations", "alphas", "betas"))
        name = names[place] if names else usual
        _, alpha, beta = ACTIVATIONS[name]
        return FORMULAS[name](x, self.number(alphas[place] if alphas else alpha),
                              self.number(betas[place] if betas else beta))

    def clipped(self, x: Expr) -> Expr:
        clip = float(self.attrs["clip"])
        return ap("minimum", ap("maximum", x, self.number(-clip)), self.number(clip)) if clip > 0 else x

    def number(self, value: float) -> Expr:
        return Const(float(value), self.dtype)


class _Rnn(_Cell):
    def step(self) -> list[Stmt]:
        def cell(j: Expr) -> list[Stmt]:
            lets: list[Stmt] = []
            value = self.activation(0, self.gate(0, j), lets)
            return [*lets, self.kept(0, j, value)]

        return [self.sums_of(1), self.each(cell)]


class _Lstm(_Cell):
    gates = 4

    def step(self) -> list[Stmt]:
        return [self.sums_of(4), self.each(self.cell)]

    def cell(self, j: Expr) -> list[Stmt]:
        """Gates lie as i, o, f, c; peepholes as i, o, f."""
        lets: list[Stmt] = []
        c = self.named("c", self.state(1, j), lets)
        i = self.activation(0, self.peeped(0, j, c), lets)
        forget: Expr = (ap("sub", self.number(1), i) if self.attrs["input_forget"]
                        else self.activation(0, self.peeped(2, j, c), lets))
        g = self.activation(1, self.gate(3, j), lets)
        new = self.named("c", ap("add", ap("mul", forget, c), ap("mul", i, g)), lets)
        o = self.activation(0, self.peeped(1, j, new), lets)
        out = self.activation(2, new, lets)
        return [*lets, self.kept(0, j, ap("mul", o, out)), self.kept(1, j, new)]

    def peeped(self, gate: int, j: Expr, c: Expr) -> Expr:
        p = self.inputs["p"]
        if p is None:
            return self.gate(gate, j)
        weight = self.element(p, [self.d, add(j, whole(gate * self.hidden))])
        return ap("add", self.gate(gate, j), ap("mul", weight, c))


class _Gru(_Cell):
    gates = 3

    def step(self) -> list[Stmt]:
        """Gates lie as z, r, h."""
        late = bool(self.attrs["linear_before_reset"])
        settle = self.each(lambda j: [self.kept(0, j, Load(self.later, j, self.dtype))])
        return [self.sums_of(2), self.each(lambda j: self.reset(j, late)), self.each(lambda j: self.cell(j, late)),
                settle]

    def reset(self, j: Expr, late: bool) -> list[Stmt]:
        """r in its gate's place; r∘h in the candidate's."""
        lets: list[Stmt] = []
        r = self.activation(0, self.gate(1, j), lets)
        inner: Expr = r if late else ap("mul", r, self.state(0, j))
        return [*lets, Store(self.sums, add(j, whole(2 * self.hidden)), inner)]

    def cell(self, j: Expr, late: bool) -> list[Stmt]:
        lets: list[Stmt] = []
        g = add(j, whole(2 * self.hidden))
        of_input, own = self.sum(g, of_state=False)
        if late:
            of_state, inner = self.sum(g, of_state=True)
            total: Expr = ap("add", own, ap("mul", self.gate(2, j), inner))
        else:
            of_state, total = self.candidate(g, own)
        n = self.activation(1, total, lets)
        z = self.activation(0, self.gate(0, j), lets)
        new = ap("add", ap("mul", ap("sub", self.number(1), z), n), ap("mul", z, self.state(0, j)))
        return [*of_input, *of_state, *lets, Store(self.later, j, new)]

    def candidate(self, g: Expr, own: Ref) -> tuple[list[Stmt], Ref]:
        """The sum over r∘h, which lies behind the first two gates."""
        total, k = Ref(self.nest.fresh("sum"), self.dtype), self.nest.var("k")
        term = ap("mul", self.gate(2, k), self.element(self.needed("r"), [self.d, g, k]))
        return [Var(total.name, ap("add", own, self.bias(g, True))),
                For(k.name, whole(self.hidden), (Update(total.name, "add", term),))], total


def _one(x: Expr) -> Expr:
    return Const(1.0, x.dtype)


def _zero(x: Expr) -> Expr:
    return Const(0.0, x.dtype)


FORMULAS: dict[str, Formula] = {
    "sigmoid": lambda x, a, b: ap("sigmoid", x),
    "tanh": lambda x, a, b: ap("tanh", x),
    "relu": lambda x, a, b: ap("maximum", x, _zero(x)),
    "affine": lambda x, a, b: ap("add", ap("mul", a, x), b),
    "leaky_relu": lambda x, a, b: Select(ap("greater_equal", x, _zero(x)), x, ap("mul", a, x)),
    "thresholded_relu": lambda x, a, b: Select(ap("greater", x, a), x, _zero(x)),
    "scaled_tanh": lambda x, a, b: ap("mul", a, ap("tanh", ap("mul", b, x))),
    "hard_sigmoid": lambda x, a, b: ap("minimum", ap("maximum", ap("add", ap("mul", a, x), b), _zero(x)), _one(x)),
    "elu": lambda x, a, b: Select(ap("greater_equal", x, _zero(x)), x,
                                  ap("mul", a, ap("expm1", ap("minimum", x, _zero(x))))),
    "softsign": lambda x, a, b: ap("div", x, ap("add", _one(x), ap("abs", x))),
    "softplus": lambda x, a, b: ap("add", ap("maximum", x, _zero(x)),
                                   ap("log1p", ap("exp", ap("neg", ap("abs", x))))),
}
