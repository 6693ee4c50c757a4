// Initialization, errors, devices and the one (primary) context.
#include <cstdio>
#include <map>
#include <unordered_map>

#include "bare.h"
#include "driver.h"

namespace emu::driver {

bool initialized = false;
int sticky_error = 0;

namespace {

std::recursive_mutex& driver_lock() {
    static auto* const lock = new std::recursive_mutex;
    return *lock;
}

// By the address of a name: every function has its own.
std::unordered_map<const char*, uint64_t>& call_counts() {
    static auto* const counts = new std::unordered_map<const char*, uint64_t>;
    return *counts;
}

// The primary context of device 0: its address is the handle.
struct Context {
    int references = 0;
} primary;
thread_local void* context_of_thread __attribute__((tls_model("initial-exec")));

void destroy_primary() {
    run_all();
    if (const size_t count = memory::live_allocations()) {
        addf(success, "leak: %zu device allocations of %zu bytes were live when the context was destroyed", count,
             memory::live_bytes());
        memory::release_all();
    }
    sticky_error = 0;
}

}  // namespace

Call::Call(const char* name, Kind kind) : guard_(driver_lock()) {
    call_counts()[name]++;
    if (kind == changes) bare::change();
}

int Call::refused() const {
    if (!initialized) return add(not_initialized, "the driver was called before cuInit");
    if (!current_context()) return add(invalid_context, "the calling thread has no current context");
    return sticky_error;
}

void* current_context() { return primary.references > 0 ? context_of_thread : nullptr; }

std::string calls_text() {
    const std::lock_guard<std::recursive_mutex> guard(driver_lock());
    std::map<std::string, uint64_t> counts;
    for (const auto& [name, count] : call_counts()) counts[name] += count;
    std::string text;
    for (const auto& [name, count] : counts) text += name + " " + std::to_string(count) + "\n";
    return text;
}

}  // namespace emu::driver

using namespace emu::driver;
using emu::profile;

CU cuInit(unsigned) {
    const Call call(__func__);
    if (profile().devices == 0) return no_device;
    initialized = true;
    return success;
}

CU cuDriverGetVersion(int* version) {
    const Call call(__func__);
    *version = profile().driver_version;
    return success;
}

CU cuGetErrorName(int error, const char** text) {
    const Call call(__func__);
    *text = name_of(error);
    return *text ? success : invalid_value;
}

// The latest report, where there is one: cudarc puts this text into every error that it formats.
CU cuGetErrorString(int error, const char** text) {
    const Call call(__func__);
    static auto* const texts = new std::set<std::string>;
    std::string answer = error ? latest(error) : "no error";
    if (answer.empty()) answer = name_of(error) ? std::string("emulated driver: ") + name_of(error) : "unknown error";
    // Kept for good: the caller may hold the pointer as long as it likes.
    *text = texts->insert(answer).first->c_str();
    return success;
}

CU cuDeviceGetCount(int* count) {
    const Call call(__func__);
    *count = profile().devices;
    return initialized ? success : not_initialized;
}

CU cuDeviceGet(int* device, int ordinal) {
    const Call call(__func__);
    if (!initialized) return not_initialized;
    if (ordinal < 0 || ordinal >= profile().devices) return invalid_device;
    *device = ordinal;
    return success;
}

CU cuDeviceGetName(char* name, int length, int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    snprintf(name, static_cast<size_t>(length), "%s", profile().name);
    return success;
}

CU cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    for (int i = 0; i < 16; i++) uuid[i] = static_cast<unsigned char>(0xE0 + i);
    return success;
}
CU_ALIAS(cuDeviceGetUuid, cuDeviceGetUuid_v2);

CU cuDeviceTotalMem_v2(size_t* bytes, int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    *bytes = emu::memory::capacity;
    return success;
}
CU_ALIAS(cuDeviceTotalMem, cuDeviceTotalMem_v2);

CU cuDeviceComputeCapability(int* major, int* minor, int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    *major = profile().major;
    *minor = profile().minor;
    return success;
}

