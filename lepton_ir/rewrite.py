"""Rewrite rules as data, and the worklist that applies them.

    x, w, b = var("x w b")

    @rule(pat(ops.add)(pat(ops.matmul)(x, w).once, b))
    def matmul_bias(x: Value, w: Value, b: Value) -> Value | None:
        '''matmul(x, w) + b  ->  linear(x, w, b)'''
        return linear(x, w, b) if b.tensor.shape == w.tensor.shape[-1:] else None

A rule never loops and never traverses; it says what the root of the match becomes (None: matched, but no; a tuple for
a root with several results). It builds nodes by calling ops and leaves existing ones alone.
"""
from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, get_args

from lepton.ir.core import Graph, Node, User, Value
from lepton.ir.diagnostics import Exit, LeptonError, VerifyError
from lepton.ir.op import Op
from lepton.ir.pattern import Match, Pat, capture, const, opt, pat, read_once, rest, splat, tensor_of, var
from lepton.ir.sample import Accuracy, difference, random_run
from lepton.ir.types import TensorType, Type

__all__ = ["Accuracy", "Match", "Pat", "Replacement", "Rule", "apply", "capture", "const", "opt", "pat", "read_once",
           "rest", "rule", "splat", "sweep", "tensor_of", "var"]

Replacement: TypeAlias = Value | Sequence[Value | None] | None


@dataclass(frozen=True)
class Rule:
    """Patterns, and what the root of a match becomes. `accuracy` says how far results may move."""

    patterns: tuple[Pat, ...]
    build: Callable[..., Replacement]
    accuracy: Accuracy = "exact"

    @property
    def name(self) -> str:
        return self.build.__name__

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.build) or ""


def rule(*patterns: Pat, accuracy: Accuracy = "exact") -> Callable[[Callable[..., Replacement]], Rule]:
    """Make a rule of a function whose parameters are the patterns' names and whose docstring is `before -> after`.

    Raises ValueError if they are not: a misspelt name would otherwise show at the first match only."""
    if accuracy not in get_args(Accuracy):
        raise ValueError(f"accuracy {accuracy!r}")

    def declare(build: Callable[..., Replacement]) -> Rule:
        wanted = frozenset(inspect.signature(build).parameters)
        for pattern in patterns:
            if pattern.names != wanted:
                binds = sorted(pattern.names)
                raise ValueError(f"rule {build.__name__} takes {sorted(wanted)}, its pattern binds {binds}")
        if "->" not in (inspect.getdoc(build) or "").split("\n")[0]:
            raise ValueError(f"rule {build.__name__}: the docstring begins with `before -> after`")
        return Rule(patterns, build, accuracy)

    return declare


def apply(
    graph: Graph, rules: Iterable[Rule], *, max_rewrites: int | None = None, check: bool = False
) -> dict[str, int]:
    """Apply the rules anywhere in the graph and its regions until none fires; how often each did.

    Earlier rules win over later ones at the same node. `check` runs the graph before and after each rewrite on random
    inputs. Raises LeptonError, naming the rules, after `max_rewrites` (default: 1000 and 64 for each node), and
    VerifyError if a rule changes a type or, under `check`, the meaning."""
    driver = _Driver(tuple(rules), max_rewrites, check)
    sweep(graph)
    while driver.round(graph):
        pass
    sweep(graph)
    return dict(driver.counts)


def sweep(graph: Graph) -> int:
    """Let go of nodes that read values of the graph but lead to no output; how many there were.

    Passes and frontends that build nodes and then do not use them leave such readers behind; they cost nothing but
    make a value look as if it was read more often than it is."""
    nodes = graph.nodes
    live: set[User] = {graph.ret, graph.definers, *nodes}
    dropped = 0
    for value in (*graph.inputs, *(r for n in nodes for r in n.results)):
        for use in tuple(value.uses):
            if use.user not in live and use in value.uses:
                use.user.drop()
                dropped += 1
    return dropped + sum(sweep(region) for node in nodes for region in node.regions)


