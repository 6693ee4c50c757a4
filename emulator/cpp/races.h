// The checked build's knowledge of who may touch what: bounds, races inside a block, races between blocks, and reads of
// shared memory that nobody wrote. In the plain build every function here returns at once.
//
// Between blocks. The life of a block is cut into segments at every point where blocks can learn from each other: an
// atomic, a fence, a spin's yield, a cluster barrier. Each byte of device memory remembers the segment that wrote and
// the one that read it last. Two accesses of different blocks, one a write, are ordered only if the first one's segment
// had ended before the second block last reached such a point. That ignores which atomic was used: some races are
// missed, but correctly synchronized blocks are never accused.
//
// Between operations of streams. A segment also tells the operation that it belonged to, and order.h whether that is
// known to come before the present one.
//
// Inside a team. Each byte of shared memory remembers its last writer and two readers with the numbers of barriers and
// exchanges they had passed (shared_races.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "executor.h"
#include "memory.h"
#include "order.h"

namespace emu {

struct SharedCell;

namespace races {

// An operation of a stream begins to run: what is touched from now on is its doing.
void operation_begins(std::shared_ptr<const order::Mark> mark);
// A copy, fill or release by the driver. A CUresult: not success if an operation of another stream has touched these
// bytes and nothing orders the two.
int driver_access(const Allocation& allocation, uint64_t address, size_t bytes, bool write);
void forget_everything();
// The host has waited for all streams: what ran before is ordered before all that follows.
void host_has_waited_for_all();

void launch_begins();
void team_begins(Executor& x);
// A cluster barrier has completed.
void team_synchronized(Executor& x);
// One block has passed an atomic or a spin's yield.
void block_synchronized(Block& block);

// An access of the running thread to any memory; does not return if it is wrong.
void checked_access(const void* address, unsigned bytes, bool write, Place place);

void shared_array_appears(Executor& x, const Block& block, size_t offset, size_t bytes);
SharedCell* map_cells(size_t windows);
void unmap_cells(SharedCell* cells, size_t windows);
bool in_shared_memory(const Executor& x, uint64_t address);
void shared_atomic(Executor& x, uint64_t address, unsigned bytes, Place place);
// Called by checked_access.
void shared_access(Executor& x, uint64_t address, unsigned bytes, bool write, Place place);

}  // namespace races
}  // namespace emu
