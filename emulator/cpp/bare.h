// Launches while execution is off (emu_configure): they stand for those of a driver, so that what a program adds to them
// can be measured. A driver takes no lock that other threads hold for long, writes no list and frees nothing.
//
// What a thread has found out about its handles under the lock, it remembers until a call changes something, whoever makes
// it. So a launch that follows a launch takes no lock, counts nothing and allocates nothing.
#pragma once

#include <cstddef>

namespace emu::driver {
struct Function;
}

namespace emu::driver::bare {

// A kernel with more bytes of parameters is launched as ever.
constexpr size_t most_parameter_bytes = 4096;

void set(bool on);
// Something is about to change. Under the lock.
void change();

// The function, if this thread knows that it can be launched on the stream; else null, and the driver must be asked.
const Function* known(const void* function, const void* stream);
// They can be launched. Under the lock; does nothing while execution is on.
void remember(const Function* function, const void* stream);

// Whether this thread knows its current context, and then which it is.
bool known_context(void** context);
void remember_context(void* context);

}  // namespace emu::driver::bare
