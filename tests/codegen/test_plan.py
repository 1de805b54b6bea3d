"""The plan: where values lie, what needs a copy, which sizes become guards; and that the result runs."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lepton.artifact import from_program
from lepton.codegen import lower as _lowerings  # noqa: F401
from lepton.codegen.build import build, plan_memory
from lepton.codegen.group import LowerOptions
from lepton.codegen.jit import Loaded
from lepton.codegen.plan import plan
from lepton.codegen.program import Program, StepKind, Storage
from lepton.codegen.target import native
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.evaluate import evaluate
from lepton.ir.op import OPS, op
from lepton.ir.ops.rules import same
from lepton.ir.parser import parse

OPTIONS = LowerOptions(native())


def program_of(text: str) -> tuple[Graph, Program]:
    graph = parse(text)
    program = plan(graph, OPTIONS)
    plan_memory(program)
    return graph, program


def check(text: str, *shapes: tuple[int, ...]) -> Program:
    """Compile, run, compare with the interpreter."""
    graph, program = program_of(text)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    loaded = Loaded(build([(program, OPTIONS.target)], ["{}"], linked=False))
    model = from_program(loaded.program, loaded.weights, keep_alive=loaded)
    got = model(*arrays)
    got = got if isinstance(got, tuple) else (got,)
    for g, e in zip(got, evaluate(graph, *arrays), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-5)
    return program


def names(program: Program) -> list[str]:
    return [s.name for s in program.steps]


def test_concat_is_written_in_place():
    program = check("""graph @g(%x: f32[2,3], %y: f32[2,5]) {
      %a = exp(%x)
      %b = neg(%y)
      %c = concat(%a, %b, axis=1)
      return %c
    }""", (2, 3), (2, 5))
    assert names(program) == ["exp", "neg"]


def test_concat_of_an_input_and_of_the_same_value_twice_copies():
    program = check("""graph @g(%x: f32[2,3]) {
      %a = exp(%x)
      %c = concat(%a, %x, %a, axis=0)
      return %c
    }""", (2, 3))
    assert names(program) == ["exp", "copy", "copy"]


def test_nested_concats_share_one_buffer():
    program = check("""graph @g(%x: f32[4,3]) {
      %a = exp(%x)
      %b = neg(%x)
      %ab = concat(%a, %b, axis=1)
      %c = abs(%ab)
      %abc = concat(%ab, %c, axis=1)
      %d = neg(%abc)
      return %d
    }""", (4, 3))
    assert "copy" not in names(program)


def test_views_cost_nothing():
    program = check("""graph @g(%x: f32[4,6]) {
      %a = reshape(%x, shape=(2,2,6))
      %b = slice_(%a, starts=(0,1,0), sizes=(2,1,6), steps=(1,1,1))
      %c = exp(%b)
      return %c
    }""".replace("slice_", "slice"), (4, 6))
    assert names(program) == ["exp"]


def test_returning_inputs_constants_and_one_value_twice():
    program = check("""graph @g(%x: f32[2,3]) {
      %a = exp(%x)
      %k = constant(value=dense<[1.0,2.0] : f32[2]>)
      return %x, %a, %a, %k
    }""", (2, 3))
    assert names(program).count("copy") == 3


def test_elementwise_results_overwrite_what_dies():
    program = check("""graph @g(%x: f32[64,64]) {
      %a = exp(%x)
      %b = transpose(%a, perm=(1,0))
      %c = exp(%b)
      %d = neg(%c)
      %e = transpose(%d, perm=(1,0))
      return %e
    }""", (64, 64))
    workspace = [b for b in program.buffers if b.storage is Storage.WORKSPACE]
    assert len(workspace) <= 3


def test_a_second_result_does_not_read_what_the_first_overwrote():
    program = check("""graph @g(%x: f32[40]) {
      %a = exp(%x)
      %b, %c = fusion(%x, %a, kind="map") {
        graph @body(%p: f32[40], %s: f32[40]) {
          %q = neg(%p)
          %r = exp(%s)
          return %q, %r
        }
      }
      %d = softmax(%b, axis=0)
      %e = softmax(%c, axis=0)
      return %d, %e
    }""", (40,))
    _, read, written, _ = next(s for s in program.steps if len(s.operands) == 4).operands
    assert read.buffer is written.buffer


def test_a_value_read_in_two_orders_is_not_overwritten():
    check("""graph @g(%x: f32[32,32]) {
      %a = exp(%x)
      %b = transpose(%a, perm=(1,0))
      %c = add(%a, %b)
      %d = neg(%c)
      return %d
    }""", (32, 32))


def test_branches_write_the_same_place():
    _, program = program_of("""graph @g(%c: bool[], %x: f32[3]) {
      %r = if(%c, %x) : f32[3] {
        graph @then(%a: f32[3]) {
          %b = exp(%a)
          return %b
        }
        graph @else(%a: f32[3]) {
          return %a
        }
      }
      return %r
    }""")
    assert [s.kind for s in program.steps if s.kind not in (StepKind.CALL, StepKind.CHECK)] == [
        StepKind.JUMP_IF_FALSE, StepKind.JUMP]
    assert names(program) == ["jump_if_false", "check", "exp", "jump", "check", "copy"]


def test_unequal_symbols_become_guards():
    _, program = program_of("""graph @g(%x: f32[N], %y: f32[M]) {
      %a = add(%x, %y)
      return %a
    }""")
    assert [(str(g.left), str(g.right)) for g in program.guards] == [("N", "M")]


@pytest.fixture
def unlowered() -> Iterator[None]:
    """An op that no code generator knows, for one test: other tests go through every op there is."""
    op(same(), name="unlowered")(lambda x: x)
    yield
    del OPS["unlowered"]


@pytest.mark.usefixtures("unlowered")
def test_what_cannot_be_compiled_is_named_at_once():
    with pytest.raises(UnsupportedError, match="2 nodes cannot be compiled"):
        program_of("""graph @g(%x: f32[3,4]) {
          %a = unlowered(%x)
          %b = unlowered(%a)
          %d = add(%b, %x)
          return %d
        }""")
