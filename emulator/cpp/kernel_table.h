// The table of kernels: every WN_KERNEL of every kernel file enters itself here before main.
//
// A table rather than dlsym keeps the kernels' names out of the library's exports and their C++ signatures known, so
// that sizes of parameters can be checked and answered (cuFuncGetParamInfo).
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace emu {

struct Parameter {
    uint32_t size, alignment;
    bool is_pointer;
};

struct KernelDescription {
    const char* name;
    const char* file;
    void (*call)(void* const* parameters);
    const Parameter* parameters;
    unsigned parameter_count;
    unsigned max_threads;
};

int register_kernel(const KernelDescription& kernel);

// The way from cuLaunchKernel's array of addresses to a call with typed arguments.
template <auto Function>
struct Entry;

template <class... Arguments, void (*Function)(Arguments...)>
struct Entry<Function> {
    static_assert((std::is_trivially_copyable_v<Arguments> && ...), "kernel parameters are copied byte for byte");

    static constexpr unsigned count = sizeof...(Arguments);
    // One spare element, because C++ has no empty array and a kernel may have no parameter.
    static constexpr Parameter parameters[count + 1] = {
        {sizeof(Arguments), alignof(Arguments), std::is_pointer_v<Arguments>}..., {0, 1, false}};

    __attribute__((no_sanitize("thread", "undefined"))) static void call(void* const* addresses) {
        call_with(addresses, std::index_sequence_for<Arguments...>{});
    }

  private:
    template <size_t... I>
    __attribute__((no_sanitize("thread", "undefined"))) static void call_with([[maybe_unused]] void* const* addresses,
                                                                              std::index_sequence<I...>) {
        Function(*static_cast<std::remove_cv_t<Arguments>*>(addresses[I])...);
    }
};

}  // namespace emu

// Declares, registers and opens the definition of a kernel. Its launch bounds are stated once, here.
#define WN_KERNEL(name, max_threads, ...) EMU_KERNEL(name, max_threads, __VA_ARGS__)
// A second macro, so that `name` may itself be made by a macro.
#define EMU_KERNEL(name, max_threads, ...)                                                             \
    extern "C" void name(__VA_ARGS__);                                                                 \
    [[maybe_unused]] static const int emu_registration_of_##name =                                     \
        emu::register_kernel({#name, __FILE__, emu::Entry<&name>::call, emu::Entry<&name>::parameters, \
                              emu::Entry<&name>::count, (max_threads)});                               \
    extern "C" void name(__VA_ARGS__)
