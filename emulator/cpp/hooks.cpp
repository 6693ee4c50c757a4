// The functions that `-fsanitize=thread` makes the kernels call at every load and store. Linked without the sanitizer's
// runtime, they are ours.
#include "races.h"

using emu::Place;
using emu::races::checked_access;

// The call's return address, less one, lies inside the instruction sequence of the access.
#define CALLER Place(static_cast<const char*>(__builtin_return_address(0)) - 1)
#define HOOK extern "C" __attribute__((visibility("hidden"))) void

#define ACCESS(bytes)                                                                                   \
    HOOK __tsan_read##bytes(void* address) { checked_access(address, bytes, false, CALLER); }           \
    HOOK __tsan_write##bytes(void* address) { checked_access(address, bytes, true, CALLER); }           \
    HOOK __tsan_volatile_read##bytes(void* address) { checked_access(address, bytes, false, CALLER); }  \
    HOOK __tsan_volatile_write##bytes(void* address) { checked_access(address, bytes, true, CALLER); }  \
    HOOK __tsan_unaligned_read##bytes(void* address) { checked_access(address, bytes, false, CALLER); } \
    HOOK __tsan_unaligned_write##bytes(void* address) { checked_access(address, bytes, true, CALLER); }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

HOOK __tsan_read_range(void* address, size_t bytes) {
    checked_access(address, static_cast<unsigned>(bytes), false, CALLER);
}
HOOK __tsan_write_range(void* address, size_t bytes) {
    checked_access(address, static_cast<unsigned>(bytes), true, CALLER);
}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit(void*) {}
HOOK __tsan_init() {}
HOOK __tsan_vptr_update(void*, void*) {}
