"""What of a cell is compared: some of its units, a unit being what is normalized together, or for BatchNorm a channel. For
arrays of NumPy's and torch's, of logical shape ``(rows, columns)`` or ``(N, C, spatial…)``."""

from .cells import GROUPS

# Elements; at least two units, the first and the last among them.
MOST_COMPARED = 1 << 22


def chosen(cell):
    """Numbers of units, evenly spread."""
    units = cell.elements // _length(cell)
    count = min(max(MOST_COMPARED // _length(cell), 2), units)
    return [i * (units - 1) // max(count - 1, 1) for i in range(count)]


def taken(cell, array, units):
    """Their elements: ``[unit, …]``."""
    if cell.has_rows:
        return array[units]
    if cell.has_running_statistics:
        return array.swapaxes(0, 1)[units]
    samples, groups = _places(cell, units)
    n, c, *spatial = array.shape
    return array.reshape(n, _groups(cell), -1, *spatial)[samples, groups]


def coefficients(cell, vector, units):
    """Weight, bias or a statistic of theirs, to go with `taken`."""
    if cell.has_rows:
        return vector[None]
    if cell.has_running_statistics:
        return vector[units].reshape(-1, *[1] * (len(cell.extents) - 1))
    _, groups = _places(cell, units)
    return vector.reshape(_groups(cell), -1, *[1] * (len(cell.extents) - 2))[groups]


def _length(cell):
    if cell.has_rows:
        return cell.channels
    return cell.elements // (cell.channels if cell.has_running_statistics else cell.extents[0] * _groups(cell))


def _groups(cell):
    return GROUPS if cell.op == "group_norm" else cell.channels


def _places(cell, units):
    """Samples, and groups within."""
    return [unit // _groups(cell) for unit in units], [unit % _groups(cell) for unit in units]
