// Memory of a GPU by the driver alone, so that this example builds without a CUDA toolkit. A service has its own: pointers of
// cudaMalloc serve as well.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

class Driver {
public:
    Driver() {
        for (const char* name : {"libcuda.so.1", "libcuda.so"})
            if (!library_) library_ = dlopen(name, RTLD_NOW);
        if (!library_) throw std::runtime_error("there is no NVIDIA driver");
        void* context = nullptr;
        call<int(unsigned)>("cuInit", 0U);
        call<int(void**, int)>("cuDevicePrimaryCtxRetain", &context, 0);
        call<int(void*)>("cuCtxSetCurrent", context);
    }

    template <class Function, class... Arguments>
    void call(const char* name, Arguments... arguments) const {
        auto* function = reinterpret_cast<Function*>(dlsym(library_, name));
        if (!function) throw std::runtime_error(std::string("the driver lacks ") + name);
        if (const int status = function(arguments...))
            throw std::runtime_error(std::string(name) + ": CUDA error " + std::to_string(status));
    }

private:
    void* library_ = nullptr;
};

// Elements in the memory of a GPU, or of the process where there is no driver.
template <class T>
class Memory {
public:
    Memory(const Driver* driver, std::vector<T> values) : driver_(driver), values_(std::move(values)) {
        if (!driver_) return;
        driver_->call<int(std::uint64_t*, std::size_t)>("cuMemAlloc_v2", &address_, bytes());
        driver_->call<int(std::uint64_t, const void*, std::size_t)>("cuMemcpyHtoD_v2", address_, values_.data(), bytes());
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() {
        try {
            if (driver_) driver_->call<int(std::uint64_t)>("cuMemFree_v2", address_);
        } catch (const std::exception&) {
        }
    }

    T* data() { return driver_ ? reinterpret_cast<T*>(address_) : values_.data(); }

    // After all calls on it.
    const std::vector<T>& read() {
        if (driver_) {
            driver_->call<int()>("cuCtxSynchronize");
            driver_->call<int(void*, std::uint64_t, std::size_t)>("cuMemcpyDtoH_v2", values_.data(), address_, bytes());
        }
        return values_;
    }

private:
    std::size_t bytes() const { return values_.size() * sizeof(T); }

    const Driver* driver_;
    std::vector<T> values_;
    std::uint64_t address_ = 0;
};
