// Memory of one thread that is kept from call to call.
#pragma once

#include <cstdlib>

namespace {

class Scratch {
  public:
    ~Scratch() { std::free(memory_); }

    // None if there is none.
    char* reserve(size_t bytes) {
        if (bytes > size_) {
            std::free(memory_);
            size_ = (bytes + 4095) / 4096 * 4096;
            memory_ = std::aligned_alloc(64, size_);
            if (!memory_) size_ = 0;
        }
        return static_cast<char*>(memory_);
    }

  private:
    void* memory_ = nullptr;
    size_t size_ = 0;
};

}  // namespace
