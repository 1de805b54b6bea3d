"""The op set. Importing this folder fills `lepton.ir.op.OPS`; every op is a name here: `ops.add(x, y)`."""
from __future__ import annotations

from lepton.ir.ops.activation import (
    celu,
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    mish,
    relu,
    selu,
    shrink,
    sigmoid,
    softplus,
    softsign,
    swish,
    thresholded_relu,
)
from lepton.ir.ops.control import fusion, if_, loop_, scan
from lepton.ir.ops.conv import conv, conv_integer, conv_transpose
from lepton.ir.ops.coupling import couple_pairs
from lepton.ir.ops.elementwise import (
    abs_,
    add,
    bitcast,
    cast,
    ceil,
    clip,
    div,
    floor,
    maximum,
    minimum,
    mod,
    mul,
    neg,
    pow_,
    prelu,
    round_,
    sign,
    sub,
    where,
)
from lepton.ir.ops.image import decode_image
from lepton.ir.ops.index import (
    gather,
    gather_elements,
    gather_nd,
    non_zero,
    one_hot,
    scatter_elements,
    scatter_nd,
    top_k,
)
from lepton.ir.ops.linalg import det
from lepton.ir.ops.logic import (
    bit_and,
    bit_not,
    bit_or,
    bit_xor,
    equal,
    greater,
    greater_equal,
    is_inf,
    is_nan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    shift_left,
    shift_right,
)
from lepton.ir.ops.math import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    cos,
    cosh,
    erf,
    exp,
    expm1,
    log,
    log1p,
    reciprocal,
    rsqrt,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
)
from lepton.ir.ops.matmul import attention, matmul, matmul_coded, matmul_integer
from lepton.ir.ops.movement import concat, pad, trilu
from lepton.ir.ops.norm import batch_norm, group_norm, instance_norm, layer_norm, lrn, rms_norm
from lepton.ir.ops.pool import avg_pool, lp_pool, max_pool, max_pool_indices
from lepton.ir.ops.quant import dequantize, dynamic_quantize, quantize, to_level
from lepton.ir.ops.random_ import draw_state, random_normal, random_uniform
from lepton.ir.ops.recurrent import gru, lstm, rnn
from lepton.ir.ops.reduce import (
    arg_max,
    arg_min,
    cumprod,
    cumsum,
    hardmax,
    log_softmax,
    reduce_max,
    reduce_mean,
    reduce_min,
    reduce_prod,
    reduce_sum,
    softmax,
)
from lepton.ir.ops.resize import resize
from lepton.ir.ops.shape import (
    broadcast_to,
    constant,
    iota,
    range_,
    read_sizes,
    reshape,
    shape_values,
    slice_,
    transpose,
)
from lepton.ir.ops.sort import sort_rows
from lepton.ir.ops.strings import (
    number_to_string,
    regex_full_match,
    string_case,
    string_concat,
    string_rank,
    string_split,
    string_to_number,
)
from lepton.ir.ops.trees import tree_ensemble

__all__ = [
    "abs_", "acos", "acosh", "add", "arg_max", "arg_min", "asin", "asinh", "atan", "atanh", "attention", "avg_pool",
    "batch_norm", "bit_and", "bit_not", "bit_or", "bit_xor", "bitcast", "broadcast_to", "cast", "ceil", "celu", "clip",
    "concat", "constant", "conv", "conv_integer", "conv_transpose", "cos", "cosh", "couple_pairs", "cumprod", "cumsum",
    "decode_image", "dequantize", "det", "div", "draw_state", "dynamic_quantize", "elu", "equal", "erf", "exp", "expm1",
    "floor", "fusion", "gather", "gather_elements", "gather_nd", "gelu", "greater", "greater_equal", "group_norm",
    "gru", "hard_sigmoid", "hard_swish", "hardmax", "if_", "instance_norm", "iota", "is_inf", "is_nan", "layer_norm",
    "leaky_relu", "less", "less_equal", "log", "log1p", "log_softmax", "logical_and", "logical_not", "logical_or",
    "logical_xor", "loop_", "lp_pool", "lrn", "lstm", "matmul", "matmul_coded", "matmul_integer", "max_pool",
    "max_pool_indices", "maximum", "minimum", "mish", "mod", "mul", "neg", "non_zero", "number_to_string", "one_hot",
    "pad", "pow_", "prelu", "quantize", "random_normal", "random_uniform", "range_", "read_sizes", "reciprocal",
    "reduce_max", "reduce_mean", "reduce_min", "reduce_prod", "reduce_sum", "regex_full_match", "relu", "reshape",
    "resize", "rms_norm", "rnn", "round_", "rsqrt", "scan", "scatter_elements", "scatter_nd", "selu", "shape_values",
    "shift_left", "shift_right", "shrink", "sigmoid", "sign", "sin", "sinh", "slice_", "softmax", "softplus",
    "softsign", "sort_rows", "sqrt", "string_case", "string_concat", "string_rank", "string_split", "string_to_number",
    "sub", "swish", "tan", "tanh", "thresholded_relu", "to_level", "top_k", "transpose", "tree_ensemble", "trilu",
    "where",
]
