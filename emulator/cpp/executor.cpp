#include "executor.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>

#include "races.h"

namespace emu {

thread_local Fiber* current __attribute__((tls_model("initial-exec")));
thread_local Executor* executor __attribute__((tls_model("initial-exec")));

namespace {

// Not a multiple of the page size: the tops of all stacks would fall into the same few cache sets.
constexpr size_t stack_bytes = 32 * 1024 + 4160;
constexpr uint64_t stack_mark = 0x5AFE57AC5AFE57ACull;

// Kernels and their parameters are read by address, so the vector must not move later: it grows only before main.
std::vector<KernelDescription>& mutable_table() {
    static auto* const table = new std::vector<KernelDescription>;
    return *table;
}

void fiber_main() {
    Executor& x = *executor;
    x.launch->kernel->call(x.launch->parameters.data());
    x.finish(current);
    __builtin_unreachable();
}

void* fresh_stack(char* stack) {
    *reinterpret_cast<uint64_t*>(stack) = stack_mark;
    void* const top = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(stack + stack_bytes - 64) & ~uintptr_t{15});
    return prepare_stack(top, fiber_main);
}

char* map_pages(size_t bytes) {
    void* const pages =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        perror("emulator: mmap");
        abort();
    }
    return static_cast<char*>(pages);
}

uint3 position(uint64_t number, dim3 shape) {
    return {static_cast<unsigned>(number % shape.x), static_cast<unsigned>(number / shape.x % shape.y),
            static_cast<unsigned>(number / (uint64_t{shape.x} * shape.y))};
}

}  // namespace

int register_kernel(const KernelDescription& kernel) {
    mutable_table().push_back(kernel);
    return 0;
}

const std::vector<KernelDescription>& kernel_table() { return mutable_table(); }

uint3 thread_index() { return current->index; }
uint3 block_index() { return current->block->index; }
dim3 block_shape() { return executor->launch->block; }
dim3 grid_shape() { return executor->launch->grid; }

void record_fault(Fiber* who, int result, Place place, Place other, const char* format, va_list arguments) {
    Fault& fault = executor->fault;
    fault.result = result;
    vsnprintf(fault.text, sizeof fault.text, format, arguments);
    fault.place = place;
    fault.other = other;
    std::fill(std::begin(fault.trail), std::end(fault.trail), nullptr);
    fault.block = who->block->index;
    fault.thread = who->index;
}

void fail(int result, Place place, Place other, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_fault(current, result, place, other, format, arguments);
    va_end(arguments);
    executor->abandon();
}

void Executor::abandon() {
    void* dropped;
    current = nullptr;
    switch_stacks(&dropped, own_stack_);
    __builtin_unreachable();
}

void Executor::stand_aside(Fiber* from) {
    if (runs_ahead()) {
        from->warp->priority = --lowest_priority_;
        rescan_ = true;
        switch_to_next(from);
        return;
    }
    // The lock-step scan prefers the poller's own warp, where it would find the poller: go round the team instead.
    const uint32_t above = from->warp->ready & ~((2u << from->lane) - 1);
    if (above) {
        enter(from, from->warp->first + __builtin_ctz(above));
        return;
    }
    Warp* const end = warps.data() + warp_count_;
    Warp* warp = from->warp;
    do {
        if (++warp == end) warp = warps.data();
    } while (!warp->ready);
    enter(from, warp->first + __builtin_ctz(warp->ready));
}

Fiber* Executor::next_in_other_warp(Fiber* from) {
    Warp* const begin = warps.data();
    Warp* const end = begin + warp_count_;
    if (from) {
        for (Warp* w = from->warp + 1; w < end; w++) {
            if (w->ready) return w->first + __builtin_ctz(w->ready);
        }
    }
    for (Warp* w = begin; w < end; w++) {
        if (w->ready) return w->first + __builtin_ctz(w->ready);
    }
    return nullptr;
}

Fiber* Executor::next_running_ahead() {
    // Priorities are strict, so the running warp keeps running until it cannot, or a release made others ready.
    if (rescan_ || !running_warp_ || !running_warp_->ready) {
        rescan_ = false;
        running_warp_ = nullptr;
        for (size_t i = 0; i < warp_count_; i++) {
            Warp& warp = warps[i];
            if (warp.ready && (!running_warp_ || warp.priority > running_warp_->priority)) running_warp_ = &warp;
        }
        if (!running_warp_) return nullptr;
    }
    const uint32_t chance = random_.next();
    if ((chance & 255) == 0) {
        running_warp_->priority = random_priority();
        rescan_ = true;
    }
    const uint32_t start = chance >> 27;
    const uint32_t ready = running_warp_->ready;
    const uint32_t turned = ready >> start | ready << (-start & 31);
    return running_warp_->first + ((__builtin_ctz(turned) + start) & 31);
}

