// Runs the blocks of a grid on the CPU.
//
// A thread of a block is a fiber. A set of blocks that must make progress together (one block, a cluster, or the whole
// grid of a cooperative launch) is a team: its fibers take turns on one OS thread, switching directly from one to the
// next at barriers and exchanges. Teams are handed out to OS threads, each of which owns one Executor.
#pragma once

#include <time.h>

#include <atomic>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "host_cuda.h"
#include "reports.h"
#include "settings.h"
#include "switch.h"

namespace emu {

struct Block;
struct Warp;

enum class Wait : uint8_t { nothing, block, warp, cluster };

// The first 64 bytes, one cache line, are all that a switch or an exchange needs: a block's fibers just fill the
// first-level cache.
struct alignas(64) Fiber {
    void* stack_pointer;
    Block* block;
    Warp* warp;
    Site site;  // of the last barrier or exchange
    uint32_t mask;
    int32_t argument;
    uint32_t number;  // in the team
    uint8_t lane;
    uint8_t width;
    Exchange exchange;
    Wait wait;
    bool finished;
    bool in_call;  // between a kernel's call at `site` and its return: what the watchdog may then name
    bool may_run_early;  // of a programmatic launch, and has not yet waited for the kernel before

    uint3 index;
    // How many cluster barriers this thread has arrived at, and how many it has passed.
    uint32_t arrived, passed;
    uint32_t wide_exchanges;
    const void* pc;  // of the last checked access, for the watchdog
    char* stack;
};
static_assert(offsetof(Fiber, in_call) < 64);

// While it lives, the running thread is known to be inside the call at its site.
class InCall {
  public:
    InCall(Fiber* fiber, Site site) : fiber_(fiber) {
        fiber->site = site;
        fiber->in_call = true;
    }
    ~InCall() { fiber_->in_call = false; }
    InCall(const InCall&) = delete;
    InCall& operator=(const InCall&) = delete;

  private:
    Fiber* const fiber_;
};

struct Warp {
    uint32_t ready;     // lanes that can run
    uint32_t waiting;   // lanes that have deposited a value
    uint32_t finished;  // lanes that have returned
    uint32_t members;
    uint32_t epoch;     // counts completed exchanges
    uint32_t priority;  // run_ahead only
    bool uniform;       // all waiting lanes made the same call as the first one
    Fiber* first;
    const Fiber* first_waiting;
    uint64_t values[32], results[32];
    // A lane can be this many exchanges ahead of one that has yet to read what it was handed.
    static constexpr unsigned slots_per_lane = 4;
    char slots[32][slots_per_lane][wide_exchange_bytes];
};

struct Block {
    uint3 index;
    uint64_t number;  // in the grid
    uint32_t rank;    // in the cluster or team
    uint32_t arrived, live;
    uint32_t epoch;  // counts completed barriers
    Site barrier;    // of the first thread to arrive
    bool divergent;  // another one has arrived somewhere else
    char* shared;
    Fiber* first;
    Warp* warps;
    // Checked build: the stretch of this block's life between two points where blocks learn from each other (races.h).
    uint32_t segment;
    uint64_t last_synchronization;
};

// An array in shared memory. The dynamic one comes first; there is an unused gap after each, so that running over the
// end of one is not an access to the next.
struct SharedArray {
    const void* key;
    const char* name;
    uint32_t offset, size;
};

struct Launch {
    const KernelDescription* kernel = nullptr;
    dim3 grid, block, cluster;
    bool cooperative = false;
    bool programmatic = false;  // may begin before the kernel before it in the stream has finished
    uint32_t dynamic_shared = 0;
    uint32_t shared_limit = 0;  // of a block, static and dynamic together
    std::vector<uint64_t> storage;
    std::vector<void*> parameters;
    uint64_t seed = 0;

    uint32_t threads_per_block() const { return block.x * block.y * block.z; }
    uint64_t blocks() const { return uint64_t{grid.x} * grid.y * grid.z; }
    uint32_t cluster_size() const { return cluster.x * cluster.y * cluster.z; }
    uint64_t blocks_per_team() const { return cooperative ? blocks() : cluster_size(); }
    uint64_t teams() const { return blocks() / blocks_per_team(); }
};

// Where something happened: at a known source line, or at an address in the code.
struct Place {
    Site site;
    const void* pc = nullptr;

    Place() = default;
    Place(Site site) : site(site) {}
    explicit Place(const void* pc) : pc(pc) {}
    bool known() const { return pc || site.file; }
    std::string text() const { return pc ? reports::place(pc) : reports::place(site); }
};

// Why a team was abandoned. Written on a fiber or in a signal handler, hence without allocation; put into words later.
struct Fault {
    int result = 0;
    char text[400];
    Place other;  // a second place that the text ends with
    uint3 block, thread;
    Place place;
    // Where else to look if `place` turns out not to lie in a kernel: what may be return addresses, innermost first.
    const void* trail[8];
};

class Executor {
  public:
    static constexpr uint32_t window_bytes = 256 * 1024;  // more than any chip's shared memory
    static constexpr uint64_t window_stride = 2 * window_bytes;

    Executor() = default;
    Executor(const Executor&) = delete;
    Executor& operator=(const Executor&) = delete;

