// A program that knows nothing of the emulator: it looks for CUDA's driver by its names, and launches a kernel.
//
// usage: program IMAGE KERNEL FIRST-NAME SECOND-NAME. Prints the kernel's first output, or the driver's error.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

void* driver;

template <class... Arguments>
void call(const char* name, Arguments... arguments) {
    const auto function = reinterpret_cast<int (*)(Arguments...)>(dlsym(driver, name));
    if (!function) {
        std::printf("%s is missing\n", name);
        std::exit(1);
    }
    if (const int error = function(arguments...)) {
        std::printf("%s: error %d\n", name, error);
        std::exit(1);
    }
}

// As in faults/*.cu.
struct Params {
    uint64_t input, output;
    uint32_t count;
    float eps;
};

}  // namespace

int main(int, char** arguments) {
    const char *image = arguments[1], *kernel = arguments[2];
    driver = dlopen(arguments[3], RTLD_NOW);
    void* const again = dlopen(arguments[4], RTLD_NOW);
    if (!driver || driver != again) {
        std::printf("%s and %s are two libraries: %p and %p\n", arguments[3], arguments[4], driver, again);
        return 1;
    }
    void *context, *module, *function;
    call("cuInit", 0u);
    call("cuDevicePrimaryCtxRetain", &context, 0);
    call("cuCtxSetCurrent", context);
    call("cuModuleLoadData", &module, static_cast<const void*>(image));
    call("cuModuleGetFunction", &function, module, static_cast<const char*>(kernel));
    float x[256], y[256];
    for (int i = 0; i < 256; i++) x[i] = static_cast<float>(i);
    Params params{0, 0, 256, 0};
    call("cuMemAlloc_v2", &params.input, sizeof x);
    call("cuMemAlloc_v2", &params.output, sizeof y);
    call("cuMemcpyHtoD_v2", params.input, static_cast<const void*>(x), sizeof x);
    void* parameters[] = {&params};
    void* const none = nullptr;
    call("cuLaunchKernel", function, 1u, 1u, 1u, 256u, 1u, 1u, 33u * 4, none, static_cast<void**>(parameters),
         static_cast<void**>(nullptr));
    call("cuMemcpyDtoH_v2", static_cast<void*>(y), params.output, sizeof y);
    std::printf("%.4f\n", static_cast<double>(y[0]));
    // As programs do that are tidy; the driver's threads are still there.
    dlclose(again);
    dlclose(driver);
}
