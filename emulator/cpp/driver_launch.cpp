// Launches: the checks that a driver makes before it accepts one, and the copy of the parameters.
#include <cstring>

#include "bare.h"
#include "driver.h"

namespace emu::driver {

Function* function_of(void* handle);
int occupancy(const Function& function, int threads, size_t dynamic_shared);

}  // namespace emu::driver

using namespace emu::driver;
using emu::Launch;
using emu::profile;

namespace {

// CUlaunchAttribute and CUlaunchConfig, as far as they are read here.
struct LaunchAttribute {
    int id, padding;
    union {
        char bytes[64];
        unsigned dimensions[3];
        int number;
    } value;
};
static_assert(sizeof(LaunchAttribute) == 72);

struct LaunchConfiguration {
    unsigned grid[3], block[3];
    unsigned dynamic_shared;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};

enum AttributeId {
    ignore = 0,
    cooperative = 2,
    cluster_dimension = 4,
    cluster_scheduling_policy = 5,
    programmatic_stream_serialization = 6,
    priority = 8,
};

struct Request {
    dim3 grid, block, cluster{1, 1, 1};
    bool cooperative = false;
    bool programmatic = false;
    unsigned dynamic_shared = 0;
    void* stream = nullptr;
};

int refuse(const Function& function, const Request& r, int result, const char* why) {
    return addf(result,
                "launch of %s refused: %s (grid %u,%u,%u; block %u,%u,%u; cluster %u,%u,%u; %u bytes of shared memory)",
                function.kernel->name, why, r.grid.x, r.grid.y, r.grid.z, r.block.x, r.block.y, r.block.z, r.cluster.x,
                r.cluster.y, r.cluster.z, r.dynamic_shared);
}

// The reason and result of a refusal, or null.
const char* find_mistake(const Function& function, const Request& r, int* result) {
    const uint64_t threads = uint64_t{r.block.x} * r.block.y * r.block.z;
    const uint64_t blocks = uint64_t{r.grid.x} * r.grid.y * r.grid.z;
    const uint64_t cluster = uint64_t{r.cluster.x} * r.cluster.y * r.cluster.z;
    *result = invalid_value;
    if (blocks == 0 || threads == 0) return "the grid or the block is empty";
    if (r.grid.x > 2147483647u || r.grid.y > 65535 || r.grid.z > 65535) return "the grid is too large";
    if (threads > 1024 || r.block.z > 64) return "a block has at most 1024 threads, 64 in z";
    if (r.dynamic_shared > static_cast<unsigned>(function.max_dynamic_shared)) {
        return "more dynamic shared memory than cuFuncSetAttribute has allowed";
    }
    *result = launch_out_of_resources;
    if (threads > function.kernel->max_threads) return "the block exceeds the kernel's launch bounds";
    *result = invalid_cluster_size;
    if (cluster == 0) return "the cluster is empty";
    if (cluster > 1 && !profile().clusters) return "the device has no clusters";
    if (cluster > 1 && profile().code < 90) return "the kernel's code is of a time before clusters";
    if (cluster > 16 || (cluster > 8 && !function.non_portable_cluster)) return "the cluster is larger than 8";
    if (r.grid.x % r.cluster.x || r.grid.y % r.cluster.y || r.grid.z % r.cluster.z) {
        return "the grid is not a multiple of the cluster";
    }
    *result = not_supported;
    if (r.programmatic && profile().code < 90) return "the kernel's code is of a time before programmatic launches";
    if (r.cooperative && cluster > 1) return "cooperative launches of clusters are not emulated";
    if (!r.cooperative) return nullptr;
    *result = cooperative_launch_too_large;
    const int resident = occupancy(function, static_cast<int>(threads), r.dynamic_shared) * profile().multiprocessors;
    return blocks > static_cast<uint64_t>(resident) ? "the cooperative grid does not fit the device" : nullptr;
}

int refuse_null(const Function& function, unsigned parameter) {
    return addf(invalid_value, "launch of %s: parameter %u of %u is null", function.kernel->name, parameter,
                function.kernel->parameter_count);
}

// Execution comes later than the call: the parameters are copied now, as the driver does.
int copy_parameters(const Function& function, void* const* parameters, Launch& launch) {
    const emu::KernelDescription& kernel = *function.kernel;
    constexpr size_t slot = 16;
    size_t bytes = 0;
    for (unsigned i = 0; i < kernel.parameter_count; i++) bytes += (kernel.parameters[i].size + slot - 1) / slot * slot;
    launch.storage.resize(bytes / sizeof(uint64_t) + slot / sizeof(uint64_t));
    char* at = reinterpret_cast<char*>(launch.storage.data());
    at += -reinterpret_cast<uintptr_t>(at) % slot;
    for (unsigned i = 0; i < kernel.parameter_count; i++) {
        const emu::Parameter& parameter = kernel.parameters[i];
        if (!parameters || !parameters[i]) return refuse_null(function, i);
        std::memcpy(at, parameters[i], parameter.size);
        DeviceAddress address = 0;
        if (parameter.is_pointer) std::memcpy(&address, at, sizeof address);
        if (address && !emu::memory::find_range(address, 1)) {
            return addf(illegal_address,
                        "launch of %s: pointer parameter %u, %#llx, is not in a live device allocation", kernel.name, i,
                        static_cast<unsigned long long>(address));
        }
        launch.parameters.push_back(at);
        at += (parameter.size + slot - 1) / slot * slot;
    }
    return success;
}

// Whether a launch can be accepted without the lock: a look at a pointer parameter would need it.
bool can_be_bare(const emu::KernelDescription& kernel) {
    size_t bytes = 0;
    for (unsigned i = 0; i < kernel.parameter_count; i++) {
        if (kernel.parameters[i].is_pointer) return false;
        bytes += kernel.parameters[i].size;
    }
    return bytes <= bare::most_parameter_bytes;
}

// What is left of a launch that nothing follows: its checks, and the copy of the parameters.
int launch_bare(const Function& function, const Request& request, void* const* parameters, void* const* extra) {
    if (extra) return add(not_supported, "launch parameters by `extra` are not emulated");
    int result;
    if (const char* const why = find_mistake(function, request, &result)) return refuse(function, request, result, why);
    const emu::KernelDescription& kernel = *function.kernel;
    char copy[bare::most_parameter_bytes];
    char* at = copy;
    for (unsigned i = 0; i < kernel.parameter_count; i++) {
        if (!parameters || !parameters[i]) return refuse_null(function, i);
        std::memcpy(at, parameters[i], kernel.parameters[i].size);
        at += kernel.parameters[i].size;
    }
    // Nobody reads the copy, which the compiler must not know.
    asm volatile("" : : "r"(copy) : "memory");
    return success;
}

int launch(const char* name, void* handle, const Request& request, void* const* parameters, void* const* extra) {
    if (const Function* const function = bare::known(handle, request.stream)) {
        return launch_bare(*function, request, parameters, extra);
    }
    const Call call(name, Call::looks);
    if (const int error = call.refused()) return error;
    const Function* const function = function_of(handle);
    const auto stream = find_stream(request.stream);
    if (!function) return add(invalid_handle, "launch of a function that does not exist, or no longer does");
    if (!stream) return refuse(*function, request, invalid_handle, "the stream does not exist, or no longer does");
    if (function->context != stream->context)
        return refuse(*function, request, invalid_handle, "the stream belongs to another context than the function");
    if (extra) return add(not_supported, "launch parameters by `extra` are not emulated");
    int result;
    if (const char* const why = find_mistake(*function, request, &result))
        return refuse(*function, request, result, why);
    auto launch = std::make_shared<Launch>();
    launch->kernel = function->kernel;
    launch->grid = request.grid;
    launch->block = request.block;
    launch->cluster = request.cluster;
    launch->cooperative = request.cooperative;
    launch->programmatic = request.programmatic;
    launch->dynamic_shared = request.dynamic_shared;
    launch->shared_limit = static_cast<uint32_t>(profile().shared_per_block_optin);
    if (const int error = copy_parameters(*function, parameters, *launch)) return error;
    const uint64_t number = ++objects().launches;
    auto& counts = objects().launches_of[function->kernel];
    ++counts.all;
    counts.programmatic += request.programmatic;
    launch->seed = emu::settings.seed * 0x9E3779B97F4A7C15ull + number;
    if (!stream->capture && can_be_bare(*function->kernel)) bare::remember(function, request.stream);
    // Both are asked when it runs: a graph may have been captured before.
    return submit(stream, function->kernel->name, [launch, context = function->context] {
        if (!context->is_alive()) {
            return addf(context_is_destroyed, "a graph launches %s of a context that was destroyed",
                        launch->kernel->name);
        }
        return emu::settings.execute ? emu::run_grid(*launch) : static_cast<int>(success);
    });
}

}  // namespace

