"""Vector math for f32 from polynomials; scalar libm calls, lane by lane, for f64 and for what is rarely hot.

Every function takes and gives f32 vectors (or scalars). Measured worst errors in ulp over all magnitudes stand with
each and are checked by tests/codegen/test_math.py. All are right at the borders: overflow, denormals, infinities, -0.0;
NaN gives NaN. Without fused multiply-add the same polynomials run on mul and add (the constants are split so that the
range reductions stay exact), an ulp or so worse.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton.codegen.llvm.builder import Function, Val, element_of, lanes_of, literal, mangle, vec

INF = float("inf")


class F32:
    """f32 arithmetic on `lanes` lanes."""

    def __init__(self, f: Function, lanes: int, fused: bool) -> None:
        self.f, self.lanes, self.fused = f, lanes, fused
        self.type, self.int_type = vec(lanes, "float"), vec(lanes, "i32")

    def c(self, value: float) -> Val:
        return literal(self.type, value)

    def i(self, value: int) -> Val:
        return literal(self.int_type, value)

    def add(self, a: Val, b: Val) -> Val:
        return self.f.op("fadd", a, b)

    def sub(self, a: Val, b: Val) -> Val:
        return self.f.op("fsub", a, b)

    def mul(self, a: Val, b: Val) -> Val:
        return self.f.op("fmul", a, b)

    def div(self, a: Val, b: Val) -> Val:
        return self.f.op("fdiv", a, b)

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        """a * b + c."""
        if self.fused:
            return self.f.call(self.type, f"llvm.fma.{mangle(self.type)}", [a, b, c])
        return self.add(self.mul(a, b), c)

    def horner(self, x: Val, coefficients: Sequence[float]) -> Val:
        """The polynomial with these coefficients, highest power first."""
        p = self.c(coefficients[0])
        for k in coefficients[1:]:
            p = self.fma(p, x, self.c(k))
        return p

    def neg(self, a: Val) -> Val:
        return self.f.value(a.type, f"fneg {a}")

    def abs(self, a: Val) -> Val:
        return self.f.intrinsic("llvm.fabs", a)

    def where(self, kind: str, a: Val, b: Val, then: Val, otherwise: Val) -> Val:
        return self.f.select(self.f.compare(f"fcmp {kind}", a, b), then, otherwise)

    def at_most(self, x: Val, limit: float) -> Val:
        """min(x, limit); NaN stays."""
        return self.where("olt", self.c(limit), x, self.c(limit), x)

    def at_least(self, x: Val, limit: float) -> Val:
        return self.where("ogt", self.c(limit), x, self.c(limit), x)

    def bits(self, x: Val) -> Val:
        return self.f.convert("bitcast", x, self.int_type)

    def from_bits(self, x: Val) -> Val:
        return self.f.convert("bitcast", x, self.type)

    def power_of_two(self, n: Val) -> Val:
        """2**n for integers -126 <= n <= 127."""
        return self.from_bits(self.f.op("shl", self.f.op("add", n, self.i(127)), self.i(23)))

    def copysign(self, magnitude: Val, sign: Val) -> Val:
        return self.f.intrinsic("llvm.copysign", magnitude, sign)


LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4   # Cody and Waite: n * LN2_HIGH is exact
MAGIC = 12582912.0                                # 1.5 * 2**23: adding it rounds to an integer, found in the low bits
MAGIC_BITS = 0x4B400000
EXP_TAIL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
EXP = (1.38145809768e-3, 8.36872546761e-3, 4.16683888773e-2, 0.166665205609, 0.499999934434, 1.0, 1.0)  # to 3e-9


def _reduce_exp(m: F32, x: Val) -> tuple[Val, Val]:
    """(n + MAGIC, r): x = n * ln 2 + r with integer n and |r| <= ln(2) / 2. Shifted left by 23 bits, nothing is left of
    MAGIC's."""
    t = m.fma(x, m.c(1.44269504088896341), m.c(MAGIC))
    whole = m.sub(t, m.c(MAGIC))
    r = m.fma(whole, m.c(-LN2_HIGH), x)
    return t, m.fma(whole, m.c(-LN2_LOW), r)


def _integer(m: F32, t: Val) -> Val:
    """n of n + MAGIC, as i32."""
    return m.f.op("sub", m.bits(t), m.i(MAGIC_BITS))


