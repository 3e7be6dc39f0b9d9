// One instruction set's kernels.
#pragma once

#include "attention.h"
#include "filling.h"
#include "product.h"

struct Kernels {
    int block_rows;
    int parts;  // words of the input for a step, at most
    void (*pack)(const Product&, int64_t block);                    // one block of rows of the input into the scratch
    void (*multiply)(const Product&, int64_t first, int64_t last);  // all rows with some panels
    void (*keep)(const uint16_t* key, const uint16_t* value, int64_t head_dim, int64_t lane, uint16_t* keys,
                 uint16_t* values);                                 // in panels, each the token of its lane
    bool (*attend)(const Attention&);                               // false: there is no memory
    void (*fill)(const Filling&, int64_t index, float* values, uint8_t* levels);
    void (*normalize)(const uint16_t* row, const uint16_t* weight, float epsilon, int64_t size, uint16_t* output);
    void (*gate)(const uint16_t* row, const uint16_t* other, float linear, float cubic, int64_t size, uint16_t* output);
    void (*rotate)(uint16_t* heads, const float* cosines, const float* sines, int64_t num_heads, int64_t head_dim);
    void (*add)(const uint16_t* left, const uint16_t* right, int64_t size, uint16_t* output);
    int64_t (*find_largest)(const float* row, int64_t size, bool* is_finite);
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif
