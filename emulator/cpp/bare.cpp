#include "bare.h"

#include <atomic>
#include <cstdint>

namespace emu::driver::bare {
namespace {

// Plans of two launches take turns between two functions.
constexpr size_t launches = 4;

struct Known {
    uint64_t changes = 0;  // that had been made when all of this was found
    bool has_context = false;
    void* context = nullptr;
    struct {
        const Function* function;
        const void* stream;
    } launch[launches] = {};
    size_t next = 0;
};

std::atomic<bool> is_on{false};
std::atomic<uint64_t> changes{1};

// A pointer, because room for thread_local variables is small (executor.h). Kept until the process ends.
thread_local Known* of_thread __attribute__((tls_model("initial-exec")));

const Known* still_true() {
    const Known* const known = of_thread;
    if (!known || !is_on.load(std::memory_order_relaxed)) return nullptr;
    return known->changes == changes.load(std::memory_order_acquire) ? known : nullptr;
}

Known& to_extend() {
    if (!of_thread) of_thread = new Known;
    if (of_thread->changes != changes.load(std::memory_order_relaxed)) {
        *of_thread = Known();
        of_thread->changes = changes.load(std::memory_order_relaxed);
    }
    return *of_thread;
}

}  // namespace

void set(bool on) { is_on.store(on, std::memory_order_relaxed); }
void change() { changes.fetch_add(1, std::memory_order_release); }

const Function* known(const void* function, const void* stream) {
    const Known* const known = still_true();
    if (!known) return nullptr;
    for (const auto& launch : known->launch) {
        if (launch.function == function && launch.stream == stream) return launch.function;
    }
    return nullptr;
}

void remember(const Function* function, const void* stream) {
    if (!is_on.load(std::memory_order_relaxed)) return;
    Known& known = to_extend();
    known.launch[known.next++ % launches] = {function, stream};
}

bool known_context(void** context) {
    const Known* const known = still_true();
    if (!known || !known->has_context) return false;
    *context = known->context;
    return true;
}

void remember_context(void* context) {
    if (!is_on.load(std::memory_order_relaxed)) return;
    Known& known = to_extend();
    known.has_context = true;
    known.context = context;
}

}  // namespace emu::driver::bare
