// The step from one fiber's stack to another's: one file for each architecture.
#pragma once

#if defined(__x86_64__)
#include "switch_x86_64.h"
#elif defined(__aarch64__)
#include "switch_aarch64.h"
#else
#error "no switch between stacks for this architecture"
#endif
