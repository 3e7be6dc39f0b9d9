#include "layer.h"

#include <algorithm>

#include "scratch.h"

namespace {

constexpr int64_t ROWS_AT_ONCE = 512;  // of the perceptron, whose rows are the widest: bounds the memory

thread_local Scratch scratch;

// `output` may be `input`.
bool decode_one(const Kernels& kernels, const Threads& threads, const Layer& layer, const Context& context,
                const float* cosines, const float* sines, const uint16_t* input, uint16_t* output) {
    const int64_t rows = context.starts[context.sequences], size = layer.out.outputs, merged = layer.qkv.outputs;
    const int64_t query_size = layer.out.inputs, wide = layer.down.inputs;
    const int64_t pieces = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, at_once = (rows + pieces - 1) / pieces;
    // What attention needs is not needed any more when the perceptron begins.
    const int64_t most = std::max(rows * (merged + query_size), at_once * 3 * wide);
    uint16_t* normed = reinterpret_cast<uint16_t*>(scratch.reserve(2 * (2 * rows * size + most)));
    if (!normed) return false;
    uint16_t* change = normed + rows * size;

    uint16_t* qkv = change + rows * size;
    uint16_t* attended = qkv + rows * merged;
    uint16_t* key = qkv + query_size;
    const uint16_t* value = key + layer.heads.key * layer.heads.size;
    normalize(kernels, threads, input, layer.attention_norm, layer.epsilon, normed, rows, size);
    if (!multiply(kernels, threads, layer.qkv, normed, qkv, rows, true, true)) return false;
    // Keys stand behind the queries: they are turned together.
    rotate(kernels, threads, {qkv, merged}, cosines, sines, rows, layer.heads.query + layer.heads.key,
           layer.heads.size);
    if (!attend(kernels, threads, context, layer.heads, {qkv, merged}, {key, merged}, {value, merged}, attended))
        return false;
    if (!multiply(kernels, threads, layer.out, attended, change, rows, true, true)) return false;
    add(kernels, threads, input, change, output, rows, size);

    uint16_t* gate_up = change + rows * size;
    uint16_t* gated = gate_up + at_once * 2 * wide;
    normalize(kernels, threads, output, layer.perceptron_norm, layer.epsilon, normed, rows, size);
    for (int64_t first = 0; first < rows; first += at_once) {
        const int64_t count = std::min(at_once, rows - first);
        if (!multiply(kernels, threads, layer.gate_up, normed + first * size, gate_up, count, true, true)) return false;
        gate(kernels, threads, gate_up, true, 1.0f, 0.0f, gated, count, wide);
        if (!multiply(kernels, threads, layer.down, gated, change + first * size, count, true, true)) return false;
    }
    add(kernels, threads, output, change, output, rows, size);
    return true;
}

}  // namespace

bool decode(const Kernels& kernels, const Threads& threads, const Layer* layers, int64_t count, const Context& context,
            const float* cosines, const float* sines, const uint16_t* input, uint16_t* output) {
    Context own = context;
    for (int64_t i = 0; i < count; ++i) {
        if (!decode_one(kernels, threads, layers[i], own, cosines, sines, i ? output : input, output)) return false;
        own.keys += own.layer_stride;
        own.values += own.layer_stride;
    }
    return true;
}
