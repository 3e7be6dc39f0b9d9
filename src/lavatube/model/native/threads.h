// Who computes the pieces of a kernel.
#pragma once

#include <cstdint>

#include "team.h"

// A kernel of many rows that is called alone takes the threads that torch has: those spin for a while after each of
// torch's own operations, and others beside them would fight for the cores. A whole layer, with nothing of torch in it,
// has a team.
struct Threads {
    int count;
    bool are_a_team;
};

template <class Piece>
void each(const Threads& threads, int64_t count, const Piece& piece) {
    if (threads.count == 1 || count == 1) {
        for (int64_t i = 0; i < count; ++i) piece(i);
    } else if (threads.are_a_team) {
        const auto call = [](const void* context, int64_t i) { (*static_cast<const Piece*>(context))(i); };
        share(threads.count, count, call, &piece);
    } else {
#pragma omp parallel for num_threads(threads.count) schedule(dynamic, 1)
        for (int64_t i = 0; i < count; ++i) piece(i);
    }
}

// Row by row: few are over before another thread has begun.
template <class Piece>
void each_row(const Threads& threads, int64_t rows, const Piece& piece) {
    constexpr int64_t AT_ONCE = 16;
    each(threads, (rows + AT_ONCE - 1) / AT_ONCE, [&](int64_t some) {
        const int64_t last = (some + 1) * AT_ONCE < rows ? (some + 1) * AT_ONCE : rows;
        for (int64_t row = some * AT_ONCE; row < last; ++row) piece(row);
    });
}
