"""Where calls run and how they are timed: a GPU by CUDA graphs and events, or a CPU by the clock.

A call is a function of the number of a set of buffers that returns its outputs; a work is calls over all sets with a
``window()``, the seconds of one of them, and ``outputs()``, what its last run left of the first set and the last."""

import gc
import time

from . import timing

# Before a graph is first timed: clocks rise, and kernels are loaded. Outputs are judged on the GPU, so clocks hardly fall.
WARM_UP_SECONDS = 0.03


class Gpu:
    """The first CUDA device, by torch (given, so that tests can give another)."""

    mode = "graph"
    rounds = timing.ROUNDS

    def __init__(self, torch, clock=time.perf_counter):
        self.torch, self.clock = torch, clock
        self.device = "cuda:0"
        found = torch.cuda.get_device_properties(self.device)
        # As warpnorm names it.
        self.name = f"{found.name} (sm_{found.major}{found.minor})"
        self.cold_bytes = max(2 * found.L2_cache_size, 256 << 20)
        self._overwritten = torch.zeros(2, self.cold_bytes // 4, device=self.device)

    def sets(self, read_bytes, is_warm):
        return (1, False) if is_warm else timing.sets_for(read_bytes, self.cold_bytes)

    def free_bytes(self):
        return self.torch.cuda.mem_get_info(self.device)[0]

    def work(self, call, sets, flush):
        return Graph(self, call, sets, flush)

    def copy(self, data, sets, flush):
        """The driver's, of as many bytes as a call moves."""
        return self.work(_copy_by_torch(data, sets), sets, flush)

    def flush(self):
        """Overwrites the caches, and reads what they then hold: what is not written back yet would be at the cost of what
        is timed next."""
        self._overwritten[0].zero_()
        self._overwritten[1].sum()

    def synchronize(self):
        self.torch.cuda.synchronize()

    def release(self):
        """Memory of graphs that are gone."""
        gc.collect()
        self.torch.cuda.empty_cache()


class Graph:
    """A CUDA graph of calls, each on the next set of buffers."""

    def __init__(self, gpu, call, sets, flush):
        self.gpu, self._flush = gpu, flush
        torch, stream = gpu.torch, gpu.torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Whatever an engine compiles, loads and chooses.
            for _ in range(2):
                call(0)
        stream.synchronize()
        self._graph, self._kept = torch.cuda.CUDAGraph(), [None] * sets
        with torch.cuda.graph(self._graph, stream=stream):
            for launch in range(timing.LAUNCHES):
                # What a set's call returned before is given back first, so that each set has outputs of its own and no
                # more.
                self._kept[launch % sets] = None
                self._kept[launch % sets] = call(launch % sets)
        self._repeats = 1
        self._warm_up()
        if not flush:
            self._repeats = timing.repeats_for(self.window() * timing.LAUNCHES)

    def _warm_up(self):
        start = self.gpu.clock()
        while True:
            self._graph.replay()
            self.gpu.synchronize()
            if self.gpu.clock() - start >= WARM_UP_SECONDS:
                return

    def window(self):
        if self._flush:
            self.gpu.flush()
        else:
            # So that the first of those that count does not wait to begin.
            self._graph.replay()
        start, end = (self.gpu.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(self._repeats):
            self._graph.replay()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / (self._repeats * timing.LAUNCHES)

    def outputs(self):
        """Written by the graph that is timed, over poison."""
        for outputs in self._kept:
            _poison(outputs)
        self._graph.replay()
        self.gpu.synchronize()
        return [self._kept[0], self._kept[-1]]


class Host:
    """The CPU: shows that everything works, and nothing of a GPU's speed."""

    mode = "cpu"
    rounds = 2
    device = name = "cpu"

    def __init__(self, clock=time.perf_counter):
        self.clock = clock

    def sets(self, read_bytes, is_warm):
        return (1 if is_warm else 2), False

    def free_bytes(self):
        return 1 << 40

    def work(self, call, sets, flush):
        return Calls(self, call, sets)

    def copy(self, data, sets, flush):
        return self.work(_copy_by_torch(data, sets), sets, flush)

    def synchronize(self):
        pass

    def release(self):
        gc.collect()


class Calls:
    """Calls one after another, timed by the clock."""

    def __init__(self, host, call, sets):
        self._host, self._call, self._sets = host, call, sets

    def window(self):
        start = self._host.clock()
        for set_ in range(self._sets):
            self._call(set_)
        return (self._host.clock() - start) / self._sets

    def outputs(self):
        for set_ in range(self._sets):
            _poison(self._call(set_))
        return [self._call(set_) for set_ in (0, self._sets - 1)]


def _copy_by_torch(data, sets):
    from .data import bytes_to_copy

    sources, targets = bytes_to_copy(data.cell.bytes, sets, data.device)
    return lambda set_: (targets[set_].copy_(sources[set_]),)


def _poison(outputs):
    for output in outputs:
        output.fill_(float("nan"))
