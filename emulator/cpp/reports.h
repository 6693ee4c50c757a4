// What went wrong, in words. Reports gather until a test takes them; the latest one of each result is also what
// cuGetErrorString says.
#pragma once

#include <string>

#include "site.h"

namespace emu::reports {

// Results of the driver API that the emulator uses, by the names of CUresult.
enum Result : int {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    no_device = 100,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    no_binary_for_gpu = 209,
    unsupported_ptx_version = 222,
    file_not_found = 301,
    invalid_handle = 400,
    not_found = 500,
    not_ready = 600,
    illegal_address = 700,
    launch_out_of_resources = 701,
    launch_timeout = 702,
    context_is_destroyed = 709,
    misaligned_address = 716,
    launch_failed = 719,
    cooperative_launch_too_large = 720,
    not_supported = 801,
    stream_capture_unsupported = 900,
    stream_capture_invalidated = 901,
    stream_capture_merge = 902,
    stream_capture_unmatched = 903,
    stream_capture_unjoined = 904,
    stream_capture_isolation = 905,
    stream_capture_implicit = 906,
    captured_event = 907,
    stream_capture_wrong_thread = 908,
    invalid_cluster_size = 912,
};

const char* name_of(int result);

// Adds a line, and returns `result` for the caller to return in turn.
int add(int result, const std::string& text);
__attribute__((format(printf, 2, 3))) int addf(int result, const char* format, ...);

std::string text();
// The latest report that came with this result, or nothing.
std::string latest(int result);
void clear();

// "rows.cu:123" of a place in a kernel. `pc` is an address in this library; its inlined frames are named from the
// inside out, without the emulator's own. Runs addr2line, so not for signal handlers or fibers.
std::string place(Site site);
std::string place(const void* pc);

}  // namespace emu::reports
