// What Python calls, through ctypes: pointers to contiguous memory, and numbers.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <omp.h>

#include "kernels.h"
#include "scratch.h"

namespace {

constexpr int64_t BYTES_AT_ONCE = 1 << 19;  // of weights that a thread takes: little enough that threads end together

constexpr int64_t ROWS_AT_ONCE = 1024;        // of one head of keys, whose packing they share

thread_local Scratch scratch;

const Kernels& kernels(int level) {
#if defined(__x86_64__)
    if (level == 2) return avx512_kernels;
    if (level == 1) return avx2_kernels;
#endif
    (void)level;
    return portable_kernels;
}

// Of rows that are over before another thread has begun.
int threads_for(int64_t rows, int threads) { return rows < 16 ? 1 : threads; }

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

// output = input · weightsᵀ + bias; `Product` says what is what. Returns 0, or 1 if there is no memory.
EXPORT int lavatube_product(int level, int threads, int kind, const void* weights, const void* scales, const void* bias,
                            const void* input, void* output, int64_t rows, int64_t inputs, int64_t outputs,
                            int64_t steps, int64_t group_steps, int is_input_bfloat16, int is_output_bfloat16) {
    const Kernels& chosen = kernels(level);
    Product p{static_cast<Kind>(kind), static_cast<const uint8_t*>(weights), static_cast<const uint16_t*>(scales),
              bias, input, output, rows, inputs, outputs, steps, group_steps, is_input_bfloat16 != 0,
              is_output_bfloat16 != 0, nullptr, nullptr, nullptr};
    const int64_t num_words = rows * steps, num_scales = p.kind == Kind::bfloat16 ? 0 : rows * p.groups();
    char* memory = scratch.reserve(4 * (num_words + 2 * num_scales) + 64);
    if (!memory) return 1;
    p.words = reinterpret_cast<uint32_t*>(memory);
    p.input_scales = reinterpret_cast<float*>(p.words + num_words);
    p.offsets = reinterpret_cast<int32_t*>(p.input_scales + num_scales);

    const int64_t blocks = (rows + chosen.block_rows - 1) / chosen.block_rows, panels = p.panels();
    const int64_t share = std::clamp<int64_t>(BYTES_AT_ONCE / p.panel_bytes(), 1, (panels + threads - 1) / threads);
    const int64_t at_once = (share + 1) / 2 * 2;
    // As few meetings of the threads as can be: on a busy machine each may wait for one that is not running.
    if (blocks < 4) {
        for (int64_t block = 0; block < blocks; ++block) chosen.pack(p, block);
    } else {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t block = 0; block < blocks; ++block) chosen.pack(p, block);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t panel = 0; panel < panels; panel += at_once)
        chosen.multiply(p, panel, std::min(panel + at_once, panels));
    return 0;
}

// Weights of some outputs, from `first` on, into the panels that `lavatube_product` reads. Returns as that.
EXPORT int lavatube_fill(int level, int threads, int kind, const void* rows, void* weights, void* scales, int64_t first,
                         int64_t count, int64_t inputs, int64_t words, int64_t group, int is_bfloat16) {
    const Kernels& chosen = kernels(level);
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

// Sequences that stand one after another in the rows of a step, over a cache that is cut into blocks. First the new
// keys and values are put into their slots.
//
// Shapes: query (rows, heads · head_dim), key and value (rows, kv_heads · head_dim), each with its own stride from row
// to row; output (rows, heads · head_dim); keys and values (kv_heads, slots, head_dim); slots (rows,); starts
// (sequences + 1,); lengths (sequences,); tables (sequences, table_blocks).
EXPORT int lavatube_attend(int level, int threads, const uint16_t* query, const uint16_t* key, const uint16_t* value,
                           int64_t query_stride, int64_t key_stride, int64_t value_stride, uint16_t* output,
                           uint16_t* keys, uint16_t* values, int64_t num_slots, const int64_t* slots,
                           int64_t block_size, int64_t sequences, const int64_t* starts, const int64_t* lengths,
                           const int64_t* tables, int64_t table_blocks, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window) {
    const Kernels& chosen = kernels(level);
    const int64_t rows = starts[sequences], group = heads / kv_heads;
    const int64_t longest = *std::max_element(lengths, lengths + sequences);
    int64_t* offsets = reinterpret_cast<int64_t*>(scratch.reserve(8 * sequences * longest));
    if (!offsets) return 1;
    const int64_t tokens_at_once = (ROWS_AT_ONCE + group - 1) / group;
    int64_t pieces = 1;
    for (int64_t sequence = 0; sequence < sequences; ++sequence) {
        pieces = std::max(pieces, (starts[sequence + 1] - starts[sequence] + tokens_at_once - 1) / tokens_at_once);
        for (int64_t i = 0; i < lengths[sequence]; ++i) {
            const int64_t block = tables[sequence * table_blocks + i / block_size];
            offsets[sequence * longest + i] = (block * block_size + i % block_size) * head_dim;
        }
    }
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t head = 0; head < kv_heads; ++head) {
            const int64_t slot = (head * num_slots + slots[row]) * head_dim;
            std::memcpy(keys + slot, key + row * key_stride + head * head_dim, 2 * head_dim);
            std::memcpy(values + slot, value + row * value_stride + head * head_dim, 2 * head_dim);
        }
    std::atomic<bool> has_failed{false};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) collapse(3)
    for (int64_t piece = 0; piece < pieces; ++piece)
        for (int64_t sequence = 0; sequence < sequences; ++sequence)
            for (int64_t head = 0; head < kv_heads; ++head) {
                const int64_t start = starts[sequence], count = starts[sequence + 1] - start;
                // The last of a prompt see the most: they come first, so that threads end together.
                const int64_t first = (pieces - 1 - piece) * tokens_at_once;
                if (first >= count) continue;
                Attention a;
                a.query = query + start * query_stride + head * group * head_dim;
                a.output = output + (start * heads + head * group) * head_dim;
                a.keys = keys + head * num_slots * head_dim;
                a.values = values + head * num_slots * head_dim;
                a.offsets = offsets + sequence * longest;
                a.query_stride = query_stride;
                a.output_stride = heads * head_dim;
                a.first = first;
                a.last = std::min(first + tokens_at_once, count);
                a.num_keys = lengths[sequence];
                a.position = lengths[sequence] - count;
                a.window = window;
                a.heads = group;
                a.head_dim = head_dim;
                a.is_causal = true;
                a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
                if (!chosen.attend(a)) has_failed = true;
            }
    return has_failed;
}

