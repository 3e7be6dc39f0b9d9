// Weights as a file has them, on their way into panels.
#pragma once

#include <cstdint>

#include "product.h"

struct Filling {
    Kind kind;
    const void* rows;   // (count, inputs) float32 or bfloat16: the outputs from `first` on
    uint8_t* weights;   // those of a Product
    uint16_t* scales;
    int64_t first, count, inputs;
    int64_t words;      // of a row, padded
    int64_t group;      // inputs that share a scale
    bool is_bfloat16;
};