void Executor::release_block(Block& block) {
    block.arrived = 0;
    block.epoch++;
    const uint32_t count = (launch->threads_per_block() + 31) / 32;
    for (uint32_t i = 0; i < count; i++) block.warps[i].ready |= block.warps[i].members & ~block.warps[i].finished;
    rescan_ = true;
}

void Executor::release_cluster() {
    cluster_arrived = 0;
    cluster_phase++;
    races::team_synchronized(*this);
    for (size_t i = 0; i < warp_count_; i++) {
        Warp& warp = warps[i];
        for (uint32_t idle = warp.members & ~warp.finished & ~warp.ready; idle; idle &= idle - 1) {
            const Fiber& fiber = warp.first[__builtin_ctz(idle)];
            if (fiber.wait == Wait::cluster) warp.ready |= 1u << fiber.lane;
        }
    }
    rescan_ = true;
}

void Executor::finish(Fiber* fiber) {
    Warp& warp = *fiber->warp;
    Block& block = *fiber->block;
    const uint32_t bit = 1u << fiber->lane;
    if (fiber->may_run_early) {
        fail(reports::launch_failed, fiber->site, {},
             "a thread of a programmatic launch has returned without waiting for the kernel before");
    }
    fiber->finished = true;
    warp.finished |= bit;
    warp.ready &= ~bit;
    for (uint32_t lanes = warp.waiting; lanes; lanes &= lanes - 1) {
        const Fiber& waiter = warp.first[__builtin_ctz(lanes)];
        if (waiter.mask & bit) {
            fail(reports::launch_failed, waiter.site, {},
                 "lane %u has returned while lane %u of its warp waits for it (mask %#x)", fiber->lane, waiter.lane,
                 waiter.mask);
        }
    }
    block.live--;
    live--;
    if (block.live && block.arrived == block.live) {
        const Fiber* waiter = block.first;
        while (waiter->finished) waiter++;
        fail(reports::launch_failed, waiter->site, {}, "barrier reached by %u of %u threads, the others have returned",
             block.live, launch->threads_per_block());
    }
    // Threads that have returned count as arrived for the rest of the cluster.
    if (live && cluster_arrived == live) release_cluster();
    switch_to_next(fiber);
}

void Executor::reserve(const Launch& launch) {
    const size_t block_count = launch.blocks_per_team();
    const size_t per_block = launch.threads_per_block();
    const size_t warps_per_block = (per_block + 31) / 32;
    fiber_count_ = block_count * per_block;
    warp_count_ = block_count * warps_per_block;
    if (fibers.size() < fiber_count_) fibers.resize(fiber_count_);
    if (warps.size() < warp_count_) warps.resize(warp_count_);
    blocks.resize(block_count);
    // Mapped once and used again by later teams: their pages are warm.
    if (stack_count_ < fiber_count_) {
        if (stacks_) munmap(stacks_, stack_count_ * stack_bytes);
        stack_count_ = fiber_count_;
        stacks_ = map_pages(stack_count_ * stack_bytes);
    }
    if (window_count_ < block_count) {
        if (windows) munmap(windows, window_count_ * window_stride);
        if (shared_cells) races::unmap_cells(shared_cells, window_count_);
        window_count_ = block_count < 16 ? 16 : block_count;
        windows = map_pages(window_count_ * window_stride);
        for (size_t i = 0; i < window_count_; i++) {
            mprotect(windows + i * window_stride + window_bytes, window_stride - window_bytes, PROT_NONE);
        }
        if (checked_build) shared_cells = races::map_cells(window_count_);
    }
}

void Executor::prepare_block(const Launch& launch, Block& block, uint64_t number, uint32_t rank) {
    const uint32_t threads = launch.threads_per_block();
    const uint32_t warp_count = (threads + 31) / 32;
    block.index = position(number, launch.grid);
    block.number = number;
    block.rank = rank;
    block.arrived = 0;
    block.live = threads;
    block.epoch = 1;
    block.shared = windows + rank * window_stride;
    block.first = &fibers[size_t{rank} * threads];
    block.warps = &warps[size_t{rank} * warp_count];
    // All ones: a float that nobody wrote is NaN.
    std::memset(block.shared, 0xFF, launch.dynamic_shared);
    for (uint32_t i = 0; i < warp_count; i++) {
        const uint32_t lanes = threads - i * 32 < 32 ? threads - i * 32 : 32;
        Warp& warp = block.warps[i];
        warp.members = warp.ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
        warp.waiting = warp.finished = 0;
        warp.epoch = 1;
        warp.first = block.first + i * 32;
        warp.priority = runs_ahead() ? random_priority() : 0;
    }
    for (uint32_t i = 0; i < threads; i++) {
        Fiber& fiber = block.first[i];
        fiber.block = &block;
        fiber.warp = &block.warps[i / 32];
        fiber.index = position(i, launch.block);
        fiber.number = rank * threads + i;
        fiber.lane = i % 32;
        fiber.finished = fiber.in_call = false;
        fiber.may_run_early = launch.programmatic;
        fiber.wait = Wait::nothing;
        fiber.site = {};
        fiber.arrived = fiber.passed = 0;
        fiber.wide_exchanges = 0;
        fiber.pc = nullptr;
        fiber.stack = stacks_ + size_t{fiber.number} * stack_bytes;
        fiber.stack_pointer = fresh_stack(fiber.stack);
    }
}