    // Runs one team from start to end. False: it was abandoned, and `fault` says why.
    bool run(const Launch& launch, uint64_t team);

    // Leaves the running fiber for the best one that can run, or for the OS thread's own stack when none can.
    void switch_to_next(Fiber* from);
    // The same after marking the running fiber as not ready.
    void wait(Fiber* from, Wait reason);
    void finish(Fiber* fiber);
    // Back to the OS thread's own stack for good; the other fibers are dropped where they stand.
    [[noreturn]] void abandon();

    bool runs_ahead() const { return schedule_ == Schedule::run_ahead; }
    // Lets every other thread that can run go first: for a thread that polls.
    void stand_aside(Fiber* from);
    void release_block(Block& block);
    void release_cluster();
    size_t shared_end() const { return shared_arrays.back().offset + shared_arrays.back().size; }
    bool on_a_stack(uint64_t address) const;

    const Launch* launch = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<Block> blocks;
    std::vector<SharedArray> shared_arrays;
    uint32_t shared_used = 0;
    char* windows = nullptr;  // the blocks' shared memory, window_stride apart
    // Cluster barrier of the team: threads yet to return, arrivals at the open phase, completed phases.
    uint32_t live = 0, cluster_arrived = 0, cluster_phase = 0;
    Fault fault;
    // Set while a fiber runs kernel code or a wait: the only time when a signal may abandon the team.
    volatile sig_atomic_t in_fibers = 0;
    // Watchdog ticks since the team began (interrupts.cpp).
    volatile sig_atomic_t ticks = 0;
    // Shadow of the windows, one cell a byte, checked build only (shared_races.cpp).
    struct SharedCell* shared_cells = nullptr;
    // Segments of earlier operations last found to be ordered before this one (races.cpp).
    uint32_t first_known_segment = 1, last_known_segment = 0;

  private:
    void reserve(const Launch& launch);
    void prepare(const Launch& launch, uint64_t team);
    void prepare_block(const Launch& launch, Block& block, uint64_t number, uint32_t rank);
    Fiber* next(Fiber* from);
    Fiber* next_in_other_warp(Fiber* from);
    Fiber* next_running_ahead();
    void enter(Fiber* from, Fiber* to);
    uint32_t random_priority() { return random_.next() | 0x80000000u; }
    void report_deadlock();
    void check_stacks();

    void* own_stack_ = nullptr;  // stack pointer of the OS thread while fibers run
    char* stacks_ = nullptr;
    size_t stack_count_ = 0, window_count_ = 0;
    size_t fiber_count_ = 0, warp_count_ = 0;
    Schedule schedule_ = Schedule::lock_step;
    Random random_{0};
    bool rescan_ = true;
    // Warps that stood aside have priorities below all random ones, the latest the lowest: so pollers take turns.
    uint32_t lowest_priority_ = 0x7fffffff;
    Warp* running_warp_ = nullptr;
};

// initial-exec makes these two one instruction away; it also makes the library's TLS static, whose room is small:
// nothing larger may be thread_local here.
extern thread_local Fiber* current __attribute__((tls_model("initial-exec")));
extern thread_local Executor* executor __attribute__((tls_model("initial-exec")));

// The switch from fiber to fiber, inline: it happens some thousand times a block.

inline void Executor::enter(Fiber* from, Fiber* to) {
    if (to == from) return;
    current = to;
    switch_stacks(from ? &from->stack_pointer : &own_stack_, to ? to->stack_pointer : own_stack_);
}

inline Fiber* Executor::next(Fiber* from) {
    if (runs_ahead()) return next_running_ahead();
    if (!from) return next_in_other_warp(nullptr);
    Warp* const warp = from->warp;
    // Lanes above the current one. (2u << 31) is 0, and the mask then empty, as it must be.
    const uint32_t above = warp->ready & ~((2u << from->lane) - 1);
    if (above) return warp->first + __builtin_ctz(above);
    if (warp->ready) return warp->first + __builtin_ctz(warp->ready);
    return next_in_other_warp(from);
}

inline void Executor::switch_to_next(Fiber* from) { enter(from, next(from)); }

inline void Executor::wait(Fiber* from, Wait reason) {
    from->wait = reason;
    from->warp->ready &= ~(1u << from->lane);
    switch_to_next(from);
}

// Records why the running team cannot go on, and abandons it. `other` is appended to the text as a place.
[[noreturn]] __attribute__((format(printf, 4, 5))) void fail(int result, Place place, Place other, const char* format,
                                                             ...);
__attribute__((format(printf, 5, 0))) void record_fault(Fiber* who, int result, Place place, Place other,
                                                        const char* format, va_list arguments);

const std::vector<KernelDescription>& kernel_table();

// Runs a whole grid on the pool's threads. Returns 0, or the result that its first fault calls for, already reported.
int run_grid(const Launch& launch);

// Installs the handlers that turn a kernel's faults and endless loops into reports.
void install_fault_handlers();

// Interrupts its OS thread regularly, to see whether the team that runs there is still the same.
class Watchdog {
  public:
    Watchdog();
    void set(double seconds);

  private:
    timer_t timer_;
    double seconds_ = 0;
};

}  // namespace emu
