"""A run: who is here, cell after cell as long as time suffices, and a line for everything that was asked for."""

import importlib
import time

from . import records, timing
from .engines import Unsupported

# The part of the device's memory that a cell may take.
MOST_OF_MEMORY = 0.85


def opened(suite, engines, device, writer):
    """The engines that can be had, of ``{name: (module, class)}``; a line for each of the others."""
    found = []
    for name, (module, class_) in engines.items():
        try:
            engine = getattr(importlib.import_module(f"{__package__}.engines.{module}"), class_)(device)
        except Exception as error:  # whatever a package may throw while it is imported
            writer.write(name, "", "unavailable", records.all_of(suite), reason=records.reason(error))
        else:
            found.append(engine)
    return found


class Session:
    """``device`` runs and times; ``prepare(cell, sets, device)`` makes inputs, which judge outputs."""

    def __init__(self, device, writer, budget, prepare, clock=time.monotonic):
        self._device, self._writer, self._budget = device, writer, budget
        self._prepare, self._clock = prepare, clock

    def compare_all(self, rounds_of_engines):
        """``[(cell, engines)]``, in order."""
        for cell, engines in rounds_of_engines:
            if not self._budget.has_room():
                self._write_each(cell, engines, "unavailable", "time did not suffice")
                continue
            start = self._clock()
            self.compare(cell, engines)
            self._device.release()
            self._budget.spent(start)

    def compare(self, cell, engines):
        """One cell: every engine's outputs are judged before any is timed, and one that is wrong is not."""
        sets, flush = self._device.sets(cell.read_bytes, cell.warm)
        needed, free = sets * (cell.bytes + len(engines) * cell.written_bytes + cell.bytes), self._device.free_bytes()
        if needed > MOST_OF_MEMORY * free:
            return self._write_each(cell, engines, "unsupported", f"needs {needed >> 20} MiB, {free >> 20} are free")
        try:
            data = self._prepare(cell, sets, self._device.device)
            works = {"copy": self._device.copy(data, sets, flush)}
        except Exception as error:
            return self._write_each(cell, engines, "failed", records.reason(error))
        max_errs = {}
        for engine in engines:
            try:
                work = engine.work(data, self._device, flush)
                max_errs[engine.name], status = judged(engine, data, work)
            except Unsupported as error:
                self._write(cell, engine, "unsupported", reason=str(error))
                continue
            except Exception as error:  # whatever an engine may throw
                self._write(cell, engine, "failed", reason=records.reason(error))
                continue
            if status == "ok":
                works[engine.name] = work
            else:
                self._write(cell, engine, status, max_err=f"{max_errs[engine.name]:.4f}")
        seconds, failures = timing.measure(works, self._device.rounds)
        for engine in engines:
            if engine.name in failures:
                self._write(cell, engine, "failed", reason=records.reason(failures[engine.name]))
            elif engine.name in seconds:
                ours = seconds.get(OURS) if engine.name != OURS else None
                figures = timing.figures(seconds[engine.name], seconds.get("copy"), ours)
                self._write(cell, engine, "ok", max_err=f"{max_errs[engine.name]:.4f}", **figures)

    def _write_each(self, cell, engines, status, reason):
        for engine in engines:
            self._write(cell, engine, status, reason=reason)

    def _write(self, cell, engine, status, **more):
        more.setdefault("mode", engine.mode or self._device.mode)
        self._writer.write(engine.name, engine.version, status, records.identity(cell), **more)


OURS = "warpnorm"


def judged(engine, data, work):
    """The largest error as a fraction of warpnorm's bound, and whether the engine may miss so much: warpnorm what it
    promises, others more."""
    errors = [engine.errors(data, outputs) for outputs in work.outputs()]
    of_bound, of_liberty = (max(each) for each in zip(*errors))
    return of_bound, "ok" if (of_bound if engine.name == OURS else of_liberty) <= 1 else "wrong"
