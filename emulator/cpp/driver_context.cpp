// Initialization, errors, devices and contexts.
//
// A fault poisons the process, hence all contexts, until the last one goes. Memory may be used in every context,
// whichever it was allocated in, and pinned memory outlives its own. On a GPU a kernel that reaches into the memory of
// another context faults unless there is peer access: that mistake is not found here.
#include <algorithm>
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

// All that there ever were, the primary one first.
std::vector<std::unique_ptr<Context>>& contexts() {
    static auto* const list = [] {
        auto* const contexts = new std::vector<std::unique_ptr<Context>>;
        contexts->push_back(std::make_unique<Context>(true));
        return contexts;
    }();
    return *list;
}

Context* find_context(const void* handle) {
    for (const auto& context : contexts()) {
        if (context.get() == handle) return context.get();
    }
    return nullptr;
}

// As a CUresult.
int why_unusable(const Context* context) {
    if (!context) return invalid_context;
    return context->is_alive() ? success : context_is_destroyed;
}

void activate(Context& context) {
    static uint64_t begun = 0;
    context.references = 1;
    context.id = ++begun;
}

// A thread's stack of contexts. The top is null when the stack is empty, and what lies below is rarely there: room for
// thread_local variables is small (executor.h). What a thread leaves there when it ends stays.
struct Below {
    Context* context;
    Below* next;
};
thread_local Context* top __attribute__((tls_model("initial-exec")));
thread_local Below* below_top __attribute__((tls_model("initial-exec")));

void push(Context& context) {
    if (top) below_top = new Below{top, below_top};
    top = &context;
}

void pop() {
    top = nullptr;
    if (!below_top) return;
    const std::unique_ptr<Below> next(below_top);
    top = next->context;
    below_top = next->next;
}

void spoil_captures_of(const Context& context) {
    for (const auto& stream : objects().streams) {
        const std::shared_ptr<Capture> capture = stream->capture;
        if (!capture || stream->context != &context) continue;
        capture->invalid = true;
        if (capture->origin != stream.get()) continue;
        // Nobody is left who could end it.
        for (const auto& member : objects().streams) {
            if (member->capture != capture) continue;
            member->capture = nullptr;
            member->frontier.clear();
        }
    }
}

void destroy_handles_of(const Context& context) {
    Objects& o = objects();
    spoil_captures_of(context);
    // The null stream of the primary context is there for as long as the process.
    const auto ends = [&](const auto& s) { return s->context == &context && !(context.is_primary && s->is_null()); };
    o.streams.erase(std::remove_if(o.streams.begin(), o.streams.end(), ends), o.streams.end());
    o.events.destroy_those_of(context);
    for (auto at = o.functions.begin(); at != o.functions.end();) {
        at = (*at)->context == &context ? o.functions.erase(at) : std::next(at);
    }
    o.modules.destroy_those_of(context);
}

void release_memory_of(const Context& context, bool is_last) {
    std::vector<DeviceAddress> leaked;
    size_t count = 0, bytes = 0;
    if (is_last) {
        // The device's pool outlives a context, but nobody is left to free what came from it.
        count = memory::live_allocations();
        bytes = memory::live_bytes();
        objects().owners.clear();
    } else {
        for (const auto& [address, owner] : objects().owners) {
            if (owner == &context) leaked.push_back(address);
        }
        count = leaked.size();
        for (const DeviceAddress address : leaked) bytes += memory::find(address)->size;
    }
    if (count == 0) return;
    addf(success, "leak: %zu device allocations of %zu bytes were live when the context was destroyed", count, bytes);
    if (is_last) memory::release_all();
    for (const DeviceAddress address : leaked) {
        objects().owners.erase(address);
        memory::release(address);
    }
}

// The context still lives: work that is queued in it must run.
void destroy_contents_of(const Context& context) {
    // A copy, because a host function may destroy a stream.
    const auto streams = objects().streams;
    for (const auto& stream : streams) {
        if (stream->context == &context) run_until(ticket_of(stream));
    }
    const bool is_last = std::none_of(contexts().begin(), contexts().end(), [&](const auto& other) {
        return other.get() != &context && other->is_alive();
    });
    destroy_handles_of(context);
    release_memory_of(context, is_last);
    if (is_last) sticky_error = 0;
}

int create(void** handle, unsigned flags, int device) {
    if (!initialized) return add(not_initialized, "the driver was called before cuInit");
    if (device != 0 || profile().devices == 0) return invalid_device;
    // CU_CTX_FLAGS_MASK: how a thread waits (one of four), mapped host memory, local memory, dumps, synchronous copies.
    constexpr unsigned waits = 7, known = 0xFF;
    const unsigned wait = flags & waits;
    if (flags & ~known || wait == 3 || wait > 4) return addf(invalid_value, "a context cannot have flags %#x", flags);
    contexts().push_back(std::make_unique<Context>(false));
    Context& context = *contexts().back();
    activate(context);
    objects().streams.push_back(context.null_stream);
    push(context);
    *handle = &context;
    return success;
}

}  // namespace

