"""Rounds of windows and what is said of them, as benches/harness/{cuda,measure}.rs have it. Knows no device."""

import math

# Calls of a graph.
LAUNCHES = 20
# Graphs are launched until a window lasts so long, where nothing has to be flushed in between.
WINDOW_SECONDS = 5e-4
# Of a CPU, whose calls are timed by the clock: its grain is small beside it.
CPU_WINDOW_SECONDS = 2e-3
# What runs ahead of such a window: threads that slept may wake on one core, and stay there for milliseconds before the system
# spreads them.
CPU_WAKING_SECONDS = 3e-2
# Of a CPU: tensors that fit a cache even so stay in it.
MOST_CPU_SETS = 64
MOST_REPEATS = 100
ROUNDS = 15


def sets_for(read_bytes, cold_bytes):
    """How many sets of buffers, so that each call meets its own cold; and whether the caches must be flushed before every
    window, because even a set for each call would fit them."""
    needed = -(-cold_bytes // max(read_bytes, 1))
    # A divisor of the launches: else the first set would come again too soon, at the start of the next graph.
    divisors = [count for count in range(1, LAUNCHES + 1) if LAUNCHES % count == 0]
    sets = next((count for count in divisors if count >= needed), LAUNCHES)
    return sets, sets < needed


def repeats_for(seconds_of_a_graph):
    """Graphs of a window."""
    return min(max(math.ceil(WINDOW_SECONDS / max(seconds_of_a_graph, 1e-6)), 1), MOST_REPEATS)


def measure(works, rounds):
    """``{name: seconds of one call, by round}``, and ``{name: error}`` of those that failed on the way. In every round one
    window of each, in an order that turns: whatever else the machine is at falls on all alike."""
    names, seconds, failures = list(works), {name: [] for name in works}, {}
    for round_ in range(rounds + 1):
        for turn in range(len(names)):
            name = names[(round_ + turn) % len(names)]
            if name in failures:
                continue
            try:
                window = works[name].window()
            except Exception as error:  # whatever an engine may throw
                failures[name] = error
                continue
            # The first round warms up.
            if round_ > 0:
                seconds[name].append(window)
    return {name: found for name, found in seconds.items() if name not in failures}, failures


def figures(seconds, copies=None, ours=None):
    """The columns of the record, as far as times fill them; ratios are medians of those within a round."""
    found = {
        "samples": str(len(seconds)),
        "median_us": _microseconds(quantile(seconds, 0.5)),
        "p5_us": _microseconds(quantile(seconds, 0.05)),
        "p95_us": _microseconds(quantile(seconds, 0.95)),
    }
    if copies:
        # 1 is as fast as a copy.
        found["copy_us"] = _microseconds(quantile(copies, 0.5))
        found["copy_fraction"] = _ratio(copies, seconds)
    if ours:
        # Above 1, it takes longer than warpnorm.
        found["times_ours"] = _ratio(seconds, ours)
    return found


def _ratio(numerators, denominators):
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return f"{quantile(ratios, 0.5):.4f}"


def _microseconds(seconds):
    return f"{1e6 * seconds:.3f}"


def quantile(samples, share):
    """Linear between the two nearest samples, as NumPy's default."""
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + (above - below) * (position - math.floor(position))


class Budget:
    """Time for a list of things of which each may take as long as the longest so far."""

    def __init__(self, seconds, clock):
        self._clock, self._end, self._longest = clock, clock() + seconds, 0.0

    def has_room(self):
        return self._clock() + self._longest < self._end

    def spent(self, start):
        """That one has taken since ``start``, a reading of the clock."""
        self._longest = max(self._longest, self._clock() - start)
