// Math functions by their names in the loop IR, for float and double. Uses what device.cuh or sim.hpp defined.
LP_MATH1(lp_fabs, fabsf, fabs) LP_MATH1(lp_floor_, floorf, floor) LP_MATH1(lp_ceil_, ceilf, ceil)
LP_MATH1(lp_rint_, rintf, rint) LP_MATH1(lp_trunc_, truncf, trunc) LP_MATH1(lp_sqrt, sqrtf, sqrt)
LP_MATH1(lp_exp, expf, exp) LP_MATH1(lp_expm1, expm1f, expm1) LP_MATH1(lp_log, logf, log) LP_MATH1(lp_log1p, log1pf, log1p)
LP_MATH1(lp_tanh, tanhf, tanh) LP_MATH1(lp_erf, erff, erf) LP_MATH1(lp_sin, sinf, sin) LP_MATH1(lp_cos, cosf, cos)
LP_MATH1(lp_tan, tanf, tan) LP_MATH1(lp_asin, asinf, asin) LP_MATH1(lp_acos, acosf, acos) LP_MATH1(lp_atan, atanf, atan)
LP_MATH1(lp_sinh, sinhf, sinh) LP_MATH1(lp_cosh, coshf, cosh) LP_MATH1(lp_asinh, asinhf, asinh)
LP_MATH1(lp_acosh, acoshf, acosh) LP_MATH1(lp_atanh, atanhf, atanh)
LP_MATH2(lp_pow_, powf, pow) LP_MATH2(lp_fmod, fmodf, fmod) LP_MATH2(lp_copysign, copysignf, copysign)
