"""The CPU: calls one after another, timed by the clock, as benches/harness/cpu.rs has it."""

import itertools
import os
import pathlib
import platform
import time

from . import timing
from .allocator import Allocator
from .devices import Calls, Host

# Threads of whoever ran before wait for more work for a while, and take a core meanwhile. Nothing is timed before all
# together take less than this part of a moment, or so many moments are over.
QUIET_SHARE, QUIET_MOMENT, MOST_MOMENTS = 0.2, 1e-3, 300


class Processor(Host):
    """This machine's, with so many threads."""

    def __init__(self, torch, threads, rounds, clock=time.perf_counter):
        # Not where tests import this.
        from .native import Native

        super().__init__(clock)
        self.threads, self.rounds = threads, rounds
        self.native, self.allocator = Native(), Allocator()
        torch.set_num_threads(threads)
        self.name, self.cold_bytes = model_name(), 2 * last_level_cache()

    def sets(self, read_bytes, is_warm):
        return 1 if is_warm else sets_for(read_bytes, self.cold_bytes), False

    def free_bytes(self):
        available = [line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
        return int(available[0].split()[1]) << 10 if available else super().free_bytes()

    def work(self, call, sets, flush):
        return Windows(self, call, sets)

    def copy(self, data, sets, flush):
        """The fastest of memcpy, a plain loop and a loop of streaming stores."""
        copies = [self.work(call, sets, flush) for call in self.native.copies(data.cell.bytes, sets)]
        return min(copies, key=lambda work: timing.quantile([work.window() for _ in range(5)], 0.5))

    def quiet(self):
        """Waits until no other thread of this process runs."""
        for _ in range(MOST_MOMENTS):
            busy, start = time.process_time(), time.perf_counter()
            time.sleep(QUIET_MOMENT)
            if time.process_time() - busy < QUIET_SHARE * (time.perf_counter() - start):
                return


class Windows(Calls):
    """As many calls as a window takes, on sets in turn. What a call has allocated lives until the next one on its set, so
    that each set has outputs of its own."""

    def __init__(self, host, call, sets):
        super().__init__(host, call, sets)
        self._kept, self._turns, self._calls = [None] * sets, itertools.cycle(range(sets)), 1
        # Touches every page, and finds out how many calls make a window.
        self._run(sets)
        while (seconds := self.window() * self._calls) < timing.CPU_WINDOW_SECONDS:
            wanted = int(timing.CPU_WINDOW_SECONDS / max(seconds, 1e-9) * self._calls) + 1
            self._calls = min(max(2 * self._calls, wanted), 1 << 20)

    def _run(self, calls):
        kept, call = self._kept, self._call
        for set_ in itertools.islice(self._turns, calls):
            kept[set_] = None
            kept[set_] = call(set_)

    def window(self):
        self._host.quiet()
        # Wakes its threads, and has the system spread them over the cores.
        awake = self._host.clock() + timing.CPU_WAKING_SECONDS
        self._run(1)
        while self._host.clock() < awake:
            self._run(1)
        start = self._host.clock()
        self._run(self._calls)
        return (self._host.clock() - start) / self._calls


def sets_for(read_bytes, cold_bytes):
    """As many as together outgrow the last-level cache, but few enough that tiny tensors stay near."""
    return min(max(-(-cold_bytes // max(read_bytes, 1)), 1), timing.MOST_CPU_SETS)


def threads_here():
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def model_name():
    """As in `AMD EPYC 7B13, family 25, model 1`, as benches/harness/cpu.rs has it."""
    # Of the last of its cores, which are all alike.
    pairs = [line.partition(":") for line in _lines("/proc/cpuinfo")]
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    name = fields.get("model name", platform.machine())
    kind = [f"{what} {fields[field]}" for what, field in [("family", "cpu family"), ("model", "model")] if field in fields]
    return ", ".join([name, *kind] if len(kind) == 2 else [name])


def last_level_cache():
    """Its bytes; a guess where the system does not say."""
    sizes = [text.removesuffix("K") for path in _caches() for text in _lines(path)]
    return max((int(size) << 10 for size in sizes if size.isdigit()), default=32 << 20)


def _caches():
    return sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))


def _lines(path):
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
