// The instructions of PTX that only compute: the name, the types of the result and of the operands, and the result as
// an expression of the operands a to d.
//
// Included twice by interpreter.cpp: for the list of names, and for the code of each. What an instruction means is the
// PTX manual's ("Instruction Set"). Accesses of memory, branches and collectives are in interpreter.cpp.

// ---- bits ----

#define CSM_MOVE(T, U) UNARY("mov." #T, U, U, a)
#define CSM_SELECT(T, U) TERNARY("selp." #T, U, U, U, pred, c ? a : b)
#define CSM_LOGIC(T, U)                \
  BINARY("and." #T, U, U, U, U(a& b))  \
  BINARY("or." #T, U, U, U, U(a | b))  \
  BINARY("xor." #T, U, U, U, U(a ^ b)) \
  UNARY("not." #T, U, U, U(~a))
#define CSM_SHIFT_LEFT(T, U) BINARY("shl." #T, U, U, u32, shifted_left(a, b))
#define CSM_EACH_WIDTH(of) of(b16, u16) of(b32, u32) of(b64, u64)
#define CSM_EACH_INTEGER(of) of(s16, u16) of(u16, u16) of(s32, u32) of(u32, u32) of(s64, u64) of(u64, u64)
CSM_EACH_WIDTH(CSM_MOVE)
CSM_EACH_WIDTH(CSM_SELECT)
CSM_EACH_WIDTH(CSM_LOGIC)
CSM_EACH_WIDTH(CSM_SHIFT_LEFT)
CSM_EACH_INTEGER(CSM_MOVE)
CSM_EACH_INTEGER(CSM_SELECT)
CSM_MOVE(f32, u32)
CSM_MOVE(f64, u64)
CSM_MOVE(pred, pred)
CSM_SELECT(f32, u32)
CSM_SELECT(f64, u64)
BINARY("and.pred", pred, pred, pred, a&& b)
BINARY("or.pred", pred, pred, pred, a || b)
BINARY("xor.pred", pred, pred, pred, a != b)
UNARY("not.pred", pred, pred, !a)
UNARY("popc.b32", u32, u32, static_cast<u32>(__builtin_popcount(a)))
UNARY("popc.b64", u32, u64, static_cast<u32>(__builtin_popcountll(a)))
UNARY("clz.b32", u32, u32, a ? static_cast<u32>(__builtin_clz(a)) : 32)
UNARY("clz.b64", u32, u64, a ? static_cast<u32>(__builtin_clzll(a)) : 64)
UNARY("brev.b32", u32, u32, reversed(a))
UNARY("bfind.u32", u32, u32, a ? 31 - static_cast<u32>(__builtin_clz(a)) : ~0u)
UNARY("bfind.shiftamt.u32", u32, u32, a ? static_cast<u32>(__builtin_clz(a)) : ~0u)
QUATERNARY("bfi.b32", u32, u32, u32, u32, u32, inserted(a, b, c, d))
QUATERNARY("bfi.b64", u64, u64, u64, u32, u32, inserted(a, b, c, d))
TERNARY("prmt.b32", u32, u32, u32, u32, permuted(a, b, c))
TERNARY("dp2a.lo.u32.u32", u32, u32, u32, u32, c + (a & 0xffff) * (b & 0xff) + (a >> 16) * (b >> 8 & 0xff))
TERNARY("dp2a.hi.u32.u32", u32, u32, u32, u32, c + (a & 0xffff) * (b >> 16 & 0xff) + (a >> 16) * (b >> 24))
TERNARY("shf.l.wrap.b32", u32, u32, u32, u32, funnel_left(a, b, c & 31))
TERNARY("shf.r.wrap.b32", u32, u32, u32, u32, funnel_right(a, b, c & 31))
TERNARY("shf.l.clamp.b32", u32, u32, u32, u32, funnel_left(a, b, at_most(c, 32)))
TERNARY("shf.r.clamp.b32", u32, u32, u32, u32, funnel_right(a, b, at_most(c, 32)))

// ---- integers ----

#define CSM_INTEGER(T, U)                              \
  BINARY("add." #T, U, U, U, U(a + b))                 \
  BINARY("sub." #T, U, U, U, U(a - b))                 \
  BINARY("mul.lo." #T, U, U, U, U(u64(a) * b))         \
  TERNARY("mad.lo." #T, U, U, U, U, U(u64(a) * b + c)) \
  BINARY("div." #T, T, T, T, quotient(a, b))           \
  BINARY("rem." #T, T, T, T, remainder(a, b))          \
  BINARY("min." #T, T, T, T, a < b ? a : b)            \
  BINARY("max." #T, T, T, T, a > b ? a : b)            \
  BINARY("shr." #T, T, T, u32, shifted_right(a, b))    \
  CSM_COMPARE(T)
#define CSM_COMPARE(T)                      \
  BINARY("setp.eq." #T, pred, T, T, a == b) \
  BINARY("setp.ne." #T, pred, T, T, a != b) \
  BINARY("setp.lt." #T, pred, T, T, a < b)  \
  BINARY("setp.le." #T, pred, T, T, a <= b) \
  BINARY("setp.gt." #T, pred, T, T, a > b)  \
  BINARY("setp.ge." #T, pred, T, T, a >= b)
CSM_EACH_INTEGER(CSM_INTEGER)
#define CSM_SAME(T, U)                      \
  BINARY("setp.eq." #T, pred, U, U, a == b) \
  BINARY("setp.ne." #T, pred, U, U, a != b)
CSM_EACH_WIDTH(CSM_SAME)
#define CSM_SIGNED(T, U)           \
  UNARY("neg." #T, U, U, U(0 - a)) \
  UNARY("abs." #T, U, T, U(a < 0 ? 0 - U(a) : U(a)))
CSM_SIGNED(s16, u16)
CSM_SIGNED(s32, u32)
CSM_SIGNED(s64, u64)
#define CSM_WIDE(T, W, U)                      \
  BINARY("mul.wide." #T, W, T, T, W(a) * W(b)) \
  TERNARY("mad.wide." #T, W, T, T, W, W(U(W(a) * W(b)) + U(c)))
CSM_WIDE(s16, s32, u32)
CSM_WIDE(u16, u32, u32)
CSM_WIDE(s32, s64, u64)
CSM_WIDE(u32, u64, u64)
BINARY("min.relu.s32", s32, s32, s32, floored(a < b ? a : b))
BINARY("max.relu.s32", s32, s32, s32, floored(a > b ? a : b))
BINARY("mul.hi.s32", s32, s32, s32, s32(s64(a) * b >> 32))
BINARY("mul.hi.u32", u32, u32, u32, u32(u64(a) * b >> 32))
BINARY("mul.hi.s64", s64, s64, s64, high_product(a, b))
BINARY("mul.hi.u64", u64, u64, u64, high_product(a, b))

// ---- floats ----

// f32 is F, or f32_ftz for the names with .ftz. Without .rn, the assembler may fuse a product and a sum into one
// instruction with one rounding, so that the result is open: those are not known here.
#define CSM_ANY_FLOAT(name, F)                       \
  BINARY("add.rn" name, F, F, F, a + b)              \
  BINARY("sub.rn" name, F, F, F, a - b)              \
  BINARY("mul.rn" name, F, F, F, a* b)               \
  TERNARY("fma.rn" name, F, F, F, F, fused(a, b, c)) \
  BINARY("div.rn" name, F, F, F, a / b)              \
  UNARY("rcp.rn" name, F, F, 1 / a)                  \
  BINARY("max" name, F, F, F, larger(a, b))          \
  BINARY("min" name, F, F, F, smaller(a, b))         \
  CSM_ORDERED(name, F)
#define CSM_ORDERED(name, F)                             \
  BINARY("setp.eq" name, pred, F, F, a == b)             \
  BINARY("setp.ne" name, pred, F, F, a<b || a> b)        \
  BINARY("setp.lt" name, pred, F, F, a < b)              \
  BINARY("setp.le" name, pred, F, F, a <= b)             \
  BINARY("setp.gt" name, pred, F, F, a > b)              \
  BINARY("setp.ge" name, pred, F, F, a >= b)             \
  BINARY("setp.equ" name, pred, F, F, !(a < b || a > b)) \
  BINARY("setp.neu" name, pred, F, F, !(a == b))         \
  BINARY("setp.ltu" name, pred, F, F, !(a >= b))         \
  BINARY("setp.leu" name, pred, F, F, !(a > b))          \
  BINARY("setp.gtu" name, pred, F, F, !(a <= b))         \
  BINARY("setp.geu" name, pred, F, F, !(a < b))          \
  BINARY("setp.num" name, pred, F, F, a == a && b == b)  \
  BINARY("setp.nan" name, pred, F, F, a != a || b != b)
#define CSM_SINGLE(ftz, F)                                                         \
  BINARY("max" ftz ".NaN.f32", F, F, F, larger_or_nan(a, b))                       \
  BINARY("min" ftz ".NaN.f32", F, F, F, smaller_or_nan(a, b))                      \
  TERNARY("max" ftz ".f32", F, F, F, F, larger(larger(a, b), c))                   \
  TERNARY("max" ftz ".NaN.f32", F, F, F, F, larger_or_nan(larger_or_nan(a, b), c)) \
  UNARY("sqrt.rn" ftz ".f32", F, F, __builtin_sqrtf(a))                            \
  UNARY("lg2.approx" ftz ".f32", F, F, approximate_log2(machine->seed, a))         \
  UNARY("rcp.approx" ftz ".f32", F, F, approximate_reciprocal(machine->seed, a))   \
  BINARY("div.full" ftz ".f32", F, F, F, approximate_quotient(machine->seed, a, b))
CSM_ANY_FLOAT(".f32", f32)
CSM_ANY_FLOAT(".ftz.f32", f32_ftz)
CSM_ANY_FLOAT(".f64", f64)
CSM_SINGLE("", f32)
CSM_SINGLE(".ftz", f32_ftz)
UNARY("sqrt.rn.f64", f64, f64, __builtin_sqrt(a))
// On the bits: as floats, a NaN would lose its sign and payload.
UNARY("abs.f32", u32, u32, a & 0x7fffffffu)
UNARY("abs.ftz.f32", u32, u32, flushed(a) & 0x7fffffffu)
UNARY("abs.f64", u64, u64, a & ~(1ull << 63))
UNARY("neg.f32", u32, u32, a ^ 0x80000000u)
UNARY("neg.ftz.f32", u32, u32, flushed(a) ^ 0x80000000u)
UNARY("neg.f64", u64, u64, a ^ 1ull << 63)
UNARY("ex2.approx.ftz.f32", f32_ftz, f32_ftz, machine->exp2_approx(a))

// Two float32 at once.
#define CSM_PAIRS(ftz, F)                                                                                           \
  BINARY("add.rn" ftz ".f32x2", u64, u64, u64, pairwise<F>(a, b, 0, [](float x, float y, float) { return x + y; })) \
  BINARY("sub.rn" ftz ".f32x2", u64, u64, u64, pairwise<F>(a, b, 0, [](float x, float y, float) { return x - y; })) \
  BINARY("mul.rn" ftz ".f32x2", u64, u64, u64, pairwise<F>(a, b, 0, [](float x, float y, float) { return x * y; })) \
  TERNARY("fma.rn" ftz ".f32x2", u64, u64, u64, u64,                                                                \
          pairwise<F>(a, b, c, [](float x, float y, float z) { return fused(x, y, z); }))
CSM_PAIRS("", f32)
CSM_PAIRS(".ftz", f32_ftz)

// And two of 16 bits.
BINARY("add.rn.f16x2", u32, u32, u32, halves(a, b, 0, [](u16 x, u16 y, u16) { return half_sum(x, y); }))
TERNARY("fma.rn.bf16x2", u32, u32, u32, u32, halves(a, b, c, bfloat_fused))

// ---- conversions ----

#define CSM_TO_EACH(of, T) of(u8, T) of(s8, T) of(u16, T) of(s16, T) of(u32, T) of(s32, T) of(u64, T) of(s64, T)
#define CSM_CONVERT(To, From) UNARY("cvt." #To "." #From, To, From, static_cast<To>(a))
CSM_TO_EACH(CSM_CONVERT, u8)
CSM_TO_EACH(CSM_CONVERT, s8)
CSM_TO_EACH(CSM_CONVERT, u16)
CSM_TO_EACH(CSM_CONVERT, s16)
CSM_TO_EACH(CSM_CONVERT, u32)
CSM_TO_EACH(CSM_CONVERT, s32)
CSM_TO_EACH(CSM_CONVERT, u64)
CSM_TO_EACH(CSM_CONVERT, s64)
#define CSM_ROUNDED(To, ftz, From, F)                                       \
  UNARY("cvt.rni" ftz "." #To "." #From, To, F, saturated<To>(whole(a)))    \
  UNARY("cvt.rzi" ftz "." #To "." #From, To, F, saturated<To>(chopped(a)))  \
  UNARY("cvt.rmi" ftz "." #To "." #From, To, F, saturated<To>(floor_of(a))) \
  UNARY("cvt.rpi" ftz "." #To "." #From, To, F, saturated<To>(ceil_of(a)))
#define CSM_TO_FLOAT(T)                                  \
  UNARY("cvt.rn.f32." #T, f32, T, static_cast<float>(a)) \
  UNARY("cvt.rn.f64." #T, f64, T, static_cast<double>(a))
#define CSM_EACH(of) of(u8) of(s8) of(u16) of(s16) of(u32) of(s32) of(u64) of(s64)
CSM_EACH(CSM_TO_FLOAT)
#define CSM_FROM_FLOAT(T)              \
  CSM_ROUNDED(T, "", f32, f32)         \
  CSM_ROUNDED(T, ".ftz", f32, f32_ftz) \
  CSM_ROUNDED(T, "", f64, f64)
CSM_EACH(CSM_FROM_FLOAT)
#define CSM_TO_WHOLE(ftz, T, F)                         \
  UNARY("cvt.rni" ftz "." #T "." #T, F, F, whole(a))    \
  UNARY("cvt.rmi" ftz "." #T "." #T, F, F, floor_of(a)) \
  UNARY("cvt.rpi" ftz "." #T "." #T, F, F, ceil_of(a))  \
  UNARY("cvt.rzi" ftz "." #T "." #T, F, F, chopped(a))
CSM_TO_WHOLE("", f32, f32)
CSM_TO_WHOLE(".ftz", f32, f32_ftz)
CSM_TO_WHOLE("", f64, f64)
#define CSM_OTHER_FLOAT(ftz, F)                                                   \
  UNARY("cvt" ftz ".f64.f32", f64, F, static_cast<double>(a))                     \
  UNARY("cvt.rn" ftz ".f32.f64", F, f64, static_cast<float>(a))                   \
  UNARY("cvt.rz" ftz ".f32.f64", F, f64, a < 0 ? rounded_up(a) : rounded_down(a)) \
  UNARY("cvt.rm" ftz ".f32.f64", F, f64, rounded_down(a))                         \
  UNARY("cvt.rp" ftz ".f32.f64", F, f64, rounded_up(a))
CSM_OTHER_FLOAT("", f32)
CSM_OTHER_FLOAT(".ftz", f32_ftz)
UNARY("cvt.f32.f16", f32, f16, half_to_float(a))
UNARY("cvt.f32.bf16", f32, bf16, bfloat_to_float(a))
UNARY("cvt.rn.f16.f32", f16, f32, float_to_half(a))
UNARY("cvt.rn.bf16.f32", bf16, f32, float_to_bfloat(a))
UNARY("cvt.rn.f16.f64", f16, f64, double_to_half(a))
BINARY("cvt.rn.f16x2.f32", u32, f32, f32, u32(float_to_half(a)) << 16 | float_to_half(b))
BINARY("cvt.rn.bf16x2.f32", u32, f32, f32, u32(float_to_bfloat(a)) << 16 | float_to_bfloat(b))

// ---- addresses: those of global memory stay, shared memory has a window ----

UNARY("cvta.to.global.u64", u64, u64, a)
UNARY("cvta.global.u64", u64, u64, a)
UNARY("cvta.shared.u64", u64, u64, a + kSharedWindow)
UNARY("cvta.to.shared.u64", u64, u64, a - kSharedWindow)
BINARY("mapa.shared::cluster.u32", u32, u32, u32, remote_address(a, b))