void Executor::prepare(const Launch& launch, uint64_t team) {
    reserve(launch);
    this->launch = &launch;
    schedule_ = settings.schedule;
    random_ = Random(launch.seed ^ (team + 1) * 0xD1B54A32D192ED03ull);
    rescan_ = true;
    lowest_priority_ = 0x7fffffff;
    running_warp_ = nullptr;
    live = static_cast<uint32_t>(fiber_count_);
    cluster_arrived = cluster_phase = 0;
    fault.result = 0;
    shared_arrays.clear();
    shared_arrays.push_back({nullptr, "dynamic shared memory", 0, launch.dynamic_shared});
    shared_used = launch.dynamic_shared;
    if (launch.cooperative) {
        for (uint64_t i = 0; i < blocks.size(); i++) prepare_block(launch, blocks[i], i, static_cast<uint32_t>(i));
    } else {
        const dim3 clusters{launch.grid.x / launch.cluster.x, launch.grid.y / launch.cluster.y,
                            launch.grid.z / launch.cluster.z};
        const uint3 where = position(team, clusters);
        for (uint32_t rank = 0; rank < blocks.size(); rank++) {
            const uint3 inside = position(rank, launch.cluster);
            const uint64_t x = where.x * launch.cluster.x + inside.x, y = where.y * launch.cluster.y + inside.y,
                           z = where.z * launch.cluster.z + inside.z;
            prepare_block(launch, blocks[rank], (z * launch.grid.y + y) * launch.grid.x + x, rank);
        }
    }
    races::team_begins(*this);
}

bool Executor::run(const Launch& launch, uint64_t team) {
    prepare(launch, team);
    ticks = 0;
    in_fibers = 1;
    switch_to_next(nullptr);
    in_fibers = 0;
    if (!fault.result && live) report_deadlock();
    if (!fault.result) check_stacks();
    this->launch = nullptr;
    return fault.result == 0;
}

void Executor::report_deadlock() {
    uint32_t at_barrier = 0, at_exchange = 0, at_cluster = 0;
    const Fiber* example = nullptr;
    for (size_t i = 0; i < fiber_count_; i++) {
        const Fiber& fiber = fibers[i];
        if (fiber.finished) continue;
        if (fiber.wait == Wait::block) at_barrier++;
        if (fiber.wait == Wait::warp) at_exchange++;
        if (fiber.wait == Wait::cluster) at_cluster++;
        if (!example) example = &fiber;
    }
    const Fiber* other = nullptr;
    for (size_t i = 0; i < fiber_count_ && !other; i++) {
        const Fiber& fiber = fibers[i];
        if (!fiber.finished && (fiber.site.line != example->site.line || fiber.wait != example->wait)) other = &fiber;
    }
    fault.result = reports::launch_failed;
    snprintf(fault.text, sizeof fault.text,
             "deadlock: %u threads wait at a block barrier, %u in a warp exchange, %u at a cluster barrier, %zu have "
             "returned%s",
             at_barrier, at_exchange, at_cluster, fiber_count_ - at_barrier - at_exchange - at_cluster,
             other ? "; another thread waits" : "");
    fault.other = other ? Place(other->site) : Place();
    fault.place = example->site;
    fault.block = example->block->index;
    fault.thread = example->index;
}

bool Executor::on_a_stack(uint64_t address) const {
    return address - reinterpret_cast<uint64_t>(stacks_) < stack_count_ * stack_bytes;
}

void Executor::check_stacks() {
    for (size_t i = 0; i < fiber_count_; i++) {
        if (*reinterpret_cast<const uint64_t*>(fibers[i].stack) == stack_mark) continue;
        fault.result = reports::launch_failed;
        snprintf(fault.text, sizeof fault.text, "a thread needs more stack than the emulator's %zu bytes", stack_bytes);
        fault.other = fault.place = {};
        fault.block = fibers[i].block->index;
        fault.thread = fibers[i].index;
        return;
    }
}

}  // namespace emu
