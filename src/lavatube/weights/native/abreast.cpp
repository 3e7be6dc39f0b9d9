#include "abreast.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace {

constexpr size_t SLICE_BLOCKS = 512;  // 32 KiB, in some 20 µs: after each a worker looks who has come
constexpr std::chrono::milliseconds PATIENCE{1};  // about as long as a piece of a download takes alone

struct Job {
    Blocks blocks;  // of whoever has it
    enum { in_line, taken, done } state = in_line;
    std::condition_variable changed;
};

class Workers {
  public:
    void do_job(Blocks blocks) {
        std::unique_lock lock(mutex_);
        Job job{blocks, Job::in_line, {}};
        line_.push_back(&job);
        if (is_crowded_ && !room()) {
            const auto has_company = [&] { return job.state != Job::in_line || line_.size() > 1; };
            is_crowded_ = job.changed.wait_for(lock, PATIENCE, has_company);
        }
        while (job.state != Job::done) {
            if (job.state == Job::in_line && is_needed()) {
                line_.erase(std::find(line_.begin(), line_.end(), &job));
                return work(job, lock);
            }
            job.changed.wait(lock);
        }
    }

  private:
    // How many workers hash alone: each can take a second job.
    size_t room() const { return num_workers_ - num_beside_; }

    // Whether one of those in line is to become a worker.
    bool is_needed() const { return line_.size() > room() && num_workers_ < most_; }

    void call() {
        if (is_needed()) line_.front()->changed.notify_one();
    }

    // Until `own` is done, with whatever is in line beside it. Leaves what it did not finish to its owner.
    void work(Job& own, std::unique_lock<std::mutex>& lock) {
        Job* beside = nullptr;
        ++num_workers_;
        while (own.blocks.count) {
            if (!beside && !line_.empty()) {
                beside = line_.front();
                line_.pop_front();
                beside->state = Job::taken;
                ++num_beside_;
                is_crowded_ = true;
                call();
            }
            lock.unlock();
            const size_t count = std::min(SLICE_BLOCKS, own.blocks.count);
            if (beside)
                compress_both(own.blocks, beside->blocks, std::min(count, beside->blocks.count));
            else
                compress(own.blocks, count);
            lock.lock();
            if (beside && (!beside->blocks.count || !own.blocks.count)) {
                beside->state = beside->blocks.count ? Job::in_line : Job::done;
                if (beside->state == Job::in_line) line_.push_front(beside);
                --num_beside_;
                beside->changed.notify_one();  // with the lock held: once it is gone, so may be the job
                beside = nullptr;
            }
        }
        --num_workers_;
        call();
    }

    const size_t most_ = std::max(1u, std::thread::hardware_concurrency());
    std::mutex mutex_;
    std::deque<Job*> line_;
    size_t num_workers_ = 0, num_beside_ = 0;
    bool is_crowded_ = false;  // the last one who could find a companion did
};

}  // namespace

void compress_abreast(Blocks blocks) {
    static Workers workers;
    if (blocks.count <= SLICE_BLOCKS) return compress(blocks, blocks.count);
    workers.do_job(blocks);
}
