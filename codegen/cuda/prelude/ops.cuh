// Scalar operations of the loop IR, in C++ that NVRTC and g++ both take. Meanings are those of codegen/loops_run.py:
// integers wrap, division by zero gives 0, shifts by too much give 0 (or the sign), out-of-range casts are x86's.
// LP_MEMBER stands before static member functions. Nothing here is specific to a GPU but the functions of device.cuh / sim.hpp, which come before this file.
#define LP_FN template <class T> LP_INLINE

template <class T> struct lp_unsigned { typedef T type; };
template <> struct lp_unsigned<i8> { typedef u8 type; };
template <> struct lp_unsigned<i16> { typedef u16 type; };
template <> struct lp_unsigned<i32> { typedef u32 type; };
template <> struct lp_unsigned<i64> { typedef u64 type; };
template <class T> struct lp_is_float { static constexpr bool value = false; };
template <> struct lp_is_float<float> { static constexpr bool value = true; };
template <> struct lp_is_float<double> { static constexpr bool value = true; };
template <class T> struct lp_is_bool { static constexpr bool value = false; };
template <> struct lp_is_bool<bool> { static constexpr bool value = true; };
#define LP_FLOAT (lp_is_float<T>::value)
#define LP_SIGNED (T(-1) < T(0))
#define LP_U typename lp_unsigned<T>::type

// --- arithmetic ---
LP_FN T lp_add(T a, T b) { if constexpr (LP_FLOAT) return a + b; else return T(LP_U(LP_U(a) + LP_U(b))); }
LP_FN T lp_sub(T a, T b) { if constexpr (LP_FLOAT) return a - b; else return T(LP_U(LP_U(a) - LP_U(b))); }
LP_FN T lp_mul(T a, T b) {
  if constexpr (LP_FLOAT) return a * b;
  else if constexpr (sizeof(T) < 4) return T(LP_U(u32(LP_U(a)) * u32(LP_U(b))));  // u16 * u16 would be a signed int
  else return T(LP_U(a) * LP_U(b));
}
LP_FN T lp_neg(T a) { if constexpr (LP_FLOAT) return -a; else return T(LP_U(0) - LP_U(a)); }
LP_FN T lp_abs(T a) {
  if constexpr (LP_FLOAT) return lp_fabs(a);
  else if constexpr (LP_SIGNED) return a < 0 ? lp_neg(a) : a;
  else return a;
}
LP_FN T lp_sign(T a) {
  if constexpr (LP_FLOAT) return a > T(0) ? T(1) : a < T(0) ? T(-1) : a == T(0) ? T(0) : a;
  else if constexpr (LP_SIGNED) return a > 0 ? T(1) : a < 0 ? T(-1) : T(0);
  else return a != 0 ? T(1) : T(0);
}
LP_FN T lp_div(T a, T b) {
  if constexpr (LP_FLOAT) return a / b;
  else if constexpr (LP_SIGNED) return b == 0 ? T(0) : b == T(-1) ? lp_neg(a) : T(a / b);
  else return b == 0 ? T(0) : T(a / b);
}
LP_FN T lp_fmod_(T a, T b) {
  if constexpr (LP_FLOAT) return lp_fmod(a, b);
  else return b == 0 ? T(0) : lp_sub(a, lp_mul(lp_div(a, b), b));
}
LP_FN T lp_mod(T a, T b) {  // the sign of the divisor
  T rest = lp_fmod_(a, b);
  if constexpr (LP_FLOAT) {
    if (rest == T(0)) return lp_copysign(T(0), b);
    return (rest < T(0)) != (b < T(0)) && rest == rest ? rest + b : rest;
  } else if constexpr (LP_SIGNED) {
    return rest != 0 && (rest < 0) != (b < 0) ? lp_add(rest, b) : rest;
  } else return rest;
}
// Divisors are sizes: positive where the result counts, and no trap where they are 0.
LP_FN T lp_floordiv(T a, T b) { b = b < 1 ? T(1) : b; T q = a / b; return q - (a % b < 0); }
LP_FN T lp_floormod(T a, T b) { b = b < 1 ? T(1) : b; T r = a % b; return r < 0 ? r + b : r; }
LP_FN T lp_maximum(T a, T b) {
  if constexpr (LP_FLOAT) return a != a ? a : a > b ? a : b;
  else if constexpr (lp_is_bool<T>::value) return a || b;
  else return a > b ? a : b;
}
LP_FN T lp_larger(T a, T b) { return b > a ? b : a; }  // a is a number; b does not count where it is NaN
LP_FN T lp_minimum(T a, T b) {
  if constexpr (LP_FLOAT) return a != a ? a : a < b ? a : b;
  else if constexpr (lp_is_bool<T>::value) return a && b;
  else return a < b ? a : b;
}
LP_FN T lp_floor(T a) { if constexpr (LP_FLOAT) return lp_floor_(a); else return a; }
LP_FN T lp_ceil(T a) { if constexpr (LP_FLOAT) return lp_ceil_(a); else return a; }
LP_FN T lp_round(T a) { if constexpr (LP_FLOAT) return lp_rint_(a); else return a; }
LP_FN T lp_trunc(T a) { if constexpr (LP_FLOAT) return lp_trunc_(a); else return a; }
LP_FN T lp_reciprocal(T a) { return T(1) / a; }
LP_FN T lp_rsqrt(T a) { return T(1) / lp_sqrt(a); }
LP_FN T lp_sigmoid(T a) { return T(1) / (T(1) + lp_exp(-a)); }
LP_FN T lp_pow(T a, T b) {
  if constexpr (LP_FLOAT) return lp_pow_(a, b);
  else {
    if constexpr (LP_SIGNED) if (b < 0) return a == 1 ? T(1) : a == T(-1) ? ((b & 1) ? a : T(1)) : T(0);
    T result = 1, square = a;
    for (LP_U e = LP_U(b); e; e = LP_U(e >> 1), square = lp_mul(square, square)) if (e & 1) result = lp_mul(result, square);
    return result;
  }
}

