// Device and pinned memory, copies and fills.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "driver.h"
#include "races.h"

using namespace emu::driver;
namespace memory = emu::memory;

namespace emu::driver {

bool is_pinned(const void* host, size_t bytes) {
    const char* const begin = static_cast<const char*>(host);
    for (const auto& [address, size] : objects().pinned) {
        if (begin >= address && begin + bytes <= address + size) return true;
    }
    return false;
}

}  // namespace emu::driver

namespace {

// What an asynchronous copy into pinned memory leaves there until it runs: NaN as a float, -1 as an integer.
constexpr int unread_pattern = 0xFF;

int check_range(const char* call, DeviceAddress address, size_t bytes) {
    if (bytes == 0 || memory::find_range(address, bytes)) return success;
    return addf(invalid_value, "%s: %zu bytes at %#llx do not lie in one live allocation", call, bytes,
                static_cast<unsigned long long>(address));
}

void* pointer(DeviceAddress address) { return reinterpret_cast<void*>(address); }

// The driver's own access to device memory. What was live when the operation was asked for may have been freed since.
int touch(const char* operation, DeviceAddress address, size_t bytes, bool write) {
    if (bytes == 0) return success;
    if (check_range(operation, address, bytes)) return illegal_address;
    return emu::races::driver_access(*memory::find(address), address, bytes, write);
}

int give_back(DeviceAddress address) {
    objects().owners.erase(address);
    return memory::release(address);
}

int release(DeviceAddress address) {
    const emu::Allocation* const allocation = memory::find(address);
    if (allocation && allocation->live && allocation->address == address) {
        if (const int error = touch("release", address, allocation->size, true)) return error;
    }
    return give_back(address);
}

int allocate(DeviceAddress* address, size_t bytes) {
    if (bytes == 0) return add(invalid_value, "an allocation of zero bytes");
    *address = memory::allocate(bytes);
    return *address ? success : out_of_memory;
}

int copy_to_device(const std::shared_ptr<Stream>& stream, DeviceAddress to, const void* from, size_t bytes) {
    if (const int error = check_range("copy to the device", to, bytes)) return error;
    if (stream->capture || is_pinned(from, bytes)) {
        // Reads the host's memory when it runs: whoever changes it too early sees the change copied.
        return submit(stream, "copy to device", [=] {
            if (const int error = touch("copy to device", to, bytes, true)) return error;
            std::memcpy(pointer(to), from, bytes);
            return 0;
        });
    }
    const auto staged =
        std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return submit(stream, "copy to device", [=] {
        if (const int error = touch("copy to device", to, bytes, true)) return error;
        std::memcpy(pointer(to), staged->data(), bytes);
        return 0;
    });
}

int copy_to_host(const std::shared_ptr<Stream>& stream, void* to, DeviceAddress from, size_t bytes) {
    if (const int error = check_range("copy to the host", from, bytes)) return error;
    const bool pinned = is_pinned(to, bytes);
    if (pinned && !stream->capture) std::memset(to, unread_pattern, bytes);
    const auto copy = [=] {
        if (const int error = touch("copy to host", from, bytes, false)) return error;
        std::memcpy(to, pointer(from), bytes);
        return 0;
    };
    if (const int error = submit(stream, "copy to host", copy)) return error;
    if (pinned || stream->capture) return success;
    // Into pageable memory a copy returns when it is done.
    host_waits_for(ticket_of(stream));
    return after_synchronization();
}

// Null for memory of the device's pool.
Context* owner_of(const emu::Allocation& allocation) {
    const auto found = objects().owners.find(allocation.address);
    return found == objects().owners.end() ? nullptr : found->second;
}

template <class T>
int fill(DeviceAddress address, T value, size_t count, void* handle, bool wait) {
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (const int error = check_range("fill", address, count * sizeof(T))) return error;
    if (address % sizeof(T)) return add(invalid_value, "fill of a misaligned address");
    const auto work = [=] {
        if (const int error = touch("fill", address, count * sizeof(T), true)) return error;
        std::fill_n(static_cast<T*>(pointer(address)), count, value);
        return 0;
    };
    if (const int error = submit(stream, "fill", work)) return error;
    if (!wait) return success;
    host_waits_for(ticket_of(stream));
    return after_synchronization();
}

}  // namespace

