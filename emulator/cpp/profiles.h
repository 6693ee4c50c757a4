// The devices that the emulator can be. Limits are those of the CUDA programming guide's table of compute capabilities.
#pragma once

namespace emu {

struct Profile {
    const char* name;
    int driver_version;
    int devices;
    int major, minor;
    int multiprocessors;
    int shared_per_block, shared_per_block_optin, shared_per_multiprocessor;
    int threads_per_multiprocessor, blocks_per_multiprocessor;
    bool clusters;
    int code;  // what the kernels' code was compiled for, which older PTX keeps
    bool memory_pools;
    int l2_bytes;
    // What cuModuleLoadData answers to an image; 0: it loads.
    int load_result;
};

// The chosen one. Index as in the Rust enum `Profile`.
const Profile& profile();
bool choose_profile(int index);

}  // namespace emu
