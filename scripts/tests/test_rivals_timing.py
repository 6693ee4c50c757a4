"""How the comparison with others times, on a device and a clock made up here."""

import contextlib
import unittest
from types import SimpleNamespace

import rivals_path  # noqa: F401
from rivals import devices, timing


class Sets(unittest.TestCase):
    def test_what_calls_read_reaches_the_caches_and_more(self):
        for read_bytes, cold_bytes, expected in (
            (100, 100, (1, False)), (99, 100, (2, False)), (30, 100, (4, False)), (20, 100, (5, False)),
            (15, 100, (10, False)), (5, 100, (20, False)), (4, 100, (20, True)), (0, 100, (20, True)),
        ):  # fmt: skip
            self.assertEqual(timing.sets_for(read_bytes, cold_bytes), expected, f"{read_bytes} of {cold_bytes}")

    def test_a_window_is_long_enough_and_bounded(self):
        self.assertEqual(timing.repeats_for(1e-4), 5)
        self.assertEqual(timing.repeats_for(1.0), 1)
        self.assertEqual(timing.repeats_for(0.0), timing.MOST_REPEATS)


class Work:
    def __init__(self, name, log, fails_at=None):
        self.name, self.log, self.fails_at = name, log, fails_at

    def window(self):
        self.log.append(self.name)
        if self.log.count(self.name) == self.fails_at:
            raise RuntimeError("no longer")
        return float(len(self.log))


class Rounds(unittest.TestCase):
    def test_the_order_turns_and_the_first_round_does_not_count(self):
        log = []
        seconds, failures = timing.measure({name: Work(name, log) for name in "abc"}, 2)
        self.assertEqual("".join(log), "abc" "bca" "cab")
        self.assertEqual(seconds, {"a": [6.0, 8.0], "b": [4.0, 9.0], "c": [5.0, 7.0]})
        self.assertEqual(failures, {})

    def test_one_that_fails_leaves_the_others(self):
        log = []
        seconds, failures = timing.measure({"a": Work("a", log), "b": Work("b", log, fails_at=2)}, 3)
        self.assertEqual((len(seconds["a"]), list(seconds)), (3, ["a"]))
        self.assertEqual(str(failures["b"]), "no longer")
        self.assertEqual(log.count("b"), 2)

    def test_figures(self):
        found = timing.figures([1e-6, 2e-6, 4e-6], [1e-6, 1e-6, 4e-6])
        self.assertEqual(found["median_us"], "2.000")
        self.assertEqual((found["p5_us"], found["p95_us"]), ("1.100", "3.800"))
        # The median of the ratios within a round, not the ratio of the medians.
        self.assertEqual((found["copy_us"], found["copy_fraction"]), ("1.000", "1.0000"))
        self.assertNotIn("copy_us", timing.figures([1e-6]))

    def test_quantiles_lie_between_samples(self):
        self.assertEqual(timing.quantile([3.0, 1.0, 2.0, 4.0], 0.5), 2.5)
        self.assertEqual(timing.quantile([7.0], 0.95), 7.0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class TimeLeft(unittest.TestCase):
    def test_nothing_begins_that_could_take_too_long(self):
        clock = Clock()
        budget = timing.Budget(10, clock)
        clock.now = 4.0
        budget.spent(0.0)
        self.assertTrue(budget.has_room())
        clock.now = 6.0
        self.assertFalse(budget.has_room(), "the longest took 4 s")


class Output:
    def __init__(self):
        self.value = "fresh"

    def fill_(self, value):
        self.value = value


class FakeTorch:
    """As much of torch as devices.Gpu needs. A device whose graphs take a second a call, and its flushes a hundred."""

    def __init__(self, clock):
        self.clock, self.capturing, self.flushes = clock, None, 0
        self.cuda = self

    def get_device_properties(self, device):
        return SimpleNamespace(name="A Chip", major=9, minor=0, L2_cache_size=1 << 20)

    def zeros(self, *shape, device):
        return [SimpleNamespace(zero_=self.flush), SimpleNamespace(sum=lambda: None)]

    def flush(self):
        self.flushes += 1
        self.clock.now += 100.0

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)

    def current_stream(self):
        return None

    def stream(self, stream):
        return contextlib.nullcontext()

    def CUDAGraph(self):
        graph = SimpleNamespace(calls=[], replays=0)

        def replay():
            graph.replays += 1
            for output in graph.calls:
                output.value = "written"
                self.clock.now += 1.0

        graph.replay = replay
        return graph

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.capturing = graph
        yield
        self.capturing = None

    def Event(self, enable_timing):
        event = SimpleNamespace(at=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.clock.now)
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event

    def synchronize(self):
        pass


class Graphs(unittest.TestCase):
    def setUp(self):
        self.torch = FakeTorch(Clock())
        self.gpu = devices.Gpu(self.torch, self.torch.clock)
        self.captured = []

    def call(self, set_):
        output = Output()
        if self.torch.capturing:
            self.torch.capturing.calls.append(output)
            self.captured.append((set_, output))
        return (output,)

    def test_the_device_is_named_as_in_other_records(self):
        self.assertEqual(self.gpu.name, "A Chip (sm_90)")
        self.assertEqual(self.gpu.cold_bytes, 256 << 20)
        self.assertEqual(self.gpu.sets(1, is_warm=True), (1, False))

    def test_calls_take_turns_with_the_sets(self):
        self.gpu.work(self.call, 4, flush=False)
        self.assertEqual([set_ for set_, _ in self.captured], [0, 1, 2, 3] * 5)

    def test_a_window_is_the_time_of_one_call(self):
        work = self.gpu.work(self.call, 4, flush=False)
        before = self.torch.clock.now
        self.assertEqual(work.window(), 1.0)
        self.assertEqual(self.torch.clock.now - before, 2 * timing.LAUNCHES, "a graph ahead, which is not timed")
        self.assertEqual(self.torch.flushes, 0)

    def test_a_flush_comes_before_the_window_and_not_into_it(self):
        work = self.gpu.work(self.call, 20, flush=True)
        before = self.torch.flushes
        self.assertEqual(work.window(), 1.0)
        self.assertEqual(self.torch.flushes, before + 1)

    def test_outputs_are_those_of_the_timed_graph_over_poison(self):
        work = self.gpu.work(self.call, 4, flush=False)
        [[first], [last]] = work.outputs()
        self.assertEqual((first.value, last.value), ("written", "written"))
        self.assertIs(first, self.captured[-4][1])
        self.assertIs(last, self.captured[-1][1])
        # What the graph does not write stays poison.
        self.torch_graph_forgets(work)
        [[first], _] = work.outputs()
        self.assertNotEqual(first.value, first.value, "NaN")

    def torch_graph_forgets(self, work):
        work._graph.calls.clear()


class OnTheHost(unittest.TestCase):
    def test_a_window_is_a_call_of_each_set(self):
        clock, calls = Clock(), []

        def call(set_):
            calls.append(set_)
            clock.now += 3.0
            return (Output(),)

        host = devices.Host(clock)
        work = host.work(call, 2, flush=False)
        self.assertEqual((work.window(), calls), (3.0, [0, 1]))
        self.assertEqual(len(work.outputs()), 2)


if __name__ == "__main__":
    unittest.main()
