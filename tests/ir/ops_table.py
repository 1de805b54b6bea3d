"""All test cases of all ops that hold no graphs; those are in test_ops_control.py."""
from __future__ import annotations

from tests.ir import ops_elementwise, ops_layers, ops_movement, ops_nn, ops_special, ops_strings

CASES = [*ops_elementwise.CASES, *ops_nn.CASES, *ops_movement.CASES, *ops_layers.CASES, *ops_special.CASES,
         *ops_strings.CASES]
