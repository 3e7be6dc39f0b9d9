// How far down a ranking top-p goes, without ranking all of it.
#pragma once

#include <cstdint>

// The least of a row's scores that are kept: those, from the largest down, before which the weights come to less than
// `share` of all. Scores below `floor` do not count, and at least one must. Shapes: scores and weights (size,).
double nucleus_floor(const double* scores, const double* weights, int64_t size, double floor, double share);
