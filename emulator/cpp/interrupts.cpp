// Faults and endless loops in kernels. A signal that interrupts a fiber becomes a report, and the fiber's next
// instruction the one that abandons the team. A signal anywhere else goes to whoever handled it before: a stack
// overflow in Rust code still reaches Rust's own handler.
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "executor.h"
#include "memory.h"

// The bounds of this library's code.
extern "C" const char __ehdr_start __attribute__((visibility("hidden")));
extern "C" const char _etext __attribute__((visibility("hidden")));

namespace emu {
namespace {

#if defined(__x86_64__)
constexpr int trap_signal = SIGILL;
#else
constexpr int trap_signal = SIGTRAP;
#endif
constexpr int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, trap_signal};
struct sigaction previous_actions[sizeof fault_signals / sizeof *fault_signals];

// The watchdog counts ticks of each worker's own processor time, so a busy machine does not look like an endless loop.
const int watchdog_signal = SIGRTMIN + 6;
constexpr int ticks_allowed = 4;

const void* program_counter(const ucontext_t& context) {
#if defined(__x86_64__)
    return reinterpret_cast<const void*>(context.uc_mcontext.gregs[REG_RIP]);
#else
    return reinterpret_cast<const void*>(context.uc_mcontext.pc);
#endif
}

void land() { executor->abandon(); }

// Makes the interrupted fiber abandon its team as soon as the handler returns: switching stacks inside the handler
// would leave the signal blocked.
void continue_in_land(ucontext_t& context) {
#if defined(__x86_64__)
    greg_t* const registers = context.uc_mcontext.gregs;
    // Below the red zone, and aligned as after a call.
    registers[REG_RSP] = ((registers[REG_RSP] - 256) & ~greg_t{15}) - 8;
    registers[REG_RIP] = reinterpret_cast<greg_t>(&land);
#else
    context.uc_mcontext.sp = (context.uc_mcontext.sp - 256) & ~uint64_t{15};
    context.uc_mcontext.pc = reinterpret_cast<uint64_t>(&land);
#endif
}

void record(int result, Place place, const char* format, ...) __attribute__((format(printf, 3, 4)));
void record(int result, Place place, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_fault(current, result, place, {}, format, arguments);
    va_end(arguments);
}

void record_bad_address(uint64_t address, const siginfo_t& info, Place place) {
    const Allocation* const a = memory::find(address);
    const uint64_t window = address - reinterpret_cast<uint64_t>(executor->windows);
    if (a && !a->live) {
        record(reports::illegal_address, place,
               "use after free: access at offset %lld of a freed allocation of %llu bytes",
               static_cast<long long>(address - a->address), static_cast<unsigned long long>(a->size));
    } else if (a) {
        record(reports::illegal_address, place, "out of bounds: access at offset %lld of an allocation of %llu bytes",
               static_cast<long long>(address - a->address), static_cast<unsigned long long>(a->size));
    } else if (window < executor->blocks.size() * Executor::window_stride) {
        record(reports::illegal_address, place, "shared memory out of bounds: access at offset %llu",
               static_cast<unsigned long long>(window % Executor::window_stride));
#if defined(__x86_64__)
    } else if (!address && info.si_code == SI_KERNEL) {
        // The processor names no address when an aligned instruction meets a misaligned operand.
        record(reports::misaligned_address, place, "misaligned 16-byte access, or a wild address");
#endif
    } else {
        record(reports::illegal_address, place, "illegal address %#llx (signal %d)",
               static_cast<unsigned long long>(address), info.si_signo);
    }
}

void pass_on(int signal, siginfo_t* info, void* context) {
    const struct sigaction* previous = nullptr;
    for (size_t i = 0; i < sizeof fault_signals / sizeof *fault_signals; i++) {
        if (fault_signals[i] == signal) previous = &previous_actions[i];
    }
    if (previous && previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal, info, context);
    } else if (previous && previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(signal);
    } else {
        // Returning runs the faulting instruction again, now with the default action.
        struct sigaction action = {};
        action.sa_handler = SIG_DFL;
        sigaction(signal, &action, nullptr);
    }
}