class _Driver:
    """The state of one `apply`."""

    def __init__(self, rules: tuple[Rule, ...], max_rewrites: int | None, check: bool) -> None:
        self.rules, self.limit, self.check = rules, max_rewrites, check
        self.depth = max((p.depth for r in rules for p in r.patterns), default=1)
        self.by_op: dict[Op, tuple[tuple[Rule, Pat], ...]] = {}
        self.counts: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=64)

    def round(self, graph: Graph) -> int:
        """Work through the graph and its regions once; how many rewrites were made.

        The worklist follows each rewrite to whatever it may enable. Conditions inside rules can depend on more than it
        knows of, hence `apply` calls this until nothing happens."""
        nodes = graph.nodes
        if self.limit is None:
            self.limit = 1000 + 64 * len(nodes)
        fired = sum(self.round(region) for node in nodes for region in node.regions)
        return fired + _Round(self, graph, nodes).run()

    def candidates(self, op: Op) -> tuple[tuple[Rule, Pat], ...]:
        """The rules whose root may be a node of this op."""
        if op not in self.by_op:
            self.by_op[op] = tuple((r, p) for r in self.rules for p in r.patterns if p.accepts(op))
        return self.by_op[op]

    def count(self, rule: Rule) -> None:
        self.counts[rule.name] += 1
        self.recent.append(rule.name)
        assert self.limit is not None
        if self.counts.total() > self.limit:
            often = ", ".join(f"{name} ({n} times)" for name, n in self.counts.most_common() if name in self.recent)
            raise LeptonError(f"rewriting does not end: {often}", exit=Exit.INTERNAL,
                              help="two rules undo each other, or one makes what it matches")


class _Round:
    """The worklist over one graph."""

    def __init__(self, driver: _Driver, graph: Graph, nodes: tuple[Node, ...]) -> None:
        self.driver = driver
        self.ports = {*graph.inputs, *graph.outputs}
        self.queue, self.queued = deque(nodes), set(nodes)
        self.known: set[User] = set(nodes)  # every node of the graph, also those that have gone
        self.tester = _Tester(graph) if driver.check else None

    def run(self) -> int:
        fired = 0
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(node)
            fired += self.visit(node)
        return fired

    def visit(self, node: Node) -> bool:
        """Apply the first rule that fires at `node`."""
        if not any(r.uses for r in node.results):
            return False
        for rule, pattern in self.driver.candidates(node.op):
            if pattern.index is not None and not node.results[pattern.index].uses:
                continue
            for match in pattern.matches(node):
                if self.fire(rule, pattern, match):
                    return True
        return False

    def fire(self, rule: Rule, pattern: Pat, match: Match) -> bool:
        root = match.nodes[0]
        seen = _values(match)
        readers = {v: len(v.uses) for v in seen}
        built = rule.build(**match.bound)
        pairs = [(old, new) for old, new in _pairs(rule, root, pattern, built) if new is not old]
        if not pairs or not all(_same_type(rule, old, new) for old, new in pairs):
            self.forget(readers, set())
            return False
        fresh = self.fresh([new for _, new in pairs])
        self.forget(readers, fresh)
        self.known |= fresh
        loc = tuple(dict.fromkeys(place for node in match.nodes for place in node.loc))
        for node in fresh:
            if isinstance(node, Node):
                node.loc = node.loc or loc
        moved = [use.user for old, _ in pairs for use in old.uses if use.user not in fresh]
        for old, new in pairs:
            self.substitute(old, new, fresh)
        self.driver.count(rule)
        if self.tester:
            self.tester.compare(rule)
        self.enqueue([*fresh, *(new.producer for _, new in pairs if new.producer is not None)],
                     [*moved, *(use.user for v in seen if len(v.uses) == 1 for use in v.uses)])
        return True

    def substitute(self, old: Value, new: Value, fresh: set[User]) -> None:
        """Readers of `old` read `new`; those among the new nodes wrap the old value and keep it."""
        if old in self.ports:
            if old.name and new not in self.ports:
                new.name, old.name = old.name, None  # an output keeps the name callers know it by
            self.ports.add(new)
        old.replace_with(new, keep=fresh)

    def fresh(self, values: Iterable[Value]) -> set[User]:
        """The nodes behind `values` that the rule has just made."""
        found: set[User] = set()
        todo = [v.producer for v in values]
        while todo:
            node = todo.pop()
            if node is not None and node not in self.known and node not in found:
                found.add(node)
                todo += [v.producer for v in node.inputs if v is not None]
        return found

    def forget(self, readers: Mapping[Value, int], kept: set[User]) -> None:
        """Drop what the rule built and did not use."""
        for value, count in readers.items():
            for use in tuple(islice(reversed(value.uses), len(value.uses) - count)):  # uses are in order of creation
                if use.user not in kept:
                    use.user.drop()

    def enqueue(self, fresh: Sequence[User], readers: Sequence[User]) -> None:
        """Look again at what is new, and at what reads something else now or may be the only reader of something:
        those nodes, and as many levels above them as patterns are deep."""
        nodes, level = list(fresh), list(dict.fromkeys(readers))
        for _ in range(self.driver.depth):
            nodes += level
            above = (use.user for n in level if isinstance(n, Node) for r in n.results for use in r.uses)
            level = list(dict.fromkeys(above))
        for node in nodes:
            if isinstance(node, Node) and node not in self.queued:
                self.queued.add(node)
                self.queue.append(node)


