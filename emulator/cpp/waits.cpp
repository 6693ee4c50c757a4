// Where a thread of a kernel waits for others: barriers, exchanges between lanes, cluster barriers, spins; and what it
// reaches of its own and its neighbours' shared memory.
#include "executor.h"
#include "races.h"

namespace emu {

namespace {

[[noreturn]] void report_divergence(const Block& block, Site site) {
    const Fiber* other = block.first;
    while (other->finished || (other->site.line == site.line && other->site.file == site.file)) other++;
    fail(reports::launch_failed, site, other->site,
         "divergent barrier: the threads of a block wait at different barriers, thread (%u,%u,%u) at", other->index.x,
         other->index.y, other->index.z);
}

}  // namespace

void wait_for_prerequisites() { current->may_run_early = false; }

void block_barrier(Site site) {
    Executor& x = *executor;
    Fiber* const me = current;
    Block& block = *me->block;
    const InCall in_call(me, site);
    if (block.arrived == 0) {
        block.barrier = site;
        block.divergent = false;
    } else if (block.barrier.line != site.line || block.barrier.file != site.file) {
        block.divergent = true;
    }
    if (++block.arrived < block.live) {
        x.wait(me, Wait::block);
        return;
    }
    if (block.divergent) report_divergence(block, site);
    const uint32_t threads = x.launch->threads_per_block();
    if (block.live != threads) {
        fail(reports::launch_failed, site, {}, "barrier reached by %u of %u threads, the others have returned",
             block.live, threads);
    }
    x.release_block(block);
    if (x.runs_ahead()) x.switch_to_next(me);
}

namespace {

// The lane that `lane` reads from. Out of range is the lane itself, as on the chip.
int source_lane(const Fiber& reader) {
    const int lane = reader.lane;
    const int segment = lane & ~(reader.width - 1);
    const int inside = lane & (reader.width - 1);
    switch (reader.exchange) {
        case Exchange::read_lane: return segment + (reader.argument & (reader.width - 1));
        case Exchange::read_xor: {
            const int source = lane ^ reader.argument;
            return source >= segment + reader.width || source > 31 ? lane : source;
        }
        case Exchange::read_down: return inside + reader.argument >= reader.width ? lane : lane + reader.argument;
        case Exchange::read_up: return inside - reader.argument < 0 ? lane : lane - reader.argument;
        default: return lane;
    }
}

bool same_call(const Fiber& a, const Fiber& b) {
    return a.mask == b.mask && a.exchange == b.exchange && a.argument == b.argument && a.width == b.width &&
           a.site.line == b.site.line && a.site.file == b.site.file;
}

// The lanes of a mask must meet in one call. What they hand over (the lane to read from) may differ.
void check_same_exchange(const Warp& warp, uint32_t mask, const Fiber& last) {
    for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
        const Fiber& fiber = warp.first[__builtin_ctz(lanes)];
        if (fiber.mask == mask && fiber.exchange == last.exchange && fiber.site.line == last.site.line &&
            fiber.site.file == last.site.file) {
            continue;
        }
        fail(reports::launch_failed, last.site, fiber.site,
             "lanes of a warp meet in different exchanges (masks %#x and %#x), lane %u at", mask, fiber.mask,
             fiber.lane);
    }
}

// All lanes of `mask` have deposited their values: computes what each receives.
void complete_exchange(Warp& warp, uint32_t mask, Site site) {
    const Fiber& last = *current;
    if (!warp.uniform) check_same_exchange(warp, mask, last);
    switch (last.exchange) {
        case Exchange::synchronize: return;
        case Exchange::ballot:
        case Exchange::any:
        case Exchange::all: {
            uint32_t votes = 0;
            for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
                const int lane = __builtin_ctz(lanes);
                votes |= static_cast<uint32_t>(warp.values[lane] & 1) << lane;
            }
            const uint32_t result = last.exchange == Exchange::ballot ? votes
                                    : last.exchange == Exchange::any  ? votes != 0
                                                                      : votes == mask;
            for (uint64_t& slot : warp.results) slot = result;
            return;
        }
        default: break;
    }
    if (last.exchange == Exchange::read_xor && mask == ~0u && warp.uniform && last.width == 32) {
        // The butterfly of every reduction, by far the commonest exchange.
        for (int lane = 0; lane < 32; lane++) warp.results[lane] = warp.values[(lane ^ last.argument) & 31];
        return;
    }
    for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        const int source = source_lane(warp.first[lane]);
        if (!(mask >> source & 1)) {
            fail(reports::launch_failed, site, {}, "lane %d shuffles from lane %d, which is not in the mask %#x", lane,
                 source, mask);
        }
        warp.results[lane] = warp.values[source];
    }
}

}  // namespace

