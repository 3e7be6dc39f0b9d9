// Digests of several threads, two at a time in one of them.
#pragma once

#include "compress.h"

// Compresses all of `blocks`, in this thread or, beside its own, in another one that is in here as well. Whoever comes
// while one hashes alone gives it his blocks and waits: both are done in little more than the time of one, and the
// waiting thread's processor is free. As long as they come in a crowd, the first waits a moment for the second. No more
// threads hash than there are processors.
void compress_abreast(Blocks blocks);
