// Attention of some rows to what they see, over panels of sixteen keys and of sixteen values that lie anywhere.
//
// Both are read as `product.h` has it, and so lie in words of two bfloat16. Keys are the outputs of a panel, their
// dimensions its inputs: words (head_dim / 2, 16). Of values it is the other way round, and there are as many panels one
// after the other as dimensions need: words (head_dim / 16, 8, 16).
#pragma once

#include <cstdint>

// Tokens first … last of one sequence, and the heads that share one head of keys and values. All is bfloat16.
struct Attention {
    const uint16_t* query;    // token 0, the first of the heads; heads stand side by side
    const uint16_t* keys;
    const uint16_t* values;
    const int64_t* panels;    // which of the panels at `keys` and at `values` has the keys 16 j … 16 j + 15
    uint16_t* output;         // as the query
    int64_t query_stride, output_stride;  // from token to token
    int64_t first, last;
    int64_t num_keys;
    int64_t position;         // of token 0 among the keys: token i sees the keys up to and with position + i
    int64_t window;           // … and no more than so many
    int64_t heads, head_dim;
    bool is_causal;           // else every token sees all keys
    float scale;

    int64_t key_panel() const { return 16 * head_dim; }  // values of a panel
    int64_t value_panel() const { return (head_dim + 15) / 16 * 16 * 16; }
};
