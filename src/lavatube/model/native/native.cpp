// What Python calls, through ctypes: pointers to contiguous memory, and numbers. What returns a number returns 0, or 1
// if there is no memory.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <omp.h>

#include "layer.h"
#include "nucleus.h"
#include "scratch.h"
#include "stages.h"

namespace {

thread_local Scratch scratch;

Threads torchs(int count) { return {count, false}; }

// So few rows that torch does not share out its operations on them: its threads are asleep.
constexpr int64_t FEW_ROWS = 16;

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The best of the instruction sets that this processor has: 0 any, 1 AVX2, 2 AVX-512 with bfloat16 and VNNI.
EXPORT int lavatube_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// Shapes: input (rows, inputs) and output (rows, outputs), each bfloat16 or float32; bias as the input.
EXPORT int lavatube_product(int level, int threads, const Map* map, const void* input, void* output, int64_t rows,
                            int is_input_bfloat16, int is_output_bfloat16) {
    return !multiply(kernels_of(level), {threads, rows <= FEW_ROWS}, *map, input, output, rows, is_input_bfloat16,
                     is_output_bfloat16);
}

// Weights of some outputs, from `first` on, into the panels that `lavatube_product` reads.
EXPORT int lavatube_fill(int level, int threads, int kind, const void* rows, void* weights, void* scales, int64_t first,
                         int64_t count, int64_t inputs, int64_t words, int64_t group, int is_bfloat16) {
    const Kernels& chosen = kernels_of(level);
    const Filling f{static_cast<Kind>(kind), rows, static_cast<uint8_t*>(weights), static_cast<uint16_t*>(scales),
                    first, count, inputs, words, group, is_bfloat16 != 0};
    const int64_t padded = words * 8;
    char* memory = scratch.reserve(threads * padded * 5);
    if (!memory) return 1;
    const int64_t from = first / LANES, to = (first + count + LANES - 1) / LANES;
#pragma omp parallel num_threads(threads)
    {
        float* values = reinterpret_cast<float*>(memory + omp_get_thread_num() * padded * 5);
        uint8_t* levels = reinterpret_cast<uint8_t*>(values + padded);
        // By the panel: threads that wrote to the same lines would wait for each other.
#pragma omp for schedule(static)
        for (int64_t panel = from; panel < to; ++panel) {
            const int64_t begin = std::max(first, panel * LANES), end = std::min(first + count, (panel + 1) * LANES);
            for (int64_t output = begin; output < end; ++output) chosen.fill(f, output - first, values, levels);
        }
    }
    return 0;
}

// Sequences that stand one after another in the rows of a step, over a cache that is cut into blocks.
// Shapes: query (rows, heads · head_dim), key and value (rows, kv_heads · head_dim), each with its own stride from row
// to row; output (rows, heads · head_dim).
EXPORT int lavatube_attend(int level, int threads, const Context* context, const Heads* heads, const uint16_t* query,
                           int64_t query_stride, const uint16_t* key, int64_t key_stride, const uint16_t* value,
                           int64_t value_stride, uint16_t* output) {
    return !attend(kernels_of(level), torchs(threads), *context, *heads, {query, query_stride}, {key, key_stride},
                   {value, value_stride}, output);
}

// Rows that all see each other: heads of each of some pictures.
//
// Shapes: query, key, value (pictures, rows, heads · head_dim), with one stride from row to row; output likewise,
// without.
EXPORT int lavatube_attend_all(int level, int threads, const uint16_t* query, const uint16_t* key,
                               const uint16_t* value, int64_t stride, uint16_t* output, int64_t pictures,
                               int64_t rows, int64_t heads, int64_t head_dim) {
    const Kernels& chosen = kernels_of(level);
    const int64_t panels = (rows + LANES - 1) / LANES;
    int64_t* order = reinterpret_cast<int64_t*>(scratch.reserve(8 * panels));
    if (!order) return 1;
    for (int64_t panel = 0; panel < panels; ++panel) order[panel] = panel;
    std::atomic<bool> has_failed{false};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) collapse(2)
    for (int64_t picture = 0; picture < pictures; ++picture)
        for (int64_t head = 0; head < heads; ++head) {
            const int64_t at = picture * rows * stride + head * head_dim;
            Attention a;
            a.query = query + at;
            a.panels = order;
            a.output = output + (picture * rows * heads + head) * head_dim;
            a.query_stride = stride;
            a.output_stride = heads * head_dim;
            a.first = 0;
            a.last = rows;
            a.num_keys = rows;
            a.position = 0;
            a.window = 0;
            a.heads = 1;
            a.head_dim = head_dim;
            a.is_causal = false;
            a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
            static thread_local Scratch packed;
            char* memory = packed.reserve(2 * panels * (a.key_panel() + a.value_panel()));
            if (!memory) {
                has_failed = true;
                continue;
            }
            uint16_t* keys = reinterpret_cast<uint16_t*>(memory);
            uint16_t* values = keys + panels * a.key_panel();
            for (int64_t row = 0; row < rows; ++row)
                chosen.keep(key + at + row * stride, value + at + row * stride, head_dim, row % LANES,
                            keys + row / LANES * a.key_panel(), values + row / LANES * a.value_panel());
            a.keys = keys;
            a.values = values;
            if (!chosen.attend(a)) has_failed = true;
        }
    return has_failed;
}

// See stages.h.
EXPORT void lavatube_normalize(int level, int threads, const uint16_t* input, const uint16_t* weight, float epsilon,
                               uint16_t* output, int64_t rows, int64_t size) {
    normalize(kernels_of(level), torchs(threads), input, weight, epsilon, output, rows, size);
}

EXPORT void lavatube_gate(int level, int threads, const uint16_t* input, int is_gated, float linear, float cubic,
                          uint16_t* output, int64_t rows, int64_t size) {
    gate(kernels_of(level), torchs(threads), input, is_gated, linear, cubic, output, rows, size);
}

EXPORT void lavatube_rotate(int level, int threads, uint16_t* heads, int64_t stride, const float* cosines,
                            const float* sines, int64_t rows, int64_t num_heads, int64_t head_dim) {
    rotate(kernels_of(level), torchs(threads), {heads, stride}, cosines, sines, rows, num_heads, head_dim);
}

// By rows of numbers. Shapes: input (rows, size) float32; places and are_finite (rows,).
EXPORT void lavatube_find_largest(int level, const float* input, int64_t rows, int64_t size, int64_t* places,
                                  bool* are_finite) {
    for (int64_t row = 0; row < rows; ++row)
        places[row] = kernels_of(level).find_largest(input + row * size, size, are_finite + row);
}

// See nucleus.h. Shapes: scores and weights (rows, size); floors (rows,), changed in place; shares (rows,).
EXPORT void lavatube_nucleus(int threads, const double* scores, const double* weights, int64_t rows, int64_t size,
                             double* floors, const double* shares) {
    each(torchs(threads), rows, [&](int64_t row) {
        floors[row] = nucleus_floor(scores + row * size, weights + row * size, size, floors[row], shares[row]);
    });
}

// See layer.h. On a team of its own.
EXPORT int lavatube_layers(int level, int threads, const Layer* layers, int64_t count, const Context* context,
                           const float* cosines, const float* sines, const uint16_t* input, uint16_t* output) {
    return !decode(kernels_of(level), {threads, true}, layers, count, *context, cosines, sines, input, output);
}