def exp(m: F32, x: Val) -> Val:
    """e**x to 1.5 ulp; gradual underflow, overflow to inf."""
    x = m.at_least(m.at_most(x, 89.0), -104.0)
    t, r = _reduce_exp(m, x)
    n, p = _integer(m, t), m.horner(r, EXP)
    half = m.f.op("ashr", n, m.i(1))  # two factors: 2**n alone would not hold the ends of the range
    return m.mul(m.mul(p, m.power_of_two(half)), m.power_of_two(m.f.op("sub", n, half)))


def exp_negative(m: F32, x: Val) -> Val:
    """exp(x) for x <= 0, the same bits with a quarter fewer instructions: what a softmax needs."""
    t, r = _reduce_exp(m, m.at_least(x, -104.0))
    scale = m.f.op("add", m.f.op("shl", m.bits(t), m.i(23)), m.i((127 + 32) << 23))   # 2**(n + 32): never denormal
    return m.mul(m.mul(m.horner(r, EXP), m.from_bits(scale)), m.c(2.0**-32))


EXP2_TAIL = (1.3264720e-3, 9.6715139e-3, 5.5507330e-2, 2.4022242e-1, 6.9314700e-1, 1.0)   # minimax on [-0.5, 0.5]


def exp2_negative(m: F32, x: Val) -> Val:
    """2**x for x <= 0 to 2 ulp (2.5 without fma), denormals too: what a softmax needs, at half the price of `exp`."""
    t = m.add(x, m.c(MAGIC))
    p = m.horner(m.sub(x, m.sub(t, m.c(MAGIC))), EXP2_TAIL)
    scale = m.f.op("add", m.f.op("shl", m.bits(t), m.i(23)), m.i((127 + 24) << 23))  # nothing of MAGIC's bits is left
    return m.where("olt", x, m.c(-150.0), m.c(0.0), m.mul(m.mul(p, m.from_bits(scale)), m.c(2.0**-24)))


def expm1(m: F32, x: Val) -> Val:
    """exp(x) - 1 to 2 ulp."""
    clamped = m.at_least(m.at_most(x, 89.0), -18.0)
    t, r = _reduce_exp(m, clamped)
    n = _integer(m, t)
    p = m.fma(m.horner(r, EXP_TAIL), m.mul(r, r), r)
    scale = m.power_of_two(m.f.op("sub", n, m.i(1)))  # half of 2**n, which may be 2**128
    result = m.fma(p, scale, m.sub(scale, m.c(0.5)))
    near_zero = m.f.compare("icmp eq", n, m.i(0))
    return m.f.select(near_zero, m.where("oeq", x, m.c(0.0), x, p), m.add(result, result))


LOG_TAIL = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
            2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)


def log(m: F32, x: Val) -> Val:
    """ln x to 1.5 ulp; of 0: -inf, of x < 0: NaN."""
    f = m.f
    tiny = f.compare("fcmp olt", x, m.c(1.1754943508e-38))
    scaled = f.select(tiny, m.mul(x, m.c(8388608.0)), x)
    bits = m.bits(scaled)
    exponent = f.op("ashr", f.op("sub", bits, m.i(0x3F3504F3)), m.i(23))  # mantissa in [sqrt(1/2), sqrt(2))
    z = m.sub(m.from_bits(f.op("sub", bits, f.op("shl", exponent, m.i(23)))), m.c(1.0))
    exponent = f.op("sub", exponent, f.select(tiny, m.i(23), m.i(0)))
    e = f.convert("sitofp", exponent, m.type)
    square = m.mul(z, z)
    y = m.mul(m.mul(m.horner(z, LOG_TAIL), z), square)
    y = m.fma(square, m.c(-0.5), m.fma(e, m.c(LN2_LOW), y))
    y = m.fma(e, m.c(LN2_HIGH), m.add(z, y))
    y = m.where("oeq", x, m.c(INF), x, y)
    y = m.where("ult", x, m.c(0.0), m.c(float("nan")), y)
    return m.where("oeq", x, m.c(0.0), m.c(-INF), y)


def log1p(m: F32, x: Val) -> Val:
    """log(1 + x) to 3 ulp, for small x too."""
    u = m.add(m.c(1.0), x)
    lost = m.sub(x, m.sub(u, m.c(1.0)))  # what rounding u dropped
    y = m.add(log(m, u), m.div(lost, u))
    y = m.where("oeq", u, m.c(1.0), x, y)
    y = m.where("oeq", u, m.c(0.0), m.c(-INF), y)
    return m.where("oeq", x, m.c(INF), x, y)


