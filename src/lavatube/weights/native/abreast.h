// Digests of several threads, two at a time in one of them.
#pragma once

#include <condition_variable>

#include "compress.h"

// Blocks of one message that its thread lends: whoever compresses alone in `settle` takes them beside its own, and both
// are done in little more than the time of one. Meanwhile that thread does something else, with the same bytes perhaps.
class Job {
  public:
    // They and what they point to stay as they are until `settle`.
    void lend(Blocks blocks);

    // Returns when all are compressed. Those that nobody took are compressed here, beside another thread's if there are
    // any; as long as they come in a crowd, the first waits a moment for the second. No more threads compress than there
    // are processors. Nothing happens where nothing was lent.
    void settle();

  private:
    friend class Workers;

    Blocks blocks_;  // of whoever has it
    bool is_lent_ = false;  // of its own thread
    enum { done, in_line, taken } state_ = done;
    bool is_awaited_ = false;  // its thread sleeps until it is done, or there is work for it
    std::condition_variable changed_;
};
