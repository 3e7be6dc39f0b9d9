// A matrix product of few or many rows with weights that lie in panels. What is what, shared by all instruction sets.
//
// Sixteen outputs are a panel. Along the inputs, a panel is a row of steps of 64 bytes: for each of its outputs, the
// four bytes that are multiplied in one instruction; two bfloat16, or four int8. Of int4 one such word holds two steps,
// the first in the low halves of its bytes. So a product reads its weights straight through, whatever the number of
// rows, and needs no sum across lanes.
//
// Integers are stored without sign: int8 with 128 added, int4 with 8. Along the inputs they are scaled by the group;
// the rows of the input are quantised to int8 by the same groups. A group's sum is exact, and groups are added in
// order: what comes out for a row does not depend on the rows beside it.
#pragma once

#include <cstdint>

constexpr int LANES = 16;

enum class Kind : int { bfloat16 = 0, int8 = 1, int4 = 2 };

struct Product {
    Kind kind;
    const uint8_t* weights;  // (panels, steps, 16, 4) bytes; int4: (panels, steps / 2, 16, 4)
    const uint16_t* scales;  // (panels, groups, 16) bfloat16; none for bfloat16
    const void* bias;        // (outputs,) as the input, or none
    const void* input;       // (rows, inputs)
    void* output;            // (rows, outputs)
    int64_t rows, inputs, outputs;
    int64_t steps;           // of a row, padded
    int64_t group_steps;     // of a group; the last may be shorter
    bool is_input_bfloat16, is_output_bfloat16;  // else float32

    // Scratch: the input as the kernels read it, in blocks of rows. Of a block of R rows: words (steps, parts, R), then
    // by groups (groups, R) the scales, and what sums begin with: minus the zero point times the sum of its integers.
    // A part is what one instruction takes of a step: all of it, or half, as wide as the instruction wants it.
    uint32_t* words;
    float* input_scales;
    int32_t* offsets;

    int64_t panels() const { return (outputs + LANES - 1) / LANES; }
    int64_t groups() const { return (steps + group_steps - 1) / group_steps; }
    int64_t panel_bytes() const { return steps * LANES * (kind == Kind::int4 ? 2 : 4); }
    int64_t zero_point() const { return kind == Kind::int4 ? 8 : 128; }
};