// --- bits and predicates ---
LP_FN T lp_bit_and(T a, T b) { return T(a & b); }
LP_FN T lp_bit_or(T a, T b) { return T(a | b); }
LP_FN T lp_bit_xor(T a, T b) { return T(a ^ b); }
LP_FN T lp_bit_not(T a) { return T(~a); }
LP_INLINE bool lp_logical_and(bool a, bool b) { return a && b; }
LP_INLINE bool lp_logical_or(bool a, bool b) { return a || b; }
LP_INLINE bool lp_logical_xor(bool a, bool b) { return a != b; }
LP_INLINE bool lp_logical_not(bool a) { return !a; }
LP_FN T lp_shift_left(T a, T b) { return LP_U(b) < 8 * sizeof(T) ? T(LP_U(LP_U(a) << LP_U(b))) : T(0); }
LP_FN T lp_shift_right(T a, T b) {
  if constexpr (LP_SIGNED) return T(a >> (LP_U(b) < 8 * sizeof(T) ? LP_U(b) : 8 * sizeof(T) - 1));
  else return b < 8 * sizeof(T) ? T(a >> b) : T(0);
}
LP_FN bool lp_equal(T a, T b) { return a == b; }
LP_FN bool lp_less(T a, T b) { return a < b; }
LP_FN bool lp_less_equal(T a, T b) { return a <= b; }
LP_FN bool lp_greater(T a, T b) { return a > b; }
LP_FN bool lp_greater_equal(T a, T b) { return a >= b; }
LP_FN bool lp_is_nan(T a) { return a != a; }

// --- casts ---
template <class To, class From> LP_INLINE To lp_bitcast(From x) {
  static_assert(sizeof(To) == sizeof(From), "bitcast");
  To y;
  LP_MEMCPY(&y, &x, sizeof(To));
  return y;
}
template <class Int, class From> LP_INLINE Int lp_truncate(From x) {  // cvttps2dq: what does not fit is the least
  constexpr Int least = Int(u64(1) << (8 * sizeof(Int) - 1));
  const From limit = -From(least);
  return x >= -limit && x < limit ? Int(x) : least;
}
template <class To, class From> LP_INLINE To lp_cast(From x) {
  if constexpr (lp_is_bool<To>::value) return x != From(0);
  else if constexpr (!lp_is_float<From>::value || lp_is_float<To>::value) return To(x);
  else if constexpr (sizeof(To) == 8 && !(To(-1) < To(0))) {
    const From half = From(9223372036854775808.0);
    if (x >= half) return x < 2 * half ? To(lp_truncate<i64>(x - half)) ^ (To(1) << 63) : To(1) << 63;
    return To(lp_truncate<i64>(x));
  } else if constexpr (sizeof(To) == 8 || (sizeof(To) == 4 && !(To(-1) < To(0)))) return To(lp_truncate<i64>(x));
  else return To(lp_truncate<i32>(x));
}
template <class T> LP_INLINE i32 lp_nearest_i32(T x) { return i32(lp_rint_(x)); }  // of what is in range
LP_INLINE double lp_odd_f32(double x) {  // cut off to f32, the last bit set if anything was lost
  float near = float(x);
  u32 bits = lp_bitcast<u32>(near) - (lp_fabs(double(near)) > lp_fabs(x) ? 1u : 0u);
  double back = double(near);
  return double(lp_bitcast<float>(bits | (back < x || back > x ? 1u : 0u)));
}

