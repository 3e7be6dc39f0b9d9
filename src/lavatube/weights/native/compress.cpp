#include "compress.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

namespace {

alignas(16) constexpr uint32_t ROUND_CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

constexpr int ROUNDS = 16;  // of four words each

#define WITH_INSTRUCTIONS __attribute__((target("sha,sse4.1"), always_inline)) inline

// The state as the instructions want it: words A, B, E, F and C, D, G, H, each from the highest lane down.
struct State {
    __m128i abef, cdgh;

    WITH_INSTRUCTIONS static State load(const uint32_t* words) {
        const __m128i* halves = reinterpret_cast<const __m128i*>(words);
        const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(halves), 0xb1);
        const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(halves + 1), 0x1b);
        return {_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
    }
    WITH_INSTRUCTIONS void store(uint32_t* words) const {
        __m128i* halves = reinterpret_cast<__m128i*>(words);
        const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
        const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
        _mm_storeu_si128(halves, _mm_blend_epi16(feba, dchg, 0xf0));
        _mm_storeu_si128(halves + 1, _mm_alignr_epi8(dchg, feba, 8));
    }
};

// Words of the schedule, four for each round, of which the last sixteen are kept.
struct Schedule {
    __m128i words[4];

    WITH_INSTRUCTIONS __m128i next(int round, const uint8_t* block) {
        const int here = round % 4, before = (round + 3) % 4;
        if (round < 4) {
            const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
            const __m128i* read = reinterpret_cast<const __m128i*>(block) + round;
            words[here] = _mm_shuffle_epi8(_mm_loadu_si128(read), big_endian);
        } else {
            const __m128i early = _mm_sha256msg1_epu32(words[here], words[(round + 1) % 4]);
            const __m128i middle = _mm_alignr_epi8(words[before], words[(round + 2) % 4], 4);
            words[here] = _mm_sha256msg2_epu32(_mm_add_epi32(early, middle), words[before]);
        }
        return words[here];
    }
};

template <int MESSAGES> WITH_INSTRUCTIONS void compress_some(Blocks* const (&all)[MESSAGES], size_t count) {
    State states[MESSAGES];
    for (int i = 0; i < MESSAGES; ++i) states[i] = State::load(all[i]->state);
    for (size_t block = 0; block < count; ++block) {
        State before[MESSAGES];
        Schedule schedules[MESSAGES];
        for (int i = 0; i < MESSAGES; ++i) before[i] = states[i];
#pragma GCC unroll 16
        for (int round = 0; round < ROUNDS; ++round) {
            const __m128i* constants = reinterpret_cast<const __m128i*>(ROUND_CONSTANTS) + round;
#pragma GCC unroll 2
            for (int i = 0; i < MESSAGES; ++i) {
                State& state = states[i];
                const __m128i words = schedules[i].next(round, all[i]->data + block * BLOCK_BYTES);
                const __m128i added = _mm_add_epi32(words, _mm_load_si128(constants));
                state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, added);
                state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(added, 0x0e));
            }
        }
        for (int i = 0; i < MESSAGES; ++i) {
            states[i].abef = _mm_add_epi32(states[i].abef, before[i].abef);
            states[i].cdgh = _mm_add_epi32(states[i].cdgh, before[i].cdgh);
        }
    }
    for (int i = 0; i < MESSAGES; ++i) {
        states[i].store(all[i]->state);
        all[i]->data += count * BLOCK_BYTES;
        all[i]->count -= count;
    }
}

}  // namespace

bool has_instructions() {
    unsigned a, b, c, d;
    const bool is_new = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
    return is_new && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

__attribute__((target("sha,sse4.1"))) void compress(Blocks& blocks, size_t count) {
    Blocks* const all[] = {&blocks};
    compress_some(all, count);
}

__attribute__((target("sha,sse4.1"))) void compress_both(Blocks& first, Blocks& second, size_t count) {
    Blocks* const all[] = {&first, &second};
    compress_some(all, count);
}

#else

bool has_instructions() { return false; }
void compress(Blocks&, size_t) {}
void compress_both(Blocks&, Blocks&, size_t) {}

#endif