CU cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                  unsigned block_z, unsigned dynamic_shared, void* stream, void** parameters, void** extra) {
    Request request;
    request.grid = {grid_x, grid_y, grid_z};
    request.block = {block_x, block_y, block_z};
    request.dynamic_shared = dynamic_shared;
    request.stream = stream;
    return launch(__func__, function, request, parameters, extra);
}

CU cuLaunchCooperativeKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                             unsigned block_y, unsigned block_z, unsigned dynamic_shared, void* stream,
                             void** parameters) {
    Request request;
    request.grid = {grid_x, grid_y, grid_z};
    request.block = {block_x, block_y, block_z};
    request.cooperative = true;
    request.dynamic_shared = dynamic_shared;
    request.stream = stream;
    return launch(__func__, function, request, parameters, nullptr);
}

CU cuLaunchKernelEx(const LaunchConfiguration* configuration, void* function, void** parameters, void** extra) {
    const LaunchConfiguration& c = *configuration;
    Request request;
    request.grid = {c.grid[0], c.grid[1], c.grid[2]};
    request.block = {c.block[0], c.block[1], c.block[2]};
    request.dynamic_shared = c.dynamic_shared;
    request.stream = c.stream;
    for (unsigned i = 0; i < c.attribute_count; i++) {
        const LaunchAttribute& attribute = c.attributes[i];
        switch (attribute.id) {
            case cluster_dimension:
                request.cluster = {attribute.value.dimensions[0], attribute.value.dimensions[1],
                                   attribute.value.dimensions[2]};
                break;
            case cooperative: request.cooperative = attribute.value.number != 0; break;
            case programmatic_stream_serialization: request.programmatic = attribute.value.number != 0; break;
            case ignore:
            case cluster_scheduling_policy:
            case priority: break;
            default: return addf(not_supported, "launch attribute %d is not emulated", attribute.id);
        }
    }
    return launch(__func__, function, request, parameters, extra);
}

