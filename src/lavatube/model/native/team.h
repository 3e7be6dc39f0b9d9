// Threads that share work with their caller, and are still there when the next comes.
//
// Work is done when every piece of it is, whoever did it: no thread is waited for that has not begun one. So on a busy
// machine, where a thread may not get its turn for milliseconds, the others go on without it.
#pragma once

#include <cstdint>

// piece(context, i) for each i below `count`, by the caller and by up to `threads` - 1 others. A caller that finds the
// others at work for somebody else does all of it alone.
void share(int threads, int64_t count, void (*piece)(const void* context, int64_t i), const void* context);