class _Tester:
    """Runs a graph on fixed random inputs after each rewrite."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inputs, self.want = random_run(graph)

    def compare(self, rule: Rule) -> None:
        from lepton.ir.evaluate import evaluate  # evaluate needs the op set, and rules are wanted without it

        got = evaluate(self.graph, *self.inputs)
        if text := difference(self.want, got, rule.accuracy):
            raise VerifyError(f"rule {rule.name} changed the meaning: {text}", help=rule.doc, exit=Exit.INTERNAL)
        self.want = got


def _values(match: Match) -> list[Value]:
    """The values a match touches: those bound, and operands and results of the covered nodes."""
    bound = [v for b in match.bound.values() for v in (b if isinstance(b, tuple) else (b,)) if isinstance(v, Value)]
    near = [v for n in match.nodes for v in (*n.inputs, *n.results) if v is not None]
    return list(dict.fromkeys([*bound, *near]))


def _pairs(rule: Rule, root: Node, pattern: Pat, built: Replacement) -> list[tuple[Value, Value]]:
    """(old, new) for each result that is replaced."""
    if built is None:
        return []
    olds = root.results if pattern.index is None else (root.results[pattern.index],)
    news = (built,) if isinstance(built, Value) else tuple(built)
    if len(olds) != len(news):
        raise VerifyError(f"rule {rule.name} gives {len(news)} values for {len(olds)} results of {root.op.name}",
                          exit=Exit.INTERNAL)
    return [(old, new) for old, new in zip(olds, news, strict=True) if new is not None]


def _same_type(rule: Rule, old: Value, new: Value) -> bool:
    """Whether `new` may stand for `old`. False for sizes that may be equal but are not provably so: the rewrite is not
    made then. Raises VerifyError where the types can never be equal: the rule is wrong."""
    if old.type == new.type:
        return True
    if _may_agree(old.type, new.type):
        return False
    where = old.producer.loc[0] if old.producer and old.producer.loc else None
    raise VerifyError(f"rule {rule.name} replaces {old.type} by {new.type}", where=where, help=rule.doc,
                      exit=Exit.INTERNAL)


def _may_agree(a: Type, b: Type) -> bool:
    if not (isinstance(a, TensorType) and isinstance(b, TensorType)) or a.dtype is not b.dtype or a.rank != b.rank:
        return False
    return all(x == y or not isinstance(x - y, int) for x, y in zip(a.shape, b.shape, strict=True))
