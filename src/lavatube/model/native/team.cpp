#include "team.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int IDLE_SPINS = 1 << 11;  // some tens of microseconds: longer than from one product to the next of a layer

inline void rest() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

class Team {
  public:
    void share(int threads, int64_t count, void (*piece)(const void*, int64_t), const void* context) {
        std::unique_lock<std::mutex> turn(callers_, std::try_to_lock);
        if (!turn) {
            for (int64_t i = 0; i < count; ++i) piece(context, i);
            return;
        }
        grow(threads - 1);
        piece_ = piece;
        context_ = context;
        count_ = count;
        num_done_.store(0, std::memory_order_relaxed);
        // Whoever takes a piece of this has seen all of the above.
        const uint64_t round = (offer_.load(std::memory_order_relaxed) >> 32) + 1;
        offer_.store(round << 32 | static_cast<uint64_t>(count));
        if (num_asleep_.load() > 0) {
            std::lock_guard<std::mutex> lock(sleepers_);
            wake_.notify_all();
        }
        while (take()) {
        }
        for (int spins = 0; num_done_.load(std::memory_order_acquire) < count; ++spins)
            spins < IDLE_SPINS ? rest() : std::this_thread::yield();
    }

  private:
    // One piece, if there is any left. In the offer stand a number of the round and how many pieces are left, so that
    // nobody takes one of a round that is over.
    bool take() {
        uint64_t offer = offer_.load(std::memory_order_relaxed);
        do {
            if (!static_cast<uint32_t>(offer)) return false;
        } while (!offer_.compare_exchange_weak(offer, offer - 1, std::memory_order_acquire, std::memory_order_relaxed));
        piece_(context_, count_ - static_cast<uint32_t>(offer));
        num_done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    bool has_offer() const { return static_cast<uint32_t>(offer_.load()) != 0; }

    void work() {
        for (int spins = 0;;) {
            if (take()) {
                spins = 0;
            } else if (++spins < IDLE_SPINS) {
                rest();
            } else {
                std::unique_lock<std::mutex> lock(sleepers_);
                num_asleep_.fetch_add(1);
                wake_.wait(lock, [this] { return has_offer(); });
                num_asleep_.fetch_sub(1);
                spins = 0;
            }
        }
    }

    void grow(int size) {
        try {
            for (; size_ < size; ++size_) std::thread([this] { work(); }).detach();
        } catch (const std::system_error&) {
            // The machine gives no more threads: those that are there do the work.
        }
    }

    std::mutex callers_, sleepers_;
    std::condition_variable wake_;
    alignas(64) std::atomic<uint64_t> offer_{0};
    alignas(64) std::atomic<int64_t> num_done_{0};
    alignas(64) std::atomic<int> num_asleep_{0};
    void (*piece_)(const void*, int64_t) = nullptr;
    const void* context_ = nullptr;
    int64_t count_ = 0;
    int size_ = 0;
};

}  // namespace

void share(int threads, int64_t count, void (*piece)(const void* context, int64_t i), const void* context) {
    static Team& team = *new Team;  // never taken apart: its threads may wait for work when the process ends
    team.share(threads, count, piece, context);
}
