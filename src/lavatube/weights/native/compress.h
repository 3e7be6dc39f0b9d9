// The compression function of sha256 (FIPS 180-4, 6.2.2), on the instructions that x86 processors have for it.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr size_t BLOCK_BYTES = 64;

// Whole blocks of a message, and the eight words of its state, which they change.
struct Blocks {
    uint32_t* state;
    const uint8_t* data;
    size_t count;
};

bool has_instructions();

// The first `count` blocks; they are then no longer in `blocks`.
void compress(Blocks& blocks, size_t count);

// The same of two messages, in little more time: each instruction waits for the one before it, and meanwhile the
// other message's can run.
void compress_both(Blocks& first, Blocks& second, size_t count);
