"""glibc's allocator, as it is used and warm.

As it is used, a block of 32 MiB or more is the system's: each time its pages are mapped anew when they are first touched, and
unmapped when it is freed. Smaller ones stay, but for more than 64 MiB free at the end of the heap: this is where the
thresholds that glibc moves by itself come to rest once a block of 32 MiB was freed, and they are set here so that all cells
find the same. Warm, it gives nothing back."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_USUAL = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 64 << 20, _M_MMAP_MAX: 65_536}
_WARM = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}


class Allocator:
    """That of the process. ``mallopt`` so that tests can give another."""

    def __init__(self, mallopt=None):
        self._mallopt = mallopt or getattr(ctypes.CDLL(None), "mallopt", None)
        self.set(_USUAL)

    def set(self, options):
        if self._mallopt is None:
            return
        for option, value in options.items():
            if not self._mallopt(option, value):
                raise RuntimeError(f"mallopt refuses {option} = {value}")

    def warm(self, make, *arguments):
        """The work that ``make`` makes, by an allocator that keeps memory."""
        if self._mallopt is None:
            raise RuntimeError("this system's allocator cannot be told to keep memory")
        return _Warm(self, self.keeping(make, *arguments))

    def keeping(self, function, *arguments):
        """What it returns, and meanwhile nothing is given back."""
        self.set(_WARM)
        try:
            return function(*arguments)
        finally:
            self.set(_USUAL)


class _Warm:
    def __init__(self, allocator, work):
        self._allocator, self._work = allocator, work

    def window(self):
        return self._allocator.keeping(self._work.window)

    def outputs(self):
        return self._allocator.keeping(self._work.outputs)
