// Whole layers of a decoder, all rows of a step through one after the other.
#pragma once

#include "stages.h"

struct Layer {
    Map qkv, out, gate_up, down;
    const uint16_t* attention_norm;
    const uint16_t* perceptron_norm;
    Heads heads;
    float epsilon;
};

// `count` of them; the context is that of the first.
//
// Shapes: input and output (rows, size); cosines and sines (rows, head_dim / 2). All is bfloat16 but the angles.
// False: there is no memory.
bool decode(const Kernels&, const Threads&, const Layer* layers, int64_t count, const Context&, const float* cosines,
            const float* sines, const uint16_t* input, uint16_t* output);