LP_INLINE float lp_power_of_two(int e) {  // for -126 <= e <= 127
  return lp_bitcast<float>(u32(e + 127) << 23);
}

// --- half types: f32 in registers, u16 in memory ---
LP_INLINE float lp_from_bf16(u16 h) { return lp_bitcast<float>(u32(h) << 16); }
LP_INLINE u16 lp_to_bf16(float x) {
  u32 b = lp_bitcast<u32>(x);
  return u16((x != x ? b | 0x400000u : b + 0x7FFFu + ((b >> 16) & 1u)) >> 16);
}
LP_INLINE float lp_round_f16(float x) { return lp_from_f16(lp_to_f16(x)); }
LP_INLINE float lp_round_bf16(float x) { return lp_from_bf16(lp_to_bf16(x)); }
LP_INLINE float lp_flush_bf16(float x) { return lp_round_bf16(fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x); }

// --- types of a byte or less (codegen/llvm/narrow.py says how they are described) ---
template <int Bits, int Mantissa, int Bias, int Largest, int Nan, int Infinity, bool OneZero> struct lp_small {
  static constexpr u32 sign_bit = 1u << (Bits - 1);
  LP_MEMBER float decode(u8 raw) {
    u32 code = raw, magnitude = code & (sign_bit - 1);
    if constexpr (OneZero) if (code == u32(Nan)) return lp_bitcast<float>(0xFFC00000u);
    u32 bits = lp_bitcast<u32>(lp_bitcast<float>(magnitude << (23 - Mantissa)) * lp_power_of_two(127 - Bias));
    if constexpr (Infinity > Largest) { if (magnitude >= u32(Infinity)) bits = (magnitude << (23 - Mantissa)) | 0x7F800000u; }
    else if constexpr (u32(Nan) < sign_bit) { if (magnitude == u32(Nan)) bits = 0x7FC00000u; }
    return lp_bitcast<float>(bits | ((code & sign_bit) << (32 - Bits)));
  }
  LP_MEMBER u8 encode(float value, bool saturate) {
    constexpr int drop = 23 - Mantissa;
    u32 bits = lp_bitcast<u32>(value), magnitude = bits & 0x7FFFFFFFu, sign = (bits >> (32 - Bits)) & sign_bit;
    if (magnitude > 0x7F800000u) return u8(nan_code(bits, sign));
    u32 odd = (magnitude >> drop) & 1u, code;
    if (magnitude < u32(128 - Bias) << 23) {
      const float step = lp_power_of_two(1 - Bias - Mantissa + 23);
      code = lp_bitcast<u32>(lp_bitcast<float>(magnitude) + step) - lp_bitcast<u32>(step);
    } else code = (magnitude - (u32(127 - Bias) << 23) + ((1u << (drop - 1)) - 1) + odd) >> drop;
    if (code > u32(Largest)) code = u32(saturate ? Largest : Infinity < 0 ? Nan : Infinity);
    if constexpr (OneZero) if (code == 0) sign = 0;
    return u8(code | sign);
  }
  LP_MEMBER u32 nan_code(u32 bits, u32 sign) {
    if constexpr (OneZero) return u32(Nan);
    u32 code = u32(Nan);
    if constexpr (Infinity > Largest) {
      u32 payload = (bits >> (23 - Mantissa)) & ((1u << Mantissa) - 1);
      if (payload) code = payload | u32(Infinity);
    }
    return code ^ sign;
  }
};
struct lp_power {  // f8e8m0: an exponent alone
  LP_MEMBER float decode(u8 c) {
    return lp_bitcast<float>(c == 255 ? 0x7FC00000u : c == 0 ? 1u << 22 : u32(c) << 23);
  }
  LP_MEMBER u8 encode(float value, bool saturate) {
    u32 bits = lp_bitcast<u32>(value), exponent = (bits >> 23) & 0xFFu;
    if (exponent == 0xFF) return 0xFF;
    u32 up = exponent + ((bits & 0x7FFFFFu) != 0), most = saturate ? 0xFEu : 0xFFu;
    return u8(up < most ? up : most);
  }
  LP_MEMBER u8 store(float v) { return lp_bitcast<u32>(v) == 1u << 22 ? u8(0) : encode(v, false); }
};
LP_INLINE i8 lp_wrap_i(i8 x, int shift) { return i8(i8(u8(x) << shift) >> shift); }
LP_INLINE u8 lp_wrap_u(u8 x, int shift) { return u8(u8(x << shift) >> shift); }
