// What a test may choose (emu_configure), read by the executor and the driver.
#pragma once

#include <cstdint>

namespace emu {

enum class Schedule : int {
    // Lanes of a warp in order, warps in order: reproducible and quick, but it hides most missing barriers.
    lock_step = 0,
    // Every warp has a random priority, changed at rare random points, so that one may run far ahead of the others.
    // (Choosing uniformly at every step keeps warps together and found none of the rare races in the prototype.)
    run_ahead = 1,
};

struct Settings {
    uint64_t seed = 0;
    Schedule schedule = Schedule::lock_step;
    bool lazy_streams = true;
    unsigned threads = 0;  // 0: one per core
    double watchdog_seconds = 10;
    bool execute = true;  // false: launches are checked and accepted, and nothing runs (bare.h)
};

// Written under the driver's lock while no grid runs.
extern Settings settings;

// True in the build whose kernels report every access to the hooks.
extern const bool checked_build;

// xorshift64*: small, seedable, and the same on every machine.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull | 1) {
        for (int i = 0; i < 4; i++) next();
    }
    uint32_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<uint32_t>((state_ * 0x2545F4914F6CDD1Dull) >> 32);
    }
    uint32_t below(uint32_t limit) { return static_cast<uint32_t>((uint64_t{next()} * limit) >> 32); }

  private:
    uint64_t state_;
};

}  // namespace emu
