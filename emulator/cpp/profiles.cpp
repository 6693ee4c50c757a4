#include "profiles.h"

#include <atomic>

#include "reports.h"

namespace emu {
namespace {

constexpr int KiB = 1024, MiB = 1024 * 1024;

// The order is that of the Rust enum `Profile`.
constexpr Profile profiles[] = {
    {"Emulated GPU sm_75 (as T4)", 13000, 1, 7, 5, 40, 48 * KiB, 64 * KiB, 64 * KiB, 1024, 16, false, 75, true,
     4 * MiB, 0},
    {"Emulated GPU sm_80 (as A100)", 13000, 1, 8, 0, 108, 48 * KiB, 163 * KiB, 164 * KiB, 2048, 32, false, 80, true,
     40 * MiB, 0},
    {"Emulated GPU sm_86 (as A10)", 13000, 1, 8, 6, 72, 48 * KiB, 99 * KiB, 100 * KiB, 1536, 16, false, 86, true,
     6 * MiB, 0},
    {"Emulated GPU sm_90 (as H100)", 13000, 1, 9, 0, 132, 48 * KiB, 227 * KiB, 228 * KiB, 2048, 32, true, 90, true,
     50 * MiB, 0},
    // Without memory pools cudarc takes its synchronous allocator.
    {"Emulated GPU sm_86 without memory pools", 13000, 1, 8, 6, 72, 48 * KiB, 99 * KiB, 100 * KiB, 1536, 16, false, 86,
     false, 6 * MiB, 0},
    // Older than any architecture in the image.
    {"Emulated GPU sm_61 (as GTX 1080)", 12080, 1, 6, 1, 20, 48 * KiB, 48 * KiB, 96 * KiB, 2048, 32, false, 61, false,
     2 * MiB, reports::no_binary_for_gpu},
    {"no device", 13000, 0, 0, 0, 0, 0, 0, 0, 0, 0, false, 0, false, 0, reports::no_device},
    // A driver from before the toolkit that built the image.
    {"Emulated GPU sm_80, old driver", 11040, 1, 8, 0, 108, 48 * KiB, 163 * KiB, 164 * KiB, 2048, 32, false, 80, true,
     40 * MiB, reports::unsupported_ptx_version},
    {"Emulated GPU sm_110, kernels from PTX of compute_75", 13000, 1, 11, 0, 20, 48 * KiB, 227 * KiB, 228 * KiB, 1536,
     24, true, 75, true, 32 * MiB, 0},
};
constexpr int default_profile = 3;

// Read without the driver's lock too (bare.h).
std::atomic<int> chosen{default_profile};

}  // namespace

const Profile& profile() { return profiles[chosen.load(std::memory_order_relaxed)]; }

bool choose_profile(int index) {
    if (index < 0 || index >= static_cast<int>(sizeof profiles / sizeof *profiles)) return false;
    chosen = index;
    return true;
}

}  // namespace emu
