// Images, functions and their attributes, occupancy.
#include <algorithm>
#include <cstring>

#include "driver.h"

using namespace emu::driver;
using emu::profile;

#ifndef EMU_KERNEL_HASH
#error "build.rs defines EMU_KERNEL_HASH, the fingerprint of ../kernels"
#endif

namespace {

// What the crate embeds where there is no nvcc: these words, the fingerprint of its kernels, and a NUL.
constexpr char marker[] = "WARPNORM-NO-KERNELS ";
constexpr size_t fingerprint_digits = 16;
constexpr uint32_t fatbin_magic = 0xBA55ED50;

int check_image(const void* image) {
    uint32_t magic;
    std::memcpy(&magic, image, sizeof magic);
    if (magic == fatbin_magic) {
        if (reinterpret_cast<uintptr_t>(image) % 8) return add(invalid_image, "the fatbin is not aligned to 8 bytes");
        return success;
    }
    if (std::strncmp(static_cast<const char*>(image), marker, sizeof marker - 1) != 0) {
        return add(invalid_image, "the image is neither a fatbin nor the marker of a build without kernels");
    }
    const std::string text = static_cast<const char*>(image);
    const std::string found = text.substr(sizeof marker - 1, fingerprint_digits);
    if (found == EMU_KERNEL_HASH) return success;
    return add(invalid_image, "the image's marker belongs to kernels " + found +
                                  ", this emulator was built from kernels " + EMU_KERNEL_HASH);
}

Function* find_function(void* handle) {
    auto& functions = objects().functions;
    const auto found = functions.find(static_cast<Function*>(handle));
    return found == functions.end() ? nullptr : *found;
}

// Assumes 32 registers a thread, as the emulator knows of none.
int blocks_per_multiprocessor(const Function&, int threads, size_t dynamic_shared) {
    const emu::Profile& p = profile();
    const int rounded = (threads + 31) / 32 * 32;
    if (threads <= 0 || threads > 1024) return 0;
    int blocks = std::min(p.threads_per_multiprocessor / rounded, p.blocks_per_multiprocessor);
    blocks = std::min(blocks, 65536 / (32 * rounded));
    const size_t reserved = p.major >= 8 ? 1024 : 0;
    if (dynamic_shared + reserved) {
        blocks = std::min(
            blocks, static_cast<int>(static_cast<size_t>(p.shared_per_multiprocessor) / (dynamic_shared + reserved)));
    }
    return blocks;
}

}  // namespace

namespace emu::driver {

Function* function_of(void* handle) { return find_function(handle); }
int occupancy(const Function& function, int threads, size_t dynamic_shared) {
    return blocks_per_multiprocessor(function, threads, dynamic_shared);
}

}  // namespace emu::driver

// Every module offers the whole table of kernels: the emulator does not look into the image.
CU cuModuleLoadData(void** handle, const void* image) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    if (const int error = profile().load_result) return addf(error, "%s cannot load the image", profile().name);
    if (const int error = check_image(image)) return error;
    auto module = std::make_unique<Module>();
    module->context = current_context();
    for (const emu::KernelDescription& kernel : emu::kernel_table()) {
        module->functions.push_back(std::make_unique<Function>());
        module->functions.back()->context = module->context;
        module->functions.back()->kernel = &kernel;
        objects().functions.insert(module->functions.back().get());
    }
    *handle = objects().modules.adopt(std::move(module));
    return success;
}

CU cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) {
    return cuModuleLoadData(module, image);
}
CU cuModuleLoadFatBinary(void** module, const void* image) { return cuModuleLoadData(module, image); }

CU cuModuleLoad(void**, const char* path) {
    const Call call(__func__);
    return addf(file_not_found, "cuModuleLoad of %s: the emulator reads no files", path);
}

CU cuModuleUnload(void* handle) {
    const Call call(__func__);
    Module* const module = objects().modules.find(handle);
    if (!module) return invalid_handle;
    run_all();
    for (const auto& function : module->functions) objects().functions.erase(function.get());
    objects().modules.destroy(handle);
    return success;
}

