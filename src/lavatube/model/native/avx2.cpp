// For processors with AVX2 and FMA: a vector is two registers.
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
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace {

// 2ˣ for |x| ≤ ½, from the highest power down: the terms of its series, ln 2ⁿ / n!.
constexpr float EXP2[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                          2.4022651e-1f, 6.9314718e-1f, 1.0f};

struct Vector {
    static constexpr int BLOCK_ROWS = 6, PARTS = 2;
    static constexpr int panels(int rows) { return rows <= 3 ? 2 : 1; }  // 12 sums in 16 registers
    static constexpr int SHORT_STEPS = 8;  // 16 products of at most 15 · 127 in 16 bits
    struct Floats { __m256 low, high; };
    struct Integers { __m256i low, high; };

    static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static Integers repeat(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
    static Floats load(const float* values) { return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}; }
    static Integers load_words(const uint8_t* bytes) {
        const __m256i* words = reinterpret_cast<const __m256i*>(bytes);
        return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
    }
    static Floats load_bfloat16(const uint16_t* values) { return {widen(values), widen(values + 8)}; }
    static void store(float* target, Floats all) {
        _mm256_storeu_ps(target, all.low);
        _mm256_storeu_ps(target + 8, all.high);
    }
    static void store_bfloat16(uint16_t* target, Floats all) {
        const __m256i packed = _mm256_packus_epi32(narrow(all.low), narrow(all.high));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_permute4x64_epi64(packed, 0xd8));
    }
    static Floats add(Floats left, Floats right) {
        return {_mm256_add_ps(left.low, right.low), _mm256_add_ps(left.high, right.high)};
    }
    static Floats repeat_float(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Floats multiply(Floats left, Floats right) {
        return {_mm256_mul_ps(left.low, right.low), _mm256_mul_ps(left.high, right.high)};
    }
    static Floats multiply(Floats left, float right) { return multiply(left, repeat_float(right)); }
    static Floats divide(Floats left, Floats right) {
        return {_mm256_div_ps(left.low, right.low), _mm256_div_ps(left.high, right.high)};
    }
    static Floats larger(Floats left, Floats right) {
        return {_mm256_max_ps(left.low, right.low), _mm256_max_ps(left.high, right.high)};
    }
    static Floats exponential(Floats all, float most, float scale) {
        return {exponential(all.low, most, scale), exponential(all.high, most, scale)};
    }
    // Of a word's two bfloat16 first the one in its low half, as a float.
    template <int PART> static Floats bfloat16_part(const uint8_t* weights) {
        const Integers both = load_words(weights);
        if constexpr (PART == 0)
            return {_mm256_castsi256_ps(_mm256_slli_epi32(both.low, 16)),
                    _mm256_castsi256_ps(_mm256_slli_epi32(both.high, 16))};
        const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
        return {_mm256_castsi256_ps(_mm256_and_si256(both.low, upper)),
                _mm256_castsi256_ps(_mm256_and_si256(both.high, upper))};
    }
    static void spread_bfloat16(uint32_t word, uint32_t* words, int64_t stride) {
        words[0] = word << 16;
        words[stride] = word & 0xffff0000;
    }
    static Floats add_bfloat16(Floats sum, Floats weight, const uint32_t* word) {
        const __m256 row = _mm256_broadcast_ss(reinterpret_cast<const float*>(word));
        return {add_product(sum.low, weight.low, row), add_product(sum.high, weight.high, row)};
    }
    // Of a word's four bytes first those of even places, as 16 bits: what adds four products at once saturates there.
    template <int PART> static Integers int8_part(const uint8_t* weights) {
        const Integers all = load_words(weights);
        if constexpr (PART == 1) return {_mm256_srli_epi16(all.low, 8), _mm256_srli_epi16(all.high, 8)};
        const __m256i even = _mm256_set1_epi16(0xff);
        return {_mm256_and_si256(all.low, even), _mm256_and_si256(all.high, even)};
    }
    static void spread_int8(uint32_t word, uint32_t* words, int64_t stride) {
        const auto wide = [word](int place) { return static_cast<uint16_t>(static_cast<int8_t>(word >> 8 * place)); };
        words[0] = static_cast<uint32_t>(wide(0)) | static_cast<uint32_t>(wide(2)) << 16;
        words[stride] = static_cast<uint32_t>(wide(1)) | static_cast<uint32_t>(wide(3)) << 16;
    }
    static Integers add_int8(Integers sum, Integers weight, const uint32_t* word) {
        const __m256i row = _mm256_set1_epi32(static_cast<int32_t>(*word));
        return {add_pairs(sum.low, weight.low, row), add_pairs(sum.high, weight.high, row)};
    }
    static void store_words(uint8_t* bytes, Integers all) {
        __m256i* words = reinterpret_cast<__m256i*>(bytes);
        _mm256_storeu_si256(words, all.low);
        _mm256_storeu_si256(words + 1, all.high);
    }
    template <int PART> static Integers int8_signed_part(Integers all) {
        if constexpr (PART == 1) return {_mm256_srai_epi16(all.low, 8), _mm256_srai_epi16(all.high, 8)};
        return {_mm256_srai_epi16(_mm256_slli_epi16(all.low, 8), 8),
                _mm256_srai_epi16(_mm256_slli_epi16(all.high, 8), 8)};
    }
    static int32_t sum(Integers all) {
        const __m256i eight = _mm256_add_epi32(all.low, all.high);
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
    }
    // Four words of each of four rows, `apart` from row to row, become four of all rows, `stride` from one to the next.
    static void interleave(const uint32_t* rows, int64_t apart, uint32_t* words, int64_t stride) {
        __m128 row[4];
        for (int i = 0; i < 4; ++i) row[i] = _mm_loadu_ps(reinterpret_cast<const float*>(rows + i * apart));
        _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
        for (int i = 0; i < 4; ++i) _mm_storeu_ps(reinterpret_cast<float*>(words + i * stride), row[i]);
    }
    static Integers subtract(Integers left, Integers right) {
        return {_mm256_sub_epi32(left.low, right.low), _mm256_sub_epi32(left.high, right.high)};
    }
    static Integers add_products(Integers sum, Integers left, Integers right) {
        return {add_pairs(sum.low, left.low, right.low), add_pairs(sum.high, left.high, right.high)};
    }
    static Integers add_crossed(Integers sum, Integers even, Integers odd, const uint32_t* even_word,
                                const uint32_t* odd_word) {
        const __m256i even_row = _mm256_set1_epi32(static_cast<int32_t>(*even_word));
        const __m256i odd_row = _mm256_set1_epi32(static_cast<int32_t>(*odd_word));
        return {add_crossed(sum.low, even.low, odd.low, even_row, odd_row),
                add_crossed(sum.high, even.high, odd.high, even_row, odd_row)};
    }
    // Halves of bytes are small enough for it.
    static Integers add_halves(Integers sum, Integers halves, const uint32_t* word) {
        const __m256i row = _mm256_set1_epi32(static_cast<int32_t>(*word));
        return {add_bytes(sum.low, halves.low, row), add_bytes(sum.high, halves.high, row)};
    }
    static Integers add_short(Integers sum, Integers some) {
        const __m256i one = _mm256_set1_epi16(1);
        return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(some.low, one)),
                _mm256_add_epi32(sum.high, _mm256_madd_epi16(some.high, one))};
    }
    static Integers low_halves(Integers both) {
        const __m256i mask = _mm256_set1_epi8(0x0f);
        return {_mm256_and_si256(both.low, mask), _mm256_and_si256(both.high, mask)};
    }
    static Integers high_halves(Integers both) {
        return low_halves({_mm256_srli_epi32(both.low, 4), _mm256_srli_epi32(both.high, 4)});
    }
    static Floats add_scaled(Floats sum, Integers exact, Floats scale, float input_scale) {
        const __m256 row = _mm256_set1_ps(input_scale);
        return {_mm256_fmadd_ps(_mm256_cvtepi32_ps(exact.low), _mm256_mul_ps(scale.low, row), sum.low),
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact.high), _mm256_mul_ps(scale.high, row), sum.high)};
    }

  private:
    // In assembler, for compilers put such sums together in another order, and into memory in each step.
    static __m256 add_product(__m256 sum, __m256 weight, __m256 row) {
        asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(weight), "x"(row));
        return sum;
    }
    static __m256i add_pairs(__m256i sum, __m256i weight, __m256i row) {
        __m256i products;
        asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(weight), "x"(row));
        return sum;
    }
    static __m256i add_crossed(__m256i sum, __m256i even, __m256i odd, __m256i even_row, __m256i odd_row) {
        __m256i left, right;
        asm("vpaddw %4, %5, %1\n\tvpaddw %3, %6, %2\n\tvpmaddwd %2, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sum), "=&x"(left), "=&x"(right)
            : "x"(even), "x"(odd), "x"(even_row), "x"(odd_row));
        return sum;
    }
    static __m256i add_bytes(__m256i sum, __m256i halves, __m256i row) {
        __m256i products;
        asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(halves), "x"(row));
        return sum;
    }
    // e to the power of (values - most) · scale, as 2ⁿ · 2ᶠ with |f| ≤ ½, and 2ᶠ as a polynomial.
    static __m256 exponential(__m256 values, float most, float scale) {
        const __m256 lowest = _mm256_set1_ps(-126.0f);
        const __m256 below = _mm256_sub_ps(values, _mm256_set1_ps(most));
        const __m256 power = _mm256_mul_ps(below, _mm256_set1_ps(scale * 1.44269504f));
        const __m256 bounded = _mm256_min_ps(_mm256_max_ps(power, lowest), _mm256_set1_ps(126.0f));
        const __m256 whole = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m256 rest = _mm256_sub_ps(bounded, whole);
        __m256 result = _mm256_set1_ps(EXP2[0]);
        for (int i = 1; i < 7; ++i) result = _mm256_fmadd_ps(result, rest, _mm256_set1_ps(EXP2[i]));
        const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
        result = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(result), exponent));
        const __m256 is_number = _mm256_cmp_ps(power, power, _CMP_ORD_Q);
        result = _mm256_blendv_ps(power, result, is_number);
        return _mm256_andnot_ps(_mm256_cmp_ps(power, lowest, _CMP_LT_OQ), result);
    }
    static __m256 widen(const uint16_t* values) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static __m256i narrow(__m256 values) {
        const __m256i bits = _mm256_castps_si256(values);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
        return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), is_nan), 16);
    }
};

}  // namespace

#include "kernels.inc"
#include "crossed.inc"
#include "attention.inc"
#include "filling.inc"
#include "rows.inc"

namespace {

constexpr int PACKED_ROWS = 12;  // blocks of either kind fill them

template <int ROWS, class Pack>
void pack_blocks(const Product& p, int64_t some, const Pack& pack) {
    const int64_t end = least((some + 1) * PACKED_ROWS, p.rows);
    for (int64_t row = some * PACKED_ROWS; row < end; row += ROWS) pack(p, row / ROWS);
}

void pack_either(const Product& p, int64_t some) {
    is_crossed(p) ? pack_blocks<CROSSED_ROWS>(p, some, pack_crossed)
                  : pack_blocks<Vector::BLOCK_ROWS>(p, some, pack);
}

void multiply_either(const Product& p, int64_t first, int64_t last) {
    if (is_crossed(p))
        multiply_crossed(p, first, last);
    else
        multiply(p, first, last);
}

}  // namespace

const Kernels avx2_kernels = {PACKED_ROWS, Vector::PARTS, pack_either, multiply_either, keep, attend, fill, normalize,
                              gate, rotate, add, find_largest};

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