Context& primary_context() { return *contexts().front(); }
Context* current_context() { return top; }
int missing_context() { return why_unusable(top); }

Call::Call(const char* name, Kind kind) : guard_(driver_lock()) {
    call_counts()[name]++;
    if (kind == changes) bare::change();
}

int Call::refused() const {
    if (!initialized) return add(not_initialized, "the driver was called before cuInit");
    if (const int error = missing_context()) {
        return add(error, top ? "the calling thread's current context was destroyed"
                              : "the calling thread has no current context");
    }
    return sticky_error;
}

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

namespace {

// CUctxCreateParams.
struct CreationParameters {
    const void* affinity;
    int affinities;
    const void* graphics;
};

// A primary context that nobody retains may be current all the same: a program may retain it later.
int cannot_be_current(const void* handle) {
    const Context* const context = find_context(handle);
    return context && context->is_primary ? static_cast<int>(success) : why_unusable(context);
}

// Work of other contexts goes on.
void host_waits_for_context(const Context& context) {
    const auto streams = objects().streams;
    const auto is_its_own = [&](const auto& stream) { return stream->context == &context; };
    if (std::all_of(streams.begin(), streams.end(), is_its_own)) return host_waits_for_all();
    for (const auto& stream : streams) {
        if (is_its_own(stream)) host_waits_for(ticket_of(stream));
    }
}

}  // namespace

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
    Context& primary = primary_context();
    if (primary.is_alive()) {
        primary.references++;
    } else {
        activate(primary);
    }
    *context = &primary;
    return success;
}

CU cuDevicePrimaryCtxRelease_v2(int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    Context& primary = primary_context();
    if (!primary.is_alive()) return invalid_context;
    if (primary.references == 1) destroy_contents_of(primary);
    primary.references--;
    return success;
}
CU_ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2);

CU cuDevicePrimaryCtxReset_v2(int device) {
    const Call call(__func__);
    if (device != 0) return invalid_device;
    destroy_contents_of(primary_context());
    return success;
}
CU_ALIAS(cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2);

CU cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
    const Call call(__func__);
    *flags = 0;
    *active = primary_context().is_alive();
    return success;
}

CU cuCtxCreate_v2(void** context, unsigned flags, int device) {
    const Call call(__func__);
    return create(context, flags, device);
}
CU_ALIAS(cuCtxCreate, cuCtxCreate_v2);

// A share of the multiprocessors needs a server beside the driver (MPS).
CU cuCtxCreate_v3(void** context, const void*, int affinities, unsigned flags, int device) {
    const Call call(__func__);
    if (affinities) return add(not_supported, "a context's share of the multiprocessors is not emulated");
    return create(context, flags, device);
}

CU cuCtxCreate_v4(void** context, const CreationParameters* parameters, unsigned flags, int device) {
    const Call call(__func__);
    if (parameters && (parameters->affinities || parameters->graphics)) {
        return add(not_supported, "a context's share of the multiprocessors, or with graphics, is not emulated");
    }
    return create(context, flags, device);
}

CU cuCtxDestroy_v2(void* handle) {
    const Call call(__func__);
    Context* const context = find_context(handle);
    if (const int error = why_unusable(context)) return error;
    if (context->is_primary) return add(invalid_context, "a primary context is released, never destroyed");
    destroy_contents_of(*context);
    context->references--;
    if (top == context) pop();
    return success;
}
CU_ALIAS(cuCtxDestroy, cuCtxDestroy_v2);

CU cuCtxGetCurrent(void** context) {
    if (bare::known_context(context)) return success;
    const Call call(__func__, Call::looks);
    *context = current_context();
    bare::remember_context(*context);
    return success;
}

// Replaces the top of the stack, or takes it off.
CU cuCtxSetCurrent(void* handle) {
    const Call call(__func__);
    if (!handle) {
        pop();
        return success;
    }
    if (const int error = cannot_be_current(handle)) return error;
    top = find_context(handle);
    return success;
}

CU cuCtxPushCurrent_v2(void* handle) {
    const Call call(__func__);
    if (const int error = cannot_be_current(handle)) return error;
    push(*find_context(handle));
    return success;
}
CU_ALIAS(cuCtxPushCurrent, cuCtxPushCurrent_v2);

CU cuCtxPopCurrent_v2(void** context) {
    const Call call(__func__);
    if (!top) return add(invalid_context, "the calling thread has no current context to pop");
    if (context) *context = top;
    pop();
    return success;
}
CU_ALIAS(cuCtxPopCurrent, cuCtxPopCurrent_v2);

CU cuCtxGetDevice(int* device) {
    const Call call(__func__);
    *device = 0;
    return missing_context();
}

CU cuCtxGetId(void* handle, unsigned long long* id) {
    const Call call(__func__);
    const Context* const context = handle ? find_context(handle) : current_context();
    if (const int error = why_unusable(context)) return error;
    *id = context->id;
    return success;
}

CU cuCtxSynchronize() {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    if (const int error = refuse_while_capturing()) return error;
    host_waits_for_context(*current_context());
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