CU cuOccupancyMaxActiveClusters(int* clusters, void* handle, const LaunchConfiguration* configuration) {
    const Call call(__func__);
    const Function* const function = function_of(handle);
    if (!function) return invalid_handle;
    unsigned size = 0;
    for (unsigned i = 0; i < configuration->attribute_count; i++) {
        const LaunchAttribute& attribute = configuration->attributes[i];
        if (attribute.id == cluster_dimension) {
            size = attribute.value.dimensions[0] * attribute.value.dimensions[1] * attribute.value.dimensions[2];
        }
    }
    if (size == 0) return add(invalid_value, "cuOccupancyMaxActiveClusters: no cluster size is given");
    const unsigned threads = configuration->block[0] * configuration->block[1] * configuration->block[2];
    if (threads > function->kernel->max_threads) {
        return add(invalid_value, "cuOccupancyMaxActiveClusters: more threads than the kernel's launch bounds allow");
    }
    const int blocks = occupancy(*function, static_cast<int>(threads), configuration->dynamic_shared);
    const bool possible = profile().clusters && size >= 1 && size <= (function->non_portable_cluster ? 16u : 8u);
    *clusters = possible ? blocks * profile().multiprocessors / static_cast<int>(size) : 0;
    return success;
}

CU cuOccupancyMaxPotentialClusterSize(int* size, void* handle, const LaunchConfiguration*) {
    const Call call(__func__);
    const Function* const function = function_of(handle);
    if (!function) return invalid_handle;
    *size = !profile().clusters ? 0 : function->non_portable_cluster ? 16 : 8;
    return success;
}
