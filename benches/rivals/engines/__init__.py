"""Who makes the norms, a file each. Making an engine fails where it cannot be had; the error's words are the reason on
record."""


class Unsupported(Exception):
    """The engine has no such layer, in words for the record."""


class Engine:
    """What a session knows of an engine."""

    name: str
    version: str
    # How its calls are timed, where not as the device times calls.
    mode = None

    def takes(self, cell):
        """Whether it has such a layer, and shall be compared there."""
        raise NotImplementedError

    def call(self, data):
        """A function of the number of a set that launches the layer and returns ``(y,)`` or ``(y, sum)``. Fails with
        Unsupported where it has no such layer but was asked for one."""
        raise NotImplementedError

    def work(self, data, device, flush):
        """What is timed and judged: see devices.py."""
        return device.work(self.call(data), data.sets, flush)

    def errors(self, data, outputs):
        """Fractions of what warpnorm and what others may miss."""
        return data.errors(outputs)