uint64_t exchange(Exchange kind, uint32_t mask, uint64_t value, int argument, int width, Site site) {
    Executor& x = *executor;
    Fiber* const me = current;
    Warp& warp = *me->warp;
    const uint32_t bit = 1u << me->lane;
    const InCall in_call(me, site);
    me->exchange = kind;
    me->mask = mask;
    me->argument = argument;
    me->width = static_cast<uint8_t>(width);
    if (!(mask & bit)) {
        fail(reports::launch_failed, site, {}, "lane %u calls a warp exchange whose mask %#x does not name it",
             me->lane, mask);
    }
    // Lanes beyond the end of a block whose size is no multiple of 32 do not exist, which CUDA allows a mask to ignore.
    mask &= warp.members;
    me->mask = mask;
    if (mask & warp.finished) {
        fail(reports::launch_failed, site, {}, "warp exchange with mask %#x, of which lanes %#x have returned", mask,
             mask & warp.finished);
    }
    if (warp.waiting == 0) {
        warp.uniform = true;
        warp.first_waiting = me;
    } else if (!same_call(*me, *warp.first_waiting)) {
        warp.uniform = false;
    }
    warp.values[me->lane] = value;
    warp.waiting |= bit;
    if ((warp.waiting & mask) != mask) {
        x.wait(me, Wait::warp);
        return warp.results[me->lane];
    }
    complete_exchange(warp, mask, site);
    warp.waiting &= ~mask;
    warp.ready |= mask;
    warp.epoch++;
    const uint64_t result = warp.results[me->lane];
    if (x.runs_ahead()) x.switch_to_next(me);
    return result;
}

void* wide_exchange_slot() {
    Fiber* const me = current;
    return me->warp->slots[me->lane][me->wide_exchanges++ % Warp::slots_per_lane];
}

void spin_yield(Site site) {
    Executor& x = *executor;
    Fiber* const me = current;
    const InCall in_call(me, site);
    races::block_synchronized(*me->block);
    x.stand_aside(me);
}

uint32_t cluster_rank() { return executor->launch->cooperative ? 0 : current->block->rank; }
uint32_t cluster_size() { return executor->launch->cluster_size(); }

void cluster_arrive(Site site) {
    Executor& x = *executor;
    Fiber* const me = current;
    const InCall in_call(me, site);
    if (me->arrived != me->passed) {
        fail(reports::launch_failed, site, {}, "second arrival at the cluster barrier without a wait between");
    }
    me->arrived++;
    if (++x.cluster_arrived == x.live) x.release_cluster();
}

void cluster_wait(Site site) {
    Executor& x = *executor;
    Fiber* const me = current;
    const InCall in_call(me, site);
    if (me->arrived == me->passed) {
        fail(reports::launch_failed, site, {}, "wait at the cluster barrier without an arrival before");
    }
    if (x.cluster_phase < me->arrived) x.wait(me, Wait::cluster);
    me->wait = Wait::nothing;
    me->passed = me->arrived;
    if (x.runs_ahead()) x.switch_to_next(me);
}

void* dynamic_shared() { return current->block->shared; }

void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Site site) {
    Executor& x = *executor;
    for (const SharedArray& array : x.shared_arrays) {
        if (array.key == key) return current->block->shared + array.offset;
    }
    // The gap makes an access just past one array's end miss the next one. It does not count as used.
    constexpr size_t gap = 64;
    const size_t offset = (x.shared_end() + gap + alignment - 1) / alignment * alignment;
    x.shared_used += static_cast<uint32_t>(bytes);
    if (x.shared_used > x.launch->shared_limit || offset + bytes > Executor::window_bytes) {
        fail(reports::launch_out_of_resources, site, {},
             "static and dynamic shared memory of the block are %u bytes, the device has %u", x.shared_used,
             x.launch->shared_limit);
    }
    x.shared_arrays.push_back({key, name, static_cast<uint32_t>(offset), static_cast<uint32_t>(bytes)});
    for (Block& block : x.blocks) {
        std::memset(block.shared + offset, 0xFF, bytes);
        races::shared_array_appears(x, block, offset, bytes);
    }
    return current->block->shared + offset;
}

namespace {

char* in_window_of(const float* address, unsigned rank, bool write, Site site) {
    Executor& x = *executor;
    const Fiber& me = *current;
    const auto offset = static_cast<uint64_t>(reinterpret_cast<const char*>(address) - me.block->shared);
    if (rank >= cluster_size() || offset + sizeof(float) > Executor::window_bytes) {
        fail(reports::illegal_address, site, {}, "cluster %s: rank %u of %u, at offset %lld of shared memory",
             write ? "store" : "load", rank, cluster_size(), static_cast<long long>(offset));
    }
    Block& peer = x.launch->cooperative ? *me.block : x.blocks[rank];
    if (peer.live == 0) {
        fail(reports::illegal_address, site, {}, "cluster %s reaches block rank %u, which has already returned",
             write ? "store" : "load", rank);
    }
    char* const target = peer.shared + offset;
    races::checked_access(target, sizeof(float), write, Place(site));
    return target;
}

}  // namespace

float load_from_rank(const float* address, unsigned rank, Site site) {
    return *reinterpret_cast<const float*>(in_window_of(address, rank, false, site));
}

void store_to_rank(float* address, unsigned rank, float value, Site site) {
    *reinterpret_cast<float*>(in_window_of(address, rank, true, site)) = value;
}

}  // namespace emu