// Numbers of CUdevice_attribute. One that is not listed is zero, as for a feature that the device lacks.
CU cuDeviceGetAttribute(int* value, int attribute, int device) {
    const Call call(__func__);
    if (device != 0 || profile().devices == 0) return invalid_device;
    const emu::Profile& p = profile();
    switch (attribute) {
        case 1: *value = 1024; break;  // MAX_THREADS_PER_BLOCK
        case 2:
        case 3: *value = 1024; break;        // MAX_BLOCK_DIM_X, Y
        case 4: *value = 64; break;          // MAX_BLOCK_DIM_Z
        case 5: *value = 2147483647; break;  // MAX_GRID_DIM_X
        case 6:
        case 7: *value = 65535; break;               // MAX_GRID_DIM_Y, Z
        case 8: *value = p.shared_per_block; break;  // MAX_SHARED_MEMORY_PER_BLOCK
        case 9: *value = 65536; break;               // TOTAL_CONSTANT_MEMORY
        case 10: *value = 32; break;                 // WARP_SIZE
        case 11: *value = 2147483647; break;         // MAX_PITCH
        case 12:
        case 82: *value = 65536; break;              // MAX_REGISTERS_PER_BLOCK, PER_MULTIPROCESSOR
        case 13: *value = 1500000; break;            // CLOCK_RATE, kHz
        case 14: *value = 512; break;                // TEXTURE_ALIGNMENT
        case 16: *value = p.multiprocessors; break;  // MULTIPROCESSOR_COUNT
        case 19:
        case 31:
        case 41: *value = 1; break;           // CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING
        case 36: *value = 1000000; break;     // MEMORY_CLOCK_RATE, kHz
        case 37: *value = 256; break;         // GLOBAL_MEMORY_BUS_WIDTH, bits
        case 38: *value = p.l2_bytes; break;  // L2_CACHE_SIZE
        case 39: *value = p.threads_per_multiprocessor; break;  // MAX_THREADS_PER_MULTIPROCESSOR
        case 40: *value = 2; break;                             // ASYNC_ENGINE_COUNT
        case 75: *value = p.major; break;                       // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = p.minor; break;                       // COMPUTE_CAPABILITY_MINOR
        case 78: *value = 1; break;                             // STREAM_PRIORITIES_SUPPORTED
        case 81: *value = p.shared_per_multiprocessor; break;   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 95: *value = 1; break;                             // COOPERATIVE_LAUNCH
        case 97: *value = p.shared_per_block_optin; break;      // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 106: *value = p.blocks_per_multiprocessor; break;  // MAX_BLOCKS_PER_MULTIPROCESSOR
        case 111: *value = p.major >= 8 ? 1024 : 0; break;      // RESERVED_SHARED_MEMORY_PER_BLOCK
        case 115: *value = p.memory_pools; break;               // MEMORY_POOLS_SUPPORTED
        case 120: *value = p.clusters; break;                   // CLUSTER_LAUNCH
        default: *value = 0;
    }
    return success;
}

CU cuDevicePrimaryCtxRetain(void** context, int device) {
    const Call call(__func__);
    if (!initialized) return not_initialized;
    if (device != 0) return invalid_device;
    primary.references++;
    *context = &primary;
    return success;
}

CU cuDevicePrimaryCtxRelease_v2(int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    if (primary.references == 0) return invalid_context;
    if (--primary.references == 0) destroy_primary();
    return success;
}
CU_ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2);

CU cuDevicePrimaryCtxReset_v2(int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    destroy_primary();
    return success;
}
CU_ALIAS(cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2);

CU cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
    const Call call(__func__);
    *flags = 0;
    *active = primary.references > 0;
    return success;
}

CU cuCtxGetCurrent(void** context) {
    if (bare::known_context(context)) return success;
    const Call call(__func__, Call::looks);
    *context = current_context();
    bare::remember_context(*context);
    return success;
}

CU cuCtxSetCurrent(void* context) {
    const Call call(__func__);
    if (context && context != &primary) return invalid_context;
    context_of_thread = context;
    return success;
}

CU cuCtxPushCurrent_v2(void* context) { return cuCtxSetCurrent(context); }
CU_ALIAS(cuCtxPushCurrent, cuCtxPushCurrent_v2);

CU cuCtxPopCurrent_v2(void** context) {
    const Call call(__func__);
    if (context) *context = context_of_thread;
    context_of_thread = nullptr;
    return success;
}
CU_ALIAS(cuCtxPopCurrent, cuCtxPopCurrent_v2);

CU cuCtxGetDevice(int* device) {
    const Call call(__func__);
    *device = 0;
    return current_context() ? success : invalid_context;
}

CU cuCtxSynchronize() {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    if (const int error = refuse_while_capturing()) return error;
    host_waits_for_all();
    return after_synchronization();
}

CU cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    const Call call(__func__);
    *least = 0;
    *greatest = -5;
    return success;
}

// There is no profiler to start.
CU cuProfilerStart() {
    const Call call(__func__);
    return success;
}
CU cuProfilerStop() {
    const Call call(__func__);
    return success;
}

// Linked, not called, by applications that link the driver directly.
CU cuCtxDestroy_v2(void*) { return not_supported; }
