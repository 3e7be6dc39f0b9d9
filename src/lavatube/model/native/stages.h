// The stages of a model: each kernel over all rows, on some threads. False, where it is said: there is no memory.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "threads.h"

// The kernels of an instruction set: see `lavatube_level`.
const Kernels& kernels_of(int level);

// A linear map, as Python has it. `scales` and `bias` may be none; `steps` and `group_steps` as in `Product`.
struct Map {
    const uint8_t* weights;
    const uint16_t* scales;
    const void* bias;
    int64_t kind, inputs, outputs, steps, group_steps;
};

// One layer's keys and values, and where the sequences of a step stand in its rows and in the cache.
//
// Sixteen slots are a panel of keys and one of values (see attention.h): a block and a head are whole numbers of those.
//
// Shapes: keys and values (kv_heads, num_slots, head_dim); slots (rows,); starts (sequences + 1,); lengths
// (sequences,); tables (sequences, table_blocks).
struct Context {
    uint16_t* keys;
    uint16_t* values;
    const int64_t* slots;
    const int64_t* starts;
    const int64_t* lengths;
    const int64_t* tables;
    int64_t num_slots, block_size, sequences, table_blocks, window;
    int64_t layer_stride;  // values from one layer's keys to those of the next
};

struct Heads {
    int64_t query, key, size;  // how many of each, and the dimensions of one
};

// Rows of heads that stand side by side. Shapes: (rows, heads · size), of any stride from row to row.
template <class Value>
struct Rows {
    Value* values;
    int64_t stride;
};

// output = input · weightsᵀ + bias. Shapes: input (rows, inputs), output (rows, outputs).
bool multiply(const Kernels&, const Threads&, const Map&, const void* input, void* output, int64_t rows,
              bool is_input_bfloat16, bool is_output_bfloat16);

// First the new keys and values are put into their slots. Shapes: output (rows, heads · size).
bool attend(const Kernels&, const Threads&, const Context&, const Heads&, Rows<const uint16_t> query,
            Rows<const uint16_t> key, Rows<const uint16_t> value, uint16_t* output);

// RMSNorm. Shapes: input and output (rows, size), weight (size,).
void normalize(const Kernels&, const Threads&, const uint16_t* input, const uint16_t* weight, float epsilon,
               uint16_t* output, int64_t rows, int64_t size);

// x · sigmoid(linear · x + cubic · x³): SiLU, and GELU as two approximate it. Gated, a row holds x and what it is
// multiplied with. Shapes: input (rows, size), gated (rows, 2 · size); output (rows, size).
void gate(const Kernels&, const Threads&, const uint16_t* input, bool is_gated, float linear, float cubic,
          uint16_t* output, int64_t rows, int64_t size);

// Rotary embedding, in place. Shapes: cosines and sines (rows, size / 2).
void rotate(const Kernels&, const Threads&, Rows<uint16_t> heads, const float* cosines, const float* sines,
            int64_t rows, int64_t num_heads, int64_t size);

// Shapes: all (rows, size).
void add(const Kernels&, const Threads&, const uint16_t* left, const uint16_t* right, uint16_t* output, int64_t rows,
         int64_t size);
