// The entry points of the Rust side of this crate (src/lib.rs). Not part of CUDA.
#include <cstdio>
#include <cstring>

#include "bare.h"
#include "driver.h"
#include "races.h"

namespace emu {

#ifdef EMU_CHECKED
extern const bool checked_build = true;
#else
extern const bool checked_build = false;
#endif

namespace driver {
std::string calls_text();
}

namespace {

// Copies a text and returns its whole length, so that a caller can come back with more room.
size_t give(const std::string& text, char* buffer, size_t bytes) {
    snprintf(buffer, bytes, "%s", text.c_str());
    return text.size();
}

}  // namespace
}  // namespace emu

using namespace emu;

#define CONTROL(type) extern "C" __attribute__((visibility("default"))) type

CONTROL(int) emu_is_checked() { return checked_build; }

// Returns 0 for a profile that does not exist.
CONTROL(int)
emu_configure(uint64_t seed, int schedule, int lazy_streams, unsigned threads, int profile, double watchdog_seconds,
              int execute) {
    const driver::Call call(__func__);
    if (!choose_profile(profile)) return 0;
    driver::host_waits_for_all();
    settings.seed = seed;
    settings.schedule = static_cast<Schedule>(schedule);
    settings.lazy_streams = lazy_streams != 0;
    settings.threads = threads;
    settings.watchdog_seconds = watchdog_seconds;
    settings.execute = execute != 0;
    driver::bare::set(!settings.execute);
    driver::objects().order = Random(seed);
    driver::objects().launches = 0;
    return 1;
}

CONTROL(size_t) emu_report(char* buffer, size_t bytes) { return give(reports::text(), buffer, bytes); }
CONTROL(size_t) emu_take_report(char* buffer, size_t bytes) {
    const size_t length = give(reports::text(), buffer, bytes);
    // A text that did not fit will be asked for again.
    if (length < bytes) reports::clear();
    return length;
}
CONTROL(size_t) emu_calls(char* buffer, size_t bytes) { return give(driver::calls_text(), buffer, bytes); }

// One kernel a line: name, file, largest block, launches so far, programmatic ones among them, and the sizes of its
// parameters.
CONTROL(size_t) emu_kernels(char* buffer, size_t bytes) {
    const driver::Call call(__func__);
    std::string text;
    for (const KernelDescription& kernel : kernel_table()) {
        const std::string file = kernel.file;
        const driver::LaunchCounts& counts = driver::objects().launches_of[&kernel];
        text += std::string(kernel.name) + " " + file.substr(file.rfind('/') + 1) + " " +
                std::to_string(kernel.max_threads) + " " + std::to_string(counts.all) + " " +
                std::to_string(counts.programmatic);
        for (unsigned i = 0; i < kernel.parameter_count; i++) text += " " + std::to_string(kernel.parameters[i].size);
        text += "\n";
    }
    return give(text, buffer, bytes);
}

CONTROL(void) emu_reset() {
    const driver::Call call(__func__);
    driver::drop_all();
    races::forget_everything();
    driver::sticky_error = 0;
    reports::clear();
}

CONTROL(size_t) emu_live_allocations() {
    const driver::Call call(__func__);
    return memory::live_allocations();
}
