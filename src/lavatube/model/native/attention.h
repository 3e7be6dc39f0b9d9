// Attention of some rows to what they see, over keys and values that lie anywhere.
#pragma once

#include <cstdint>

// Tokens first … last of one sequence, and the heads that share one head of keys and values. All is bfloat16.
struct Attention {
    const uint16_t* query;    // token 0, the first of the heads; heads stand side by side
    const uint16_t* keys;     // key j lies at keys + offsets[j], value j at values + offsets[j]
    const uint16_t* values;
    const int64_t* offsets;
    uint16_t* output;         // as the query
    int64_t query_stride, output_stride;  // from token to token
    int64_t first, last;
    int64_t num_keys;
    int64_t position;         // of token 0 among the keys: token i sees the keys up to and with position + i
    int64_t window;           // … and no more than so many
    int64_t heads, head_dim;
    bool is_causal;           // else every token sees all keys
    float scale;
};
