"""The library in rust/: candle's layers, and the copies that a CPU's cells are measured against."""

import ctypes
import os
import pathlib
import re
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_size_t, c_void_p

FOLDER = pathlib.Path(__file__).resolve().parent / "rust"


class _Description(ctypes.Structure):
    _fields_ = [
        ("op", c_char_p), ("dtype", c_char_p), ("rank", c_size_t), ("extents", POINTER(c_size_t)), ("groups", c_size_t),
        ("eps", c_double), ("silu", c_int32), ("weight", c_void_p), ("bias", c_void_p), ("running_mean", c_void_p),
        ("running_var", c_void_p),
    ]  # fmt: skip


_FUNCTIONS = {
    "copiers": ([], c_size_t),
    "copy": ([c_size_t, c_void_p, c_void_p, c_size_t], None),
    "candle_new": ([POINTER(_Description), POINTER(c_void_p)], c_char_p),
    "candle_add_set": ([c_void_p, c_void_p, c_void_p], c_char_p),
    "candle_call": ([c_void_p, c_size_t], c_char_p),
    "candle_output": ([c_void_p, c_size_t, c_size_t, c_void_p], c_char_p),
    "candle_free": ([c_void_p], None),
}


class Native:
    """The library: where WARPNORM_RIVALS_LIBRARY says, else where cargo leaves it."""

    def __init__(self):
        path = os.environ.get("WARPNORM_RIVALS_LIBRARY") or str(FOLDER / "target/release/librivals.so")
        self._library = ctypes.CDLL(path)
        for name, (arguments, result) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, result

    def copies(self, moved, sets):
        """Calls of each way to copy, all on the same buffers."""
        from .data import WORD, bytes_to_copy

        sources, targets = bytes_to_copy(moved, sets, "cpu")
        places = [(source.data_ptr(), target.data_ptr()) for source, target in zip(sources, targets)]
        words, copy = sources[0].numel() // WORD, self._library.copy

        def call_of(way):
            def call(set_):
                copy(way, *places[set_], words)
                return targets[set_]

            # Their memory must live as long as the addresses.
            call.buffers = sources, targets
            return call

        return [call_of(way) for way in range(self._library.copiers())]

    def candle(self, cell, vectors, groups, eps):
        return Candle(self._library, cell, vectors, groups, eps)


class Candle:
    """A layer of candle's. ``vectors``: weight, bias, running mean and variance as addresses of f32, None for what there is
    not."""

    def __init__(self, library, cell, vectors, groups, eps):
        self._library, self._handle = library, c_void_p()
        extents = (c_size_t * len(cell.extents))(*cell.extents)
        description = _Description(
            cell.op.encode(), cell.dtype.encode(), len(extents), extents, groups, eps, cell.activation == "silu", *vectors
        )
        _check(library.candle_new(byref(description), byref(self._handle)))

    def add_set(self, x, residual):
        """Copies of what lies at these addresses."""
        _check(self._library.candle_add_set(self._handle, x, residual))

    def call(self, set_):
        error = self._library.candle_call(self._handle, set_)
        if error:
            _check(error)

    def output(self, set_, which, target):
        _check(self._library.candle_output(self._handle, set_, which, target))

    def __del__(self):
        if self._handle:
            self._library.candle_free(self._handle)


def _check(error):
    if error:
        raise RuntimeError(error.decode())


def candle_version():
    """That which the library is built with, as its lock file has it."""
    lock = (FOLDER / "Cargo.lock").read_text()
    return re.search(r'name = "candle-core"\nversion = "([^"]+)"', lock)[1]