def sigmoid(m: F32, x: Val) -> Val:
    """1 / (1 + exp(-x)) to 3 ulp; 0 below -88.38, where the result is denormal: exp(-x) takes one factor then, which is
    2**-126 at the least, as less is lost beside 1, and inf for 2**128."""
    x = m.neg(m.at_least(m.at_most(x, 87.0), -89.0))
    t, r = _reduce_exp(m, x)
    scale = m.from_bits(m.f.op("add", m.f.op("shl", m.bits(t), m.i(23)), m.i(127 << 23)))
    return m.div(m.c(1.0), m.fma(m.horner(r, EXP), scale, m.c(1.0)))


def _over_last(coefficients: Sequence[float], divisor: float) -> tuple[float, ...]:
    return tuple(k / divisor for k in coefficients)


# Odd and even rational approximation, as in Eigen (MPL 2.0), there from a minimax fit; here with a denominator that is
# 1 at 0, so that denormals pass.
TANH_Q = _over_last((1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
                    4.89352518554385e-03)
TANH_P = _over_last((-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
                     1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03), 4.89352518554385e-03)
TANH_IS_ONE = 9.125   # with and without fma: what is evaluated here, and for all beyond, is 1 exactly


def tanh(m: F32, x: Val) -> Val:
    """The hyperbolic tangent to 6 ulp (7 without fma), |result| <= 1."""
    return _rational(m, x, TANH_IS_ONE, TANH_P, TANH_Q)


ERF_Q = _over_last((-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
                    -1.42647390514189e-02), -1.42647390514189e-02)
ERF_P = _over_last((-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
                    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02), -1.42647390514189e-02)
ERF_IS_ONE = 4.0


def erf(m: F32, x: Val) -> Val:
    """The error function to 6 ulp, |result| <= 1; for use in gelu the absolute error, 3e-7, is what counts."""
    return _rational(m, x, ERF_IS_ONE, ERF_P, ERF_Q)


def _rational(m: F32, x: Val, limit: float, p: Sequence[float], q: Sequence[float]) -> Val:
    """x p(x^2) / q(x^2), but at most 1; x is clamped to where that is 1."""
    x = m.at_least(m.at_most(x, limit), -limit)
    z = m.mul(x, x)
    return m.at_least(m.at_most(m.div(m.mul(x, m.horner(z, p)), m.horner(z, q)), 1.0), -1.0)


VECTOR: dict[str, Callable[[F32, Val], Val]] = {
    "exp": exp, "exp_negative": exp_negative, "expm1": expm1, "log": log, "log1p": log1p, "sigmoid": sigmoid,
    "tanh": tanh, "erf": erf,
}

# What libm computes, one lane at a time: (name, operands). f32 appends an "f".
LIBM: dict[str, str] = {
    "exp": "exp", "exp_negative": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh", "erf": "erf",
    "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh",
    "cosh": "cosh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "pow": "pow", "fmod": "fmod",
}


def call_libm(f: Function, op: str, args: Sequence[Val]) -> Val:
    """Call the C library's function on every lane."""
    type = args[0].type
    element = element_of(type)
    name = LIBM[op] + ("f" if element == "float" else "")
    if lanes_of(type) == 1:
        return f.call(element, name, args)
    result = Val(type, "poison")
    for lane in range(lanes_of(type)):
        parts = [f.value(element, f"extractelement {a}, i64 {lane}") for a in args]
        one = f.call(element, name, parts)
        result = f.value(type, f"insertelement {result}, {one}, i64 {lane}")
    return result


def math_function(f: Function, op: str, args: Sequence[Val], fused: bool) -> Val:
    """`op` of VECTOR or LIBM on f32 or f64 operands of any number of lanes."""
    type = args[0].type
    if element_of(type) == "float" and op in VECTOR:
        return VECTOR[op](F32(f, lanes_of(type), fused), args[0])
    if op == "sigmoid":
        one = literal(type, 1.0)
        e = call_libm(f, "exp", [f.value(type, f"fneg {args[0]}")])
        return f.op("fdiv", one, f.op("fadd", one, e))
    return call_libm(f, op, args)

