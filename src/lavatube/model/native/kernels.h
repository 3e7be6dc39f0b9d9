// One instruction set's kernels.
#pragma once

#include "attention.h"
#include "product.h"

struct Kernels {
    int block_rows;
    void (*pack)(const Product&, int64_t block);                    // one block of rows of the input into the scratch
    void (*multiply)(const Product&, int64_t first, int64_t last);  // all rows with some panels
    bool (*attend)(const Attention&);                               // false: there is no memory
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif
