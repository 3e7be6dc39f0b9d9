// For processors with AVX-512, its products of bfloat16 and of int8 (VNNI): a vector is one register.
#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <immintrin.h>
#include <limits>
#include <utility>

#include "kernels.h"
#include "scratch.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#endif

namespace {

// 2ˣ for |x| ≤ ½, from the highest power down: the terms of its series, ln 2ⁿ / n!.
constexpr float EXP2[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                          2.4022651e-1f, 6.9314718e-1f, 1.0f};

struct Vector {
    static constexpr int BLOCK_ROWS = 12, PARTS = 1, SHORT_STEPS = 0;
    static constexpr int panels(int) { return 2; }  // 24 sums in 32 registers
    using Floats = __m512;
    using Integers = __m512i;

    static Floats zero() { return _mm512_setzero_ps(); }
    static Integers repeat(int32_t value) { return _mm512_set1_epi32(value); }
    static Floats load(const float* values) { return _mm512_loadu_ps(values); }
    static Integers load_words(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }
    static Floats load_bfloat16(const uint16_t* values) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static void store(float* target, Floats all) { _mm512_storeu_ps(target, all); }
    static void store_bfloat16(uint16_t* target, Floats all) {
        const __m256bh narrow = _mm512_cvtneps_pbh(all);
        std::memcpy(target, &narrow, sizeof narrow);
    }
    static Floats add(Floats left, Floats right) { return _mm512_add_ps(left, right); }
    static Floats repeat_float(float value) { return _mm512_set1_ps(value); }
    static Floats multiply(Floats left, Floats right) { return _mm512_mul_ps(left, right); }
    static Floats multiply(Floats left, float right) { return _mm512_mul_ps(left, _mm512_set1_ps(right)); }
    static Floats divide(Floats left, Floats right) { return _mm512_div_ps(left, right); }
    static Floats larger(Floats left, Floats right) { return _mm512_max_ps(left, right); }
    // e to the power of (values - most) · scale, as 2ⁿ · 2ᶠ with |f| ≤ ½, and 2ᶠ as a polynomial.
    static Floats exponential(Floats values, float most, float scale) {
        const Floats lowest = _mm512_set1_ps(-126.0f);
        const Floats below = _mm512_sub_ps(values, _mm512_set1_ps(most));
        const Floats power = _mm512_mul_ps(below, _mm512_set1_ps(scale * 1.44269504f));
        const __mmask16 is_seen = _mm512_cmp_ps_mask(power, lowest, _CMP_NLT_UQ);
        const Floats whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const Floats rest = _mm512_maskz_sub_ps(is_seen, power, whole);
        Floats result = _mm512_set1_ps(EXP2[0]);
        for (int i = 1; i < 7; ++i) result = _mm512_fmadd_ps(result, rest, _mm512_set1_ps(EXP2[i]));
        return _mm512_maskz_scalef_ps(is_seen, result, whole);
    }
    // In assembly, for of the intrinsics compilers make two copies each: half the speed.
    static Floats add_bfloat16(Floats sum, Integers weight, const uint32_t* word) {
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weight), "v"(repeat(static_cast<int32_t>(*word))));
        return sum;
    }
    static Integers add_int8(Integers sum, Integers weight, const uint32_t* word) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weight), "v"(repeat(static_cast<int32_t>(*word))));
        return sum;
    }
    template <int> static Integers bfloat16_part(const uint8_t* weights) { return load_words(weights); }
    template <int> static Integers int8_part(const uint8_t* weights) { return load_words(weights); }
    static void spread_bfloat16(uint32_t word, uint32_t* words, int64_t) { *words = word; }
    static void spread_int8(uint32_t word, uint32_t* words, int64_t) { *words = word; }
    static Integers add_halves(Integers sum, Integers halves, const uint32_t* word) {
        return add_int8(sum, halves, word);
    }
    static Integers add_short(Integers sum, Integers) { return sum; }
    static Integers low_halves(Integers both) { return _mm512_and_si512(both, _mm512_set1_epi8(0x0f)); }
    static Integers high_halves(Integers both) { return low_halves(_mm512_srli_epi32(both, 4)); }
    static Floats add_scaled(Floats sum, Integers exact, Floats scale, float input_scale) {
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), _mm512_mul_ps(scale, _mm512_set1_ps(input_scale)), sum);
    }
};

}  // namespace

#include "kernels.inc"
#include "attention.inc"
#include "filling.inc"
#include "rows.inc"

const Kernels avx512_kernels = {Vector::BLOCK_ROWS, Vector::PARTS, pack, multiply, keep, attend, fill, normalize, gate,
                                rotate, add, find_largest};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
