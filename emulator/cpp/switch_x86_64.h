// switch_stacks on x86-64, as inline assembly.
//
// Two things make it quick. It ends in a jump, not in `ret`: the address belongs to another stack, and the processor's
// return predictor would guess wrong every time. And it is no call itself, so that the predictor's own stack stays in
// step when the resumed fiber returns to its kernel. Registers are not saved but declared lost; the compiler keeps what
// it needs on the fiber's stack. No kernel changes the rounding mode, so that is not saved either.
//
// The pushes go below the stack pointer, where a leaf function may keep its variables: build.rs compiles the emulator
// without that "red zone".
#pragma once

#include <cstdint>

namespace emu {

// Leaves the running stack, noting in `save` how to come back, and continues on the one whose note is `to`.
__attribute__((always_inline)) inline void switch_stacks(void** save, void* to) {
    asm volatile(
        "leaq 1f(%%rip), %%rcx\n\t"
        "pushq %%rcx\n\t"
        "pushq %%rbp\n\t"
        "pushq %%rbx\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rbx\n\t"
        "popq %%rbp\n\t"
        "popq %%rcx\n\t"
        "jmp *%%rcx\n\t"
        "1:"
        : "+D"(save), "+S"(to)
        :
        : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3",
          "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
          "memory", "cc");
}

// Makes a stack whose first switch enters `start`, which must not return. `top` is aligned to 16 bytes.
inline void* prepare_stack(void* top, void (*start)()) {
    void** at = static_cast<void**>(top);
    *--at = nullptr;  // where a return address would stand: it sets the alignment that a function expects
    *--at = reinterpret_cast<void*>(start);
    *--at = nullptr;  // rbp
    *--at = nullptr;  // rbx
    return at;
}

}  // namespace emu
