// switch_stacks on aarch64; the assembly stands in switch_aarch64.S.
#pragma once

#include <cstdint>
#include <cstring>

extern "C" void emu_switch(void** save, void* stack);

namespace emu {

// Leaves the running stack, noting in `save` how to come back, and continues on the one whose note is `to`.
inline void switch_stacks(void** save, void* to) { emu_switch(save, to); }

// Makes a stack whose first switch enters `start`, which must not return. `top` is aligned to 16 bytes.
inline void* prepare_stack(void* top, void (*start)()) {
    constexpr int frame_words = 20, link_register = 11;
    void** const frame = static_cast<void**>(top) - frame_words;
    std::memset(frame, 0, frame_words * sizeof(void*));
    frame[link_register] = reinterpret_cast<void*>(start);
    return frame;
}

}  // namespace emu
