"""How the comparison with others times, on a device and a clock made up here."""

import contextlib
import math
import unittest
from types import SimpleNamespace

import rivals_path  # noqa: F401
from rivals import allocator, devices, processor, timing


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


class FakeProcessor(devices.Host):
    """One whose calls take as long as they say, and whose other threads are still busy for a while."""

    def __init__(self, clock):
        super().__init__(clock)
        self.waits = 0

    def quiet(self):
        self.waits += 1
        self.clock.now += 50.0


class OnAProcessor(unittest.TestCase):
    def setUp(self):
        self.clock, self.calls = Clock(), []
        self.host = FakeProcessor(self.clock)

    def call(self, set_):
        self.calls.append(set_)
        self.clock.now += 3e-4
        return (Output(),)

    def test_a_window_is_long_enough_behind_calls_that_wake_threads(self):
        work = processor.Windows(self.host, self.call, 3)
        self.calls.clear()
        waits, before = self.host.waits, self.clock.now
        self.assertAlmostEqual(work.window(), 3e-4)
        self.assertEqual(self.host.waits, waits + 1)
        waking = math.ceil(timing.CPU_WAKING_SECONDS / 3e-4)
        timed = len(self.calls) - waking
        self.assertGreaterEqual(timed * 3e-4, timing.CPU_WINDOW_SECONDS)
        self.assertLess((timed - 1) * 3e-4, 2 * timing.CPU_WINDOW_SECONDS)
        self.assertAlmostEqual(self.clock.now - before, 50.0 + len(self.calls) * 3e-4)

    def test_calls_take_turns_with_the_sets_from_window_to_window(self):
        work = processor.Windows(self.host, self.call, 3)
        self.calls.clear()
        work.window()
        work.window()
        self.assertEqual(self.calls, [(self.calls[0] + i) % 3 for i in range(len(self.calls))])

    def test_what_a_call_allocated_is_freed_before_its_set_is_next(self):
        alive, most = set(), []

        class Counted:
            def __init__(self):
                alive.add(id(self))
                most.append(len(alive))

            def __del__(self):
                alive.discard(id(self))

        work = processor.Windows(self.host, lambda set_: (*self.call(set_), Counted()), 2)
        work.window()
        self.assertEqual(max(most), 2, "each set has outputs of its own, and no more")

    def test_a_copy_is_the_fastest_of_several(self):
        def copy(seconds):
            def call(set_):
                self.clock.now += seconds
                return (Output(),)

            return call

        self.host.native = SimpleNamespace(copies=lambda moved, sets: [copy(3e-3), copy(2e-3), copy(4e-3)])
        self.host.work = lambda call, sets, flush: processor.Windows(self.host, call, sets)
        data = SimpleNamespace(cell=SimpleNamespace(bytes=100))
        work = processor.Processor.copy(self.host, data, 1, False)
        self.assertAlmostEqual(work.window(), 2e-3)

    def test_sets_outgrow_the_cache_and_are_not_too_many(self):
        self.assertEqual([processor.sets_for(read, 100) for read in (200, 100, 30, 1, 0)], [1, 1, 4, 64, 64])


class Memory(unittest.TestCase):
    def test_an_allocator_keeps_memory_only_while_it_shall(self):
        options = {}

        def mallopt(option, value):
            options[option] = value
            return 1

        found = allocator.Allocator(mallopt)
        usual, seen = dict(options), []

        def look():
            seen.append(dict(options))
            return 1.0

        work = found.warm(lambda: look() and SimpleNamespace(window=look, outputs=look))
        self.assertEqual(options, usual)
        self.assertEqual((work.window(), work.outputs()), (1.0, 1.0))
        self.assertEqual(len(seen), 3, "as the work is made, by a window, and by outputs")
        for warm in seen:
            self.assertNotEqual(warm, usual)
        self.assertEqual(options, usual)

    def test_it_is_as_before_where_a_call_fails(self):
        options = {}
        found = allocator.Allocator(lambda option, value: options.update({option: value}) or 1)
        usual = dict(options)
        with self.assertRaises(ZeroDivisionError):
            found.warm(lambda: SimpleNamespace(window=lambda: 1 / 0)).window()
        self.assertEqual(options, usual)

    def test_an_option_that_is_refused_is_no_setting(self):
        with self.assertRaisesRegex(RuntimeError, "mallopt refuses"):
            allocator.Allocator(lambda option, value: 0)


if __name__ == "__main__":
    unittest.main()