CU cuModuleGetFunction(void** function, void* handle, const char* name) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const Module* const module = objects().modules.find(handle);
    if (!module) return invalid_handle;
    for (const auto& candidate : module->functions) {
        if (std::strcmp(candidate->kernel->name, name) != 0) continue;
        *function = candidate.get();
        return success;
    }
    return addf(not_found, "no kernel is named %s", name);
}

// Kernels here have no global variables.
CU cuModuleGetGlobal_v2(DeviceAddress*, size_t*, void* handle, const char* name) {
    const Call call(__func__);
    if (!objects().modules.find(handle)) return invalid_handle;
    return addf(not_found, "no global variable is named %s", name);
}
CU_ALIAS(cuModuleGetGlobal, cuModuleGetGlobal_v2);

CU cuFuncGetName(const char** name, void* handle) {
    const Call call(__func__);
    const Function* const function = find_function(handle);
    if (!function) return invalid_handle;
    *name = function->kernel->name;
    return success;
}

// Numbers of CUfunction_attribute.
CU cuFuncGetAttribute(int* value, int attribute, void* handle) {
    const Call call(__func__);
    const Function* const function = find_function(handle);
    if (!function) return invalid_handle;
    switch (attribute) {
        case 0: *value = static_cast<int>(function->kernel->max_threads); break;  // MAX_THREADS_PER_BLOCK
        case 4: *value = 32; break;                                               // NUM_REGS
        case 5: *value = profile().code; break;                                   // PTX_VERSION
        case 6: *value = profile().major * 10 + profile().minor; break;           // BINARY_VERSION
        case 8: *value = function->max_dynamic_shared; break;                     // MAX_DYNAMIC_SHARED_SIZE_BYTES
        case 14: *value = function->non_portable_cluster; break;                  // NON_PORTABLE_CLUSTER_SIZE_ALLOWED
        default: *value = 0;
    }
    return success;
}

CU cuFuncSetAttribute(void* handle, int attribute, int value) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    Function* const function = find_function(handle);
    if (!function) return invalid_handle;
    switch (attribute) {
        case 8:
            if (value < 0 || value > profile().shared_per_block_optin) {
                return addf(invalid_value, "%s: %d bytes of dynamic shared memory, the device allows %d",
                            function->kernel->name, value, profile().shared_per_block_optin);
            }
            function->max_dynamic_shared = value;
            return success;
        case 9: return success;  // PREFERRED_SHARED_MEMORY_CARVEOUT
        case 14: function->non_portable_cluster = value != 0; return success;
        default: return add(invalid_value, "this function attribute cannot be set");
    }
}

CU cuFuncSetCacheConfig(void* handle, int) {
    const Call call(__func__);
    return find_function(handle) ? success : invalid_handle;
}

CU cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
    const Call call(__func__);
    const Function* const function = find_function(handle);
    if (!function) return invalid_handle;
    const emu::KernelDescription& kernel = *function->kernel;
    if (index >= kernel.parameter_count) return invalid_value;
    size_t at = 0;
    for (size_t i = 0;; i++) {
        const emu::Parameter& parameter = kernel.parameters[i];
        at = (at + parameter.alignment - 1) / parameter.alignment * parameter.alignment;
        if (i == index) break;
        at += parameter.size;
    }
    *offset = at;
    if (size) *size = kernel.parameters[index].size;
    return success;
}

CU cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t dynamic_shared) {
    const Call call(__func__);
    const Function* const function = find_function(handle);
    if (!function) return invalid_handle;
    *blocks = blocks_per_multiprocessor(*function, threads, dynamic_shared);
    return success;
}

CU cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads, size_t dynamic_shared,
                                                        unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic_shared);
}

CU cuOccupancyMaxPotentialBlockSize(int* grid, int* threads, void* handle, size_t (*shared_of_block)(int),
                                    size_t dynamic_shared, int limit) {
    const Call call(__func__);
    const Function* const function = find_function(handle);
    if (!function) return invalid_handle;
    int block = static_cast<int>(function->kernel->max_threads);
    if (limit > 0) block = std::min(block, limit);
    *threads = block;
    *grid = blocks_per_multiprocessor(*function, block, shared_of_block ? shared_of_block(block) : dynamic_shared) *
            profile().multiprocessors;
    return success;
}
