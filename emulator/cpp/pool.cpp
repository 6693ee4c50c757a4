// The OS threads that share out a grid's teams.
#include <signal.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <thread>

#include "executor.h"
#include "races.h"

namespace emu {

Settings settings;

namespace {

std::string describe(const Fault& fault, const char* kernel) {
    const auto in_kernel = [](const std::string& text) {
        return text.find(".cu:") != std::string::npos || text.find(".cuh:") != std::string::npos;
    };
    std::string place = fault.place.text();
    for (const void* const pc : fault.trail) {
        if (in_kernel(place) || !pc) break;
        const std::string text = reports::place(pc);
        if (in_kernel(text)) place = text;
    }
    const auto triple = [](uint3 v) {
        return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
    };
    std::string text = fault.text;
    if (fault.other.known()) text += " " + fault.other.text();
    text += ": kernel " + std::string(kernel) + ", block " + triple(fault.block) + ", thread " + triple(fault.thread);
    if (fault.place.known()) text += ", at " + place;
    return text;
}

class Pool {
  public:
    int run(const Launch& launch) {
        std::unique_lock<std::mutex> guard(mutex_);
        const unsigned wanted = settings.threads ? settings.threads : std::max(1u, std::thread::hardware_concurrency());
        for (; workers_ < wanted; workers_++) std::thread([this, number = workers_] { work(number); }).detach();
        launch_ = &launch;
        active_ = busy_ = static_cast<unsigned>(std::min<uint64_t>(wanted, launch.teams()));
        next_team_ = 0;
        failed_ = false;
        result_ = 0;
        choose_order(launch);
        generation_++;
        wake_.notify_all();
        done_.wait(guard, [this] { return busy_ == 0; });
        return result_;
    }

  private:
    // In lock step teams start in order. Running ahead they start anywhere and go round in steps, so that code which
    // relies on the order of blocks is found out.
    void choose_order(const Launch& launch) {
        const uint64_t teams = launch.teams();
        start_ = 0;
        stride_ = 1;
        if (settings.schedule != Schedule::run_ahead) return;
        Random random(launch.seed);
        start_ = random.next() % teams;
        stride_ = random.next() % teams | 1;
        while (std::gcd(stride_, teams) != 1) stride_++;
    }

    void work(unsigned number) {
        // Never freed: a worker lives as long as the process.
        executor = new Executor;
        stack_t signal_stack = {};
        signal_stack.ss_size = 64 * 1024;
        signal_stack.ss_sp = std::malloc(signal_stack.ss_size);
        sigaltstack(&signal_stack, nullptr);
        Watchdog watchdog;
        uint64_t seen = 0;
        for (;;) {
            const Launch* launch;
            {
                std::unique_lock<std::mutex> guard(mutex_);
                wake_.wait(guard, [&] { return generation_ != seen && number < active_; });
                seen = generation_;
                launch = launch_;
            }
            watchdog.set(settings.watchdog_seconds);
            const uint64_t teams = launch->teams();
            for (uint64_t i; !failed_ && (i = next_team_.fetch_add(1, std::memory_order_relaxed)) < teams;) {
                const auto team = static_cast<uint64_t>((static_cast<unsigned __int128>(i) * stride_ + start_) % teams);
                if (!executor->run(*launch, team)) report(executor->fault, *launch);
            }
            const std::lock_guard<std::mutex> guard(mutex_);
            if (--busy_ == 0) done_.notify_all();
        }
    }

    void report(const Fault& fault, const Launch& launch) {
        // Other blocks usually fail in the same way: the first one speaks for all.
        if (failed_.exchange(true)) return;
        reports::add(fault.result, describe(fault, launch.kernel->name));
        const std::lock_guard<std::mutex> guard(mutex_);
        result_ = fault.result;
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const Launch* launch_ = nullptr;
    uint64_t generation_ = 0, start_ = 0, stride_ = 1;
    unsigned workers_ = 0, active_ = 0, busy_ = 0;
    int result_ = 0;
    std::atomic<uint64_t> next_team_{0};
    std::atomic<bool> failed_{false};
};

}  // namespace

int run_grid(const Launch& launch) {
    static Pool* const pool = new Pool;
    install_fault_handlers();
    races::launch_begins();
    return pool->run(launch);
}

}  // namespace emu
