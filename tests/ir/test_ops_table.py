"""Every op's record is complete: a manual page, keywords that fit, a test case, a public name."""
from __future__ import annotations

import inspect

import pytest

from lepton.ir import ops
from lepton.ir.op import OPS, Op, Trait
from tests.ir.ops_table import CASES

TESTED_ELSEWHERE = {"fusion", "if", "loop", "scan",                        # test_ops_control.py
                    "draw_state", "random_normal", "random_uniform"}       # test_draws.py


@pytest.fixture(params=[name for name in OPS if OPS[name].reference.__module__.startswith("lepton.ir.ops")])
def op(request: pytest.FixtureRequest) -> Op:
    return OPS[request.param]


def test_has_a_manual_page(op: Op) -> None:
    assert len(op.doc.split()) >= 2 or op.doc.endswith(".")
    assert op.doc[-1] in ".)"


def test_keywords_fit_the_type_rule(op: Op) -> None:
    """The rule takes exactly what the reference takes: by name, or by **rest."""
    rule = inspect.signature(op.infer).parameters.values()
    named = {p.name for p in rule if p.kind is p.KEYWORD_ONLY}
    attributes = set(op.attributes) | ({"regions"} if op.has(Trait.REGIONS) else set())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in rule)
    # A family's rule may know keywords that not every member has, with defaults.
    optional = {p.name for p in rule if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    assert named - optional <= attributes, named - attributes
    assert open_ended or attributes <= named, attributes - named


def test_operands_fit_the_type_rule(op: Op) -> None:
    rule = [p for p in inspect.signature(op.infer).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_POSITIONAL for p in rule):
        return
    least, most = op.arity
    fixed = [p for p in rule if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert most == len(fixed)
    assert least == sum(p.default is p.empty for p in fixed)


def test_has_a_case(op: Op) -> None:
    assert op.name in TESTED_ELSEWHERE or any(case.op == op.name for case in CASES)


def test_is_public(op: Op) -> None:
    names = [name for name in ops.__all__ if getattr(ops, name) is op]
    assert [name.rstrip("_") for name in names] == [op.name]


def test_elementwise_ops_have_no_axes(op: Op) -> None:
    """What the trait promises: nothing in the attributes speaks of places."""
    if op.has(Trait.ELEMENTWISE):
        assert not {"axis", "axes", "perm", "shape", "layout"} & set(op.attributes)
    if op.has(Trait.REDUCTION):
        assert {"axes", "keepdims"} <= set(op.attributes)
    if op.has(Trait.CONSTANT):
        assert op.arity == (0, 0)
