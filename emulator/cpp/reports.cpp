#include "reports.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

namespace emu::reports {
namespace {

// A broken kernel under a test that goes on may report for every block: beyond this, only the first ones are kept.
constexpr size_t max_text = 16384;

struct State {
    std::mutex mutex;
    std::string text;
    std::map<int, std::string> latest;
    std::map<const void*, std::string> places;
};
// Never destroyed: worker threads may report while the process exits.
State& state() {
    static State* const instance = new State;
    return *instance;
}

// For a program that nobody asks `text` of. At once, because it may well be about to abort.
bool are_printed() {
    static const bool printed = [] {
        const char* const wish = std::getenv("WARPNORM_EMULATOR_REPORT");
        return wish && *wish;
    }();
    return printed;
}

std::string base_name(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}

bool is_kernel_source(const std::string& path) {
    const auto ends_with = [&path](const char* suffix, size_t length) {
        return path.size() >= length && path.compare(path.size() - length, length, suffix) == 0;
    };
    return ends_with(".cu", 3) || ends_with(".cuh", 4);
}

// The source lines of `pc`, innermost inlined frame first, or none where addr2line is missing.
std::vector<std::string> source_lines(const Dl_info& library, const void* pc) {
    std::string file = library.dli_fname;
    // The library usually lies in a memory file, named through this process's own descriptors.
    const std::string own = "/proc/self/";
    if (file.compare(0, own.size(), own) == 0)
        file = "/proc/" + std::to_string(getpid()) + "/" + file.substr(own.size());
    char command[512];
    const auto offset = static_cast<const char*>(pc) - static_cast<const char*>(library.dli_fbase);
    snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", file.c_str(),
             static_cast<size_t>(offset));
    std::vector<std::string> lines;
    if (FILE* pipe = popen(command, "r")) {
        char line[1024];
        while (fgets(line, sizeof line, pipe)) {
            std::string text = line;
            // A line may end in " (discriminator 3)" and a newline.
            text.resize(text.find_first_of(" \n") == std::string::npos ? text.size() : text.find_first_of(" \n"));
            if (!text.empty() && text[0] != '?') lines.push_back(text);
        }
        pclose(pipe);
    }
    return lines;
}

std::string resolve(const void* pc) {
    Dl_info library;
    if (!dladdr(pc, &library) || !library.dli_fname) return "an unknown place";
    const std::vector<std::string> lines = source_lines(library, pc);
    // An inlined function's line alone would not say which kernel called it.
    std::string chain;
    for (const std::string& line : lines) {
        if (!is_kernel_source(line.substr(0, line.rfind(':')))) continue;
        chain += (chain.empty() ? "" : " called from ") + base_name(line);
    }
    if (!chain.empty()) return chain;
    if (!lines.empty()) return base_name(lines.front());
    char text[256];
    const std::string symbol = library.dli_sname ? library.dli_sname : base_name(library.dli_fname);
    const void* const origin = library.dli_saddr ? library.dli_saddr : library.dli_fbase;
    snprintf(text, sizeof text, "%s+%#tx", symbol.c_str(),
             static_cast<const char*>(pc) - static_cast<const char*>(origin));
    return text;
}

}  // namespace

const char* name_of(int result) {
    switch (result) {
        case success: return "CUDA_SUCCESS";
        case invalid_value: return "CUDA_ERROR_INVALID_VALUE";
        case out_of_memory: return "CUDA_ERROR_OUT_OF_MEMORY";
        case not_initialized: return "CUDA_ERROR_NOT_INITIALIZED";
        case no_device: return "CUDA_ERROR_NO_DEVICE";
        case invalid_device: return "CUDA_ERROR_INVALID_DEVICE";
        case invalid_image: return "CUDA_ERROR_INVALID_IMAGE";
        case invalid_context: return "CUDA_ERROR_INVALID_CONTEXT";
        case no_binary_for_gpu: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
        case unsupported_ptx_version: return "CUDA_ERROR_UNSUPPORTED_PTX_VERSION";
        case file_not_found: return "CUDA_ERROR_FILE_NOT_FOUND";
        case invalid_handle: return "CUDA_ERROR_INVALID_HANDLE";
        case not_found: return "CUDA_ERROR_NOT_FOUND";
        case not_ready: return "CUDA_ERROR_NOT_READY";
        case illegal_address: return "CUDA_ERROR_ILLEGAL_ADDRESS";
        case launch_out_of_resources: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
        case launch_timeout: return "CUDA_ERROR_LAUNCH_TIMEOUT";
        case context_is_destroyed: return "CUDA_ERROR_CONTEXT_IS_DESTROYED";
        case misaligned_address: return "CUDA_ERROR_MISALIGNED_ADDRESS";
        case launch_failed: return "CUDA_ERROR_LAUNCH_FAILED";
        case cooperative_launch_too_large: return "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE";
        case not_supported: return "CUDA_ERROR_NOT_SUPPORTED";
        case stream_capture_unsupported: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
        case stream_capture_invalidated: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
        case stream_capture_merge: return "CUDA_ERROR_STREAM_CAPTURE_MERGE";
        case stream_capture_unmatched: return "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED";
        case stream_capture_unjoined: return "CUDA_ERROR_STREAM_CAPTURE_UNJOINED";
        case stream_capture_isolation: return "CUDA_ERROR_STREAM_CAPTURE_ISOLATION";
        case stream_capture_implicit: return "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT";
        case captured_event: return "CUDA_ERROR_CAPTURED_EVENT";
        case stream_capture_wrong_thread: return "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD";
        case invalid_cluster_size: return "CUDA_ERROR_INVALID_CLUSTER_SIZE";
        default: return nullptr;
    }
}

int add(int result, const std::string& text) {
    State& s = state();
    const std::lock_guard<std::mutex> guard(s.mutex);
    s.latest[result] = text;
    if (s.text.size() >= max_text) return result;
    s.text += (s.text.empty() ? "" : "\n") + text;
    if (are_printed()) fprintf(stderr, "emulated driver: %s\n", text.c_str());
    return result;
}

int addf(int result, const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return add(result, text);
}

std::string text() {
    State& s = state();
    const std::lock_guard<std::mutex> guard(s.mutex);
    return s.text;
}

std::string latest(int result) {
    State& s = state();
    const std::lock_guard<std::mutex> guard(s.mutex);
    const auto found = s.latest.find(result);
    return found == s.latest.end() ? std::string() : found->second;
}

void clear() {
    State& s = state();
    const std::lock_guard<std::mutex> guard(s.mutex);
    s.text.clear();
    s.latest.clear();
}

std::string place(Site site) {
    return site.file ? base_name(site.file) + ":" + std::to_string(site.line) : std::string("an unknown place");
}

std::string place(const void* pc) {
    State& s = state();
    {
        const std::lock_guard<std::mutex> guard(s.mutex);
        const auto known = s.places.find(pc);
        if (known != s.places.end()) return known->second;
    }
    const std::string text = resolve(pc);
    const std::lock_guard<std::mutex> guard(s.mutex);
    return s.places[pc] = text;
}

}  // namespace emu::reports