// The thread may be inside a function of the emulator that its kernel called: every word near the top of its stack that
// could be a return address is a hint where.
void leave_trail(const ucontext_t& context) {
    size_t found = 0;
    constexpr size_t most = sizeof executor->fault.trail / sizeof *executor->fault.trail;
    const auto add = [&](uint64_t word) {
        const auto* const pc = reinterpret_cast<const char*>(word) - 1;
        if (found < most && pc >= &__ehdr_start && pc < &_etext) executor->fault.trail[found++] = pc;
    };
#if defined(__x86_64__)
    const auto stack = static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RSP]);
#else
    const uint64_t stack = context.uc_mcontext.sp;
    add(context.uc_mcontext.regs[30]);
#endif
    add(reinterpret_cast<uint64_t>(current->pc) + 1);
    for (uint64_t at = stack; at < stack + 16 * sizeof(uint64_t) && executor->on_a_stack(at); at += sizeof(uint64_t)) {
        add(*reinterpret_cast<const uint64_t*>(at));
    }
}

void on_fault(int signal, siginfo_t* info, void* raw_context) {
    if (!executor || !executor->in_fibers || !current) {
        pass_on(signal, info, raw_context);
        return;
    }
    ucontext_t& context = *static_cast<ucontext_t*>(raw_context);
    const Place place{program_counter(context)};
    if (signal == trap_signal) {
        // What -fsanitize-undefined-trap-on-error ends in.
        record(reports::misaligned_address, place, "misaligned access");
    } else if (signal == SIGFPE) {
        record(reports::launch_failed, place, "integer division by zero or overflow of a division");
    } else {
        record_bad_address(reinterpret_cast<uint64_t>(info->si_addr), *info, place);
    }
    leave_trail(context);
    continue_in_land(context);
}

void on_watchdog(int, siginfo_t*, void* raw_context) {
    if (!executor || !executor->in_fibers || !current) return;
    executor->ticks = executor->ticks + 1;
    if (executor->ticks <= ticks_allowed) return;
    ucontext_t& context = *static_cast<ucontext_t*>(raw_context);
    record(reports::launch_failed, current->in_call ? Place(current->site) : Place(program_counter(context)),
           "endless loop: the threads that run together made no end within %g seconds of processor time",
           settings.watchdog_seconds);
    leave_trail(context);
    continue_in_land(context);
}

void handle(int signal, void (*handler)(int, siginfo_t*, void*), int flags, struct sigaction* previous) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | flags;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, previous);
}

}  // namespace

void install_fault_handlers() {
    static std::once_flag once;
    std::call_once(once, [] {
        for (size_t i = 0; i < sizeof fault_signals / sizeof *fault_signals; i++) {
            handle(fault_signals[i], on_fault, 0, &previous_actions[i]);
        }
        handle(watchdog_signal, on_watchdog, SA_RESTART, nullptr);
    });
}

Watchdog::Watchdog() {
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = watchdog_signal;
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
    event.sigev_notify_thread_id = static_cast<pid_t>(syscall(SYS_gettid));
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_)) {
        perror("emulator: timer_create");
        abort();
    }
}

void Watchdog::set(double seconds) {
    if (seconds == seconds_) return;
    seconds_ = seconds;
    const double tick = seconds / ticks_allowed;
    itimerspec interval = {};
    interval.it_interval.tv_sec = static_cast<time_t>(tick);
    interval.it_interval.tv_nsec = static_cast<long>((tick - static_cast<double>(interval.it_interval.tv_sec)) * 1e9);
    interval.it_value = interval.it_interval;
    timer_settime(timer_, 0, &interval, nullptr);
}

}  // namespace emu
