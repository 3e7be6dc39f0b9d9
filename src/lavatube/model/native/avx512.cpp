// For processors with AVX-512, its products of bfloat16 and of int8 (VNNI): a vector is one register.
#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <immintrin.h>
#include <utility>

#include "product.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#endif

namespace {

struct Vector {
    static constexpr int BLOCK_ROWS = 12, PANELS = 2;  // 24 sums in 32 registers
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
    static Floats add_bfloat16(Floats sum, Integers weight, uint32_t word) {
        const __m512i row = _mm512_set1_epi32(static_cast<int32_t>(word));
        return _mm512_dpbf16_ps(sum, (__m512bh)weight, (__m512bh)row);
    }
    static Integers add_int8(Integers sum, Integers weight, uint32_t word) {
        return _mm512_dpbusd_epi32(sum, weight, _mm512_set1_epi32(static_cast<int32_t>(word)));
    }
    static Integers low_halves(Integers both) { return _mm512_and_si512(both, _mm512_set1_epi8(0x0f)); }
    static Integers high_halves(Integers both) { return low_halves(_mm512_srli_epi32(both, 4)); }
    static Floats add_scaled(Floats sum, Integers exact, Floats scale, float input_scale) {
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), _mm512_mul_ps(scale, _mm512_set1_ps(input_scale)), sum);
    }
};

}  // namespace

#include "kernels.inc"

const Kernels avx512_kernels = {Vector::BLOCK_ROWS, pack, multiply};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