CU cuMemAlloc_v2(DeviceAddress* address, size_t bytes) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    if (const int error = refuse_while_capturing()) return error;
    if (const int error = allocate(address, bytes)) return error;
    objects().owners[*address] = current_context();
    return success;
}
CU_ALIAS(cuMemAlloc, cuMemAlloc_v2);

CU cuMemFree_v2(DeviceAddress address) {
    const Call call(__func__);
    if (const int error = missing_context()) return error;
    if (!sticky_error) host_waits_for_all();
    const int result = give_back(address);
    return sticky_error ? sticky_error : result;
}
CU_ALIAS(cuMemFree, cuMemFree_v2);

CU cuMemAllocAsync(DeviceAddress* address, size_t bytes, void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (stream->capture) {
        stream->capture->invalid = true;
        return add(stream_capture_unsupported, "cuMemAllocAsync in a capture: the emulator has no memory nodes");
    }
    return allocate(address, bytes);
}

CU cuMemFreeAsync(DeviceAddress address, void* handle) {
    const Call call(__func__);
    if (const int error = missing_context()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (stream->capture) {
        stream->capture->invalid = true;
        return add(stream_capture_unsupported, "cuMemFreeAsync in a capture: the emulator has no memory nodes");
    }
    // After a fault nothing in a stream runs any more, but the memory is given back all the same.
    if (sticky_error) {
        give_back(address);
        return sticky_error;
    }
    return submit(stream, "release", [address] { return release(address); });
}

CU cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    *total_bytes = memory::capacity;
    *free_bytes = memory::capacity - memory::live_bytes();
    return success;
}
CU_ALIAS(cuMemGetInfo, cuMemGetInfo_v2);

CU cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    if (bytes == 0) return invalid_value;
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    *host = std::aligned_alloc(4096, rounded);
    if (!*host) return out_of_memory;
    std::memset(*host, unread_pattern, rounded);
    objects().pinned.push_back({static_cast<char*>(*host), rounded});
    return success;
}

CU cuMemAllocHost_v2(void** host, size_t bytes) { return cuMemHostAlloc(host, bytes, 0); }
CU_ALIAS(cuMemAllocHost, cuMemAllocHost_v2);

CU cuMemFreeHost(void* host) {
    const Call call(__func__);
    auto& pinned = objects().pinned;
    const auto found = std::find_if(pinned.begin(), pinned.end(), [=](const auto& p) { return p.first == host; });
    if (found == pinned.end()) return add(invalid_value, "cuMemFreeHost of memory that is not pinned");
    // Copies under way would write into freed memory.
    run_all();
    pinned.erase(found);
    std::free(host);
    return success;
}

CU cuMemHostGetFlags(unsigned* flags, void* host) {
    const Call call(__func__);
    *flags = 0;
    return is_pinned(host, 1) ? success : invalid_value;
}

CU cuPointerGetAttribute(void* data, int attribute, DeviceAddress address) {
    const Call call(__func__);
    const emu::Allocation* const allocation = memory::find_range(address, 1);
    if (!allocation && !is_pinned(pointer(address), 1)) return invalid_value;
    switch (attribute) {
        case 1:
            *static_cast<void**>(data) = allocation ? owner_of(*allocation) : current_context();
            return success;                                                          // CONTEXT
        case 2: *static_cast<unsigned*>(data) = allocation ? 2 : 1; return success;  // MEMORY_TYPE: device or host
        case 3: *static_cast<DeviceAddress*>(data) = address; return success;        // DEVICE_POINTER
        case 9: *static_cast<int*>(data) = 0; return success;                        // DEVICE_ORDINAL
        case 11:
            *static_cast<DeviceAddress*>(data) = allocation ? allocation->address : address;
            return success;                                                                        // RANGE_START
        case 12: *static_cast<size_t*>(data) = allocation ? allocation->size : 0; return success;  // RANGE_SIZE
        default: return not_supported;
    }
}

