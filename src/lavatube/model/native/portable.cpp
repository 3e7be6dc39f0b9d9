// For any processor: plain loops over the lanes, which compilers turn into what the base instruction set has.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels.h"
#include "scratch.h"

namespace {

struct Vector {
    static constexpr int BLOCK_ROWS = 4, PARTS = 1, SHORT_STEPS = 0;
    static constexpr int panels(int) { return 1; }
    struct Floats { float lane[LANES]; };
    struct Integers { int32_t lane[LANES]; };

    static Floats zero() { return {}; }
    static Integers repeat(int32_t value) {
        Integers all;
        for (int32_t& lane : all.lane) lane = value;
        return all;
    }
    static Floats load(const float* values) {
        Floats all;
        std::memcpy(all.lane, values, sizeof all);
        return all;
    }
    static Integers load_words(const uint8_t* bytes) {
        Integers all;
        std::memcpy(all.lane, bytes, sizeof all);
        return all;
    }
    static Floats load_bfloat16(const uint16_t* values);
    static void store(float* target, const Floats& all) { std::memcpy(target, all.lane, sizeof all); }
    static void store_bfloat16(uint16_t* target, const Floats& all);
    static Floats add(Floats left, const Floats& right) {
        for (int i = 0; i < LANES; ++i) left.lane[i] += right.lane[i];
        return left;
    }
    static Floats repeat_float(float value) {
        Floats all;
        for (float& lane : all.lane) lane = value;
        return all;
    }
    static Floats multiply(Floats left, const Floats& right) {
        for (int i = 0; i < LANES; ++i) left.lane[i] *= right.lane[i];
        return left;
    }
    static Floats divide(Floats left, const Floats& right) {
        for (int i = 0; i < LANES; ++i) left.lane[i] /= right.lane[i];
        return left;
    }
    static Floats multiply(Floats left, float right) {
        for (float& lane : left.lane) lane *= right;
        return left;
    }
    static Floats larger(Floats left, const Floats& right) {
        for (int i = 0; i < LANES; ++i) left.lane[i] = left.lane[i] < right.lane[i] ? right.lane[i] : left.lane[i];
        return left;
    }
    static Floats exponential(Floats all, float most, float scale) {
        for (float& lane : all.lane) lane = std::exp((lane - most) * scale);
        return all;
    }
    static float half(uint32_t bits) {
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    static Floats add_bfloat16(Floats sum, const Integers& weight, const uint32_t* word) {
        const float low = half(*word << 16), high = half(*word & 0xffff0000);
        for (int i = 0; i < LANES; ++i) {
            const uint32_t bits = static_cast<uint32_t>(weight.lane[i]);
            sum.lane[i] += half(bits << 16) * low;
            sum.lane[i] += half(bits & 0xffff0000) * high;
        }
        return sum;
    }
    static Integers add_int8(Integers sum, const Integers& weight, const uint32_t* word) {
        for (int shift = 0; shift < 32; shift += 8) {
            const int32_t value = static_cast<int8_t>(*word >> shift);
            for (int i = 0; i < LANES; ++i) sum.lane[i] += (weight.lane[i] >> shift & 0xff) * value;
        }
        return sum;
    }
    template <int> static Integers bfloat16_part(const uint8_t* weights) { return load_words(weights); }
    template <int> static Integers int8_part(const uint8_t* weights) { return load_words(weights); }
    static void spread_bfloat16(uint32_t word, uint32_t* words, int64_t) { *words = word; }
    static void spread_int8(uint32_t word, uint32_t* words, int64_t) { *words = word; }
    static Integers add_halves(Integers sum, const Integers& halves, const uint32_t* word) {
        return add_int8(sum, halves, word);
    }
    static Integers add_short(Integers sum, const Integers&) { return sum; }
    static Integers low_halves(Integers both) {
        for (int32_t& lane : both.lane) lane &= 0x0f0f0f0f;
        return both;
    }
    static Integers high_halves(Integers both) {
        for (int32_t& lane : both.lane) lane = lane >> 4 & 0x0f0f0f0f;
        return both;
    }
    static Floats add_scaled(Floats sum, const Integers& exact, const Floats& scale, float input_scale) {
        for (int i = 0; i < LANES; ++i)
            sum.lane[i] += static_cast<float>(exact.lane[i]) * (scale.lane[i] * input_scale);
        return sum;
    }
};

}  // namespace

#include "kernels.inc"

namespace {

Vector::Floats Vector::load_bfloat16(const uint16_t* values) {
    Floats all;
    for (int i = 0; i < LANES; ++i) all.lane[i] = from_bfloat16(values[i]);
    return all;
}

void Vector::store_bfloat16(uint16_t* target, const Floats& all) {
    for (int i = 0; i < LANES; ++i) target[i] = to_bfloat16(all.lane[i]);
}

}  // namespace

#include "attention.inc"
#include "filling.inc"
#include "rows.inc"

const Kernels portable_kernels = {Vector::BLOCK_ROWS, Vector::PARTS, pack, multiply, keep, attend, fill, normalize,
                                  gate, rotate, add, find_largest};
