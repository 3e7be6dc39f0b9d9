#include "abreast.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>
#include <thread>

namespace {

constexpr size_t SLICE_BLOCKS = 512;  // 32 KiB, in some 20 µs: after each a worker looks who has come
constexpr std::chrono::milliseconds PATIENCE{1};  // about as long as a piece of a download takes alone

}  // namespace

class Workers {
  public:
    void lend(Job& job) {
        std::lock_guard lock(mutex_);
        job.state_ = Job::in_line;
        line_.push_back(&job);
        call();
    }

    void settle(Job& job) {
        std::unique_lock lock(mutex_);
        job.is_awaited_ = true;
        if (is_crowded_ && !room()) {
            const auto has_company = [&] { return job.state_ != Job::in_line || line_.size() > 1; };
            is_crowded_ = job.changed_.wait_for(lock, PATIENCE, has_company);
        }
        while (job.state_ != Job::done) {
            if (job.state_ == Job::in_line && is_needed()) {
                line_.erase(std::find(line_.begin(), line_.end(), &job));
                work(job, lock);
            } else {
                job.changed_.wait(lock);
            }
        }
        job.is_awaited_ = false;
    }

  private:
    // How many workers compress alone: each can take a second job.
    size_t room() const { return num_workers_ - num_beside_; }

    // Whether one of those in line is to become a worker.
    bool is_needed() const { return line_.size() > room() && num_workers_ < most_; }

    void call() {
        if (!is_needed()) return;
        const auto awaited = std::find_if(line_.begin(), line_.end(), [](Job* job) { return job->is_awaited_; });
        if (awaited != line_.end()) (*awaited)->changed_.notify_one();
    }

    // Until `own` is done, with whatever is in line beside it. Puts back in line what it did not finish.
    void work(Job& own, std::unique_lock<std::mutex>& lock) {
        Job* beside = nullptr;
        own.state_ = Job::taken;
        ++num_workers_;
        while (own.blocks_.count) {
            if (!beside && !line_.empty()) {
                beside = line_.front();
                line_.pop_front();
                beside->state_ = Job::taken;
                ++num_beside_;
                is_crowded_ = true;
                call();
            }
            lock.unlock();
            const size_t count = std::min(SLICE_BLOCKS, own.blocks_.count);
            if (beside)
                compress_both(own.blocks_, beside->blocks_, std::min(count, beside->blocks_.count));
            else
                compress(own.blocks_, count);
            lock.lock();
            if (beside && (!beside->blocks_.count || !own.blocks_.count)) {
                beside->state_ = beside->blocks_.count ? Job::in_line : Job::done;
                if (beside->state_ == Job::in_line) line_.push_front(beside);
                --num_beside_;
                beside->changed_.notify_one();  // with the lock held: once it is gone, so may be the job
                beside = nullptr;
            }
        }
        own.state_ = Job::done;
        --num_workers_;
        call();
    }

    const size_t most_ = std::max(1u, std::thread::hardware_concurrency());
    std::mutex mutex_;
    std::deque<Job*> line_;
    size_t num_workers_ = 0, num_beside_ = 0;
    bool is_crowded_ = false;  // the last one who could find a companion did
};

static Workers workers;

void Job::lend(Blocks blocks) {
    blocks_ = blocks;
    is_lent_ = blocks.count > SLICE_BLOCKS;
    if (is_lent_)
        workers.lend(*this);
    else
        compress(blocks_, blocks_.count);
}

void Job::settle() {
    if (is_lent_) workers.settle(*this);
    is_lent_ = false;
}
