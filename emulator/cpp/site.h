// A place in a source file. As a default argument it is the place of the call.
#pragma once

namespace emu {

struct Site {
    const char* file = nullptr;
    int line = 0;

    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

}  // namespace emu
