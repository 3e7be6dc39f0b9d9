// A whole layer of a decoder, all rows of a step through it.
#pragma once

#include "stages.h"

struct Layer {
    Map qkv, out, gate_up, down;
    const uint16_t* attention_norm;
    const uint16_t* perceptron_norm;
    Heads heads;
    float epsilon;
};

// Shapes: input and output (rows, size); cosines and sines (rows, head_dim / 2). All is bfloat16 but the angles.
// False: there is no memory.
bool decode(const Kernels&, const Threads&, const Layer&, const Context&, const float* cosines, const float* sines,
            const uint16_t* input, uint16_t* output);