// Rows that all see each other: heads of each of some pictures.
//
// Shapes: query, key, value (pictures, rows, heads · head_dim), with one stride from row to row; output likewise,
// without.
EXPORT int lavatube_attend_all(int level, int threads, const uint16_t* query, const uint16_t* key,
                               const uint16_t* value, int64_t stride, uint16_t* output, int64_t pictures,
                               int64_t rows, int64_t heads, int64_t head_dim) {
    const Kernels& chosen = kernels(level);
    int64_t* offsets = reinterpret_cast<int64_t*>(scratch.reserve(8 * rows));
    if (!offsets) return 1;
    for (int64_t row = 0; row < rows; ++row) offsets[row] = row * stride;
    std::atomic<bool> has_failed{false};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) collapse(2)
    for (int64_t picture = 0; picture < pictures; ++picture)
        for (int64_t head = 0; head < heads; ++head) {
            const int64_t at = picture * rows * stride + head * head_dim;
            Attention a;
            a.query = query + at;
            a.keys = key + at;
            a.values = value + at;
            a.offsets = offsets;
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
            if (!chosen.attend(a)) has_failed = true;
        }
    return has_failed;
}

// RMSNorm of rows. Shapes: input and output (rows, size), weight (size,), bfloat16.
EXPORT void lavatube_normalize(int level, int threads, const uint16_t* input, const uint16_t* weight, float epsilon,
                               uint16_t* output, int64_t rows, int64_t size) {
    const Kernels& chosen = kernels(level);
#pragma omp parallel for num_threads(threads_for(rows, threads)) schedule(static)
    for (int64_t row = 0; row < rows; ++row)
        chosen.normalize(input + row * size, weight, epsilon, size, output + row * size);
}

// x · sigmoid(linear · x + cubic · x³): SiLU, and GELU as two approximate it. Gated, a row holds x and what it is
// multiplied with. Shapes: input (rows, size), gated (rows, 2 · size); output (rows, size); bfloat16.
EXPORT void lavatube_gate(int level, int threads, const uint16_t* input, int is_gated, float linear, float cubic,
                          uint16_t* output, int64_t rows, int64_t size) {
    const Kernels& chosen = kernels(level);
#pragma omp parallel for num_threads(threads_for(rows, threads)) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const uint16_t* values = input + row * size * (is_gated ? 2 : 1);
        chosen.gate(values, is_gated ? values + size : nullptr, linear, cubic, size, output + row * size);
    }
}

// Rotary embedding, in place. Shapes: rows (rows, heads, head_dim) bfloat16, of any stride from row to row; cosines and
// sines (rows, head_dim / 2) float32.
EXPORT void lavatube_rotate(int level, int threads, uint16_t* rows, int64_t stride, const float* cosines,
                            const float* sines, int64_t count, int64_t heads, int64_t head_dim) {
    const Kernels& chosen = kernels(level);
#pragma omp parallel for num_threads(threads_for(count, threads)) schedule(static)
    for (int64_t row = 0; row < count; ++row)
        chosen.rotate(rows + row * stride, cosines + row * head_dim / 2, sines + row * head_dim / 2, heads, head_dim);
}
