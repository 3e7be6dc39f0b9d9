#include "stages.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "scratch.h"

namespace {

constexpr int64_t BYTES_AT_ONCE = 1 << 17;  // of weights that a thread takes: little enough that threads end together
constexpr int64_t ROWS_AT_ONCE = 1024;      // of one head of keys, whose packing they share

thread_local Scratch scratch;

}  // namespace

const Kernels& kernels_of(int level) {
#if defined(__x86_64__)
    if (level == 2) return avx512_kernels;
    if (level == 1) return avx2_kernels;
#endif
    (void)level;
    return portable_kernels;
}

bool multiply(const Kernels& kernels, const Threads& threads, const Map& map, const void* input, void* output,
              int64_t rows, bool is_input_bfloat16, bool is_output_bfloat16) {
    Product p{static_cast<Kind>(map.kind), map.weights, map.scales, map.bias, input, output, rows, map.inputs,
              map.outputs, map.steps, map.group_steps, is_input_bfloat16, is_output_bfloat16, nullptr, nullptr,
              nullptr};
    const int64_t num_words = rows * p.steps * kernels.parts, num_scales = p.kind == Kind::bfloat16 ? 0 : rows * p.groups();
    char* memory = scratch.reserve(4 * (num_words + 2 * num_scales) + 64);
    if (!memory) return false;
    p.words = reinterpret_cast<uint32_t*>(memory);
    p.input_scales = reinterpret_cast<float*>(p.words + num_words);
    p.offsets = reinterpret_cast<int32_t*>(p.input_scales + num_scales);

    const int64_t blocks = (rows + kernels.block_rows - 1) / kernels.block_rows, panels = p.panels();
    const int64_t fair = (panels + threads.count - 1) / threads.count;
    const int64_t share = std::clamp<int64_t>(BYTES_AT_ONCE / p.panel_bytes(), 1, fair);
    const int64_t at_once = (share + 1) / 2 * 2;
    // As few meetings of the threads as can be: on a busy machine each may wait for one that is not running.
    each(blocks < 4 ? Threads{1, false} : threads, blocks, [&](int64_t block) { kernels.pack(p, block); });
    each(threads, (panels + at_once - 1) / at_once, [&](int64_t some) {
        kernels.multiply(p, some * at_once, std::min((some + 1) * at_once, panels));
    });
    return true;
}

bool attend(const Kernels& kernels, const Threads& threads, const Context& context, const Heads& heads,
            Rows<const uint16_t> query, Rows<const uint16_t> key, Rows<const uint16_t> value, uint16_t* output) {
    const int64_t sequences = context.sequences, rows = context.starts[sequences], group = heads.query / heads.key;
    const int64_t longest = *std::max_element(context.lengths, context.lengths + sequences);
    const int64_t most = (longest + LANES - 1) / LANES;
    int64_t* panels = reinterpret_cast<int64_t*>(scratch.reserve(8 * sequences * most));
    if (!panels) return false;
    const int64_t tokens_at_once = (ROWS_AT_ONCE + group - 1) / group;
    int64_t pieces = 1;
    for (int64_t sequence = 0; sequence < sequences; ++sequence) {
        const int64_t count = context.starts[sequence + 1] - context.starts[sequence];
        pieces = std::max(pieces, (count + tokens_at_once - 1) / tokens_at_once);
        const int64_t* blocks = context.tables + sequence * context.table_blocks;
        for (int64_t first = 0; first < context.lengths[sequence]; first += LANES)
            panels[sequence * most + first / LANES] =
                (blocks[first / context.block_size] * context.block_size + first % context.block_size) / LANES;
    }
    each_row(threads, rows, [&](int64_t row) {
        const int64_t first = context.slots[row] / LANES * LANES, lane = context.slots[row] % LANES;
        for (int64_t head = 0; head < heads.key; ++head) {
            const int64_t panel = (head * context.num_slots + first) * heads.size;
            kernels.keep(key.values + row * key.stride + head * heads.size,
                         value.values + row * value.stride + head * heads.size, heads.size, lane, context.keys + panel,
                         context.values + panel);
        }
    });
    std::atomic<bool> has_failed{false};
    each(threads, pieces * sequences * heads.key, [&](int64_t index) {
        const int64_t head = index % heads.key, sequence = index / heads.key % sequences;
        const int64_t start = context.starts[sequence], count = context.starts[sequence + 1] - start;
        // The last of a prompt see the most: they come first, so that threads end together.
        const int64_t first = (pieces - 1 - index / heads.key / sequences) * tokens_at_once;
        if (first >= count) return;
        Attention a;
        a.query = query.values + start * query.stride + head * group * heads.size;
        a.output = output + (start * heads.query + head * group) * heads.size;
        a.keys = context.keys + head * context.num_slots * heads.size;
        a.values = context.values + head * context.num_slots * heads.size;
        a.panels = panels + sequence * most;
        a.query_stride = query.stride;
        a.output_stride = heads.query * heads.size;
        a.first = first;
        a.last = std::min(first + tokens_at_once, count);
        a.num_keys = context.lengths[sequence];
        a.position = context.lengths[sequence] - count;
        a.window = context.window;
        a.heads = group;
        a.head_dim = heads.size;
        a.is_causal = true;
        a.scale = 1.0f / std::sqrt(static_cast<float>(heads.size));
        if (!kernels.attend(a)) has_failed = true;
    });
    return !has_failed;
}

void normalize(const Kernels& kernels, const Threads& threads, const uint16_t* input, const uint16_t* weight,
               float epsilon, uint16_t* output, int64_t rows, int64_t size) {
    each_row(threads, rows,
             [&](int64_t row) { kernels.normalize(input + row * size, weight, epsilon, size, output + row * size); });
}

void gate(const Kernels& kernels, const Threads& threads, const uint16_t* input, bool is_gated, float linear,
          float cubic, uint16_t* output, int64_t rows, int64_t size) {
    each_row(threads, rows, [&](int64_t row) {
        const uint16_t* values = input + row * size * (is_gated ? 2 : 1);
        kernels.gate(values, is_gated ? values + size : nullptr, linear, cubic, size, output + row * size);
    });
}

void rotate(const Kernels& kernels, const Threads& threads, Rows<uint16_t> heads, const float* cosines,
            const float* sines, int64_t rows, int64_t num_heads, int64_t size) {
    each_row(threads, rows, [&](int64_t row) {
        kernels.rotate(heads.values + row * heads.stride, cosines + row * size / 2, sines + row * size / 2, num_heads,
                       size);
    });
}

void add(const Kernels& kernels, const Threads& threads, const uint16_t* left, const uint16_t* right, uint16_t* output,
         int64_t rows, int64_t size) {
    each_row(threads, rows, [&](int64_t row) {
        kernels.add(left + row * size, right + row * size, size, output + row * size);
    });
}