CU cuMemGetAddressRange_v2(DeviceAddress* base, size_t* bytes, DeviceAddress address) {
    const Call call(__func__);
    const emu::Allocation* const allocation = memory::find_range(address, 1);
    if (!allocation) return not_found;
    if (base) *base = allocation->address;
    if (bytes) *bytes = allocation->size;
    return success;
}

CU cuMemcpyHtoDAsync_v2(DeviceAddress to, const void* from, size_t bytes, void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    return stream ? copy_to_device(stream, to, from, bytes) : static_cast<int>(invalid_handle);
}
CU_ALIAS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2);

CU cuMemcpyHtoD_v2(DeviceAddress to, const void* from, size_t bytes) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(nullptr);
    if (const int error = copy_to_device(stream, to, from, bytes)) return error;
    host_waits_for(ticket_of(stream));
    return after_synchronization();
}
CU_ALIAS(cuMemcpyHtoD, cuMemcpyHtoD_v2);

CU cuMemcpyDtoHAsync_v2(void* to, DeviceAddress from, size_t bytes, void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    return stream ? copy_to_host(stream, to, from, bytes) : static_cast<int>(invalid_handle);
}
CU_ALIAS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2);

CU cuMemcpyDtoH_v2(void* to, DeviceAddress from, size_t bytes) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(nullptr);
    if (const int error = copy_to_host(stream, to, from, bytes)) return error;
    host_waits_for(ticket_of(stream));
    return after_synchronization();
}
CU_ALIAS(cuMemcpyDtoH, cuMemcpyDtoH_v2);

CU cuMemcpyDtoDAsync_v2(DeviceAddress to, DeviceAddress from, size_t bytes, void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (const int error = check_range("copy on the device, destination", to, bytes)) return error;
    if (const int error = check_range("copy on the device, source", from, bytes)) return error;
    return submit(stream, "copy on device", [=] {
        if (const int error = touch("copy on device", from, bytes, false)) return error;
        if (const int error = touch("copy on device", to, bytes, true)) return error;
        std::memmove(pointer(to), pointer(from), bytes);
        return 0;
    });
}
CU_ALIAS(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2);

CU cuMemcpyDtoD_v2(DeviceAddress to, DeviceAddress from, size_t bytes) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}
CU_ALIAS(cuMemcpyDtoD, cuMemcpyDtoD_v2);

// One device: a copy between peers is a copy.
CU cuMemcpyPeerAsync(DeviceAddress to, void*, DeviceAddress from, void*, size_t bytes, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}

CU cuMemsetD8Async(DeviceAddress address, unsigned char value, size_t count, void* stream) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    return fill<uint8_t>(address, value, count, stream, false);
}
CU cuMemsetD16Async(DeviceAddress address, unsigned short value, size_t count, void* stream) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    return fill<uint16_t>(address, value, count, stream, false);
}
CU cuMemsetD32Async(DeviceAddress address, unsigned value, size_t count, void* stream) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    return fill<uint32_t>(address, value, count, stream, false);
}
CU cuMemsetD8_v2(DeviceAddress address, unsigned char value, size_t count) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    return fill<uint8_t>(address, value, count, nullptr, true);
}
CU_ALIAS(cuMemsetD8, cuMemsetD8_v2);
CU cuMemsetD32_v2(DeviceAddress address, unsigned value, size_t count) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    return fill<uint32_t>(address, value, count, nullptr, true);
}
CU_ALIAS(cuMemsetD32, cuMemsetD32_v2);
