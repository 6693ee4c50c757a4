"""Norms in Triton, as one writes them there: rows held by a program, longer ones read twice, and images by moments of pieces,
their merge, and an apply. Numbers are f32 from the load to the store."""

import triton
import triton.language as tl


@triton.jit
def _activated(v, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        v = tl.maximum(v, 0.0)
    if ACTIVATION == "silu":
        v = v / (1.0 + tl.exp(-v))
    return v


@triton.jit
def rows_held(
    x, residual, weight, bias, y, total, rows, columns, eps, groups, spatial,
    RESIDUAL: tl.constexpr, SUBTRACT_MEAN: tl.constexpr, BIAS: tl.constexpr, BY_CHANNEL: tl.constexpr,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows to a program. With BY_CHANNEL a row is a group of an NCHW sample, and weights are its channels'."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < columns)
    at = row.to(tl.int64) * columns + column
    s = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        s += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, s, mask=inside)
    if SUBTRACT_MEAN:
        s = tl.where(inside, s - tl.sum(s, 1)[:, None] / columns, 0.0)
    v = s * tl.rsqrt(tl.sum(s * s, 1)[:, None] / columns + eps)
    if BY_CHANNEL:
        place = (row % groups) * (columns // spatial) + column // spatial
    else:
        place = column
    v *= tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        v += tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, _activated(v, ACTIVATION), mask=inside)


@triton.jit
def rows_read_twice(
    x, residual, weight, bias, y, total, columns, eps,
    RESIDUAL: tl.constexpr, SUBTRACT_MEAN: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A row to a program; sums are taken around its first element."""
    start = tl.program_id(0).to(tl.int64) * columns
    shift = 0.0
    if SUBTRACT_MEAN:
        shift = tl.load(x + start).to(tl.float32)
    first, second = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for offset in range(0, columns, BLOCK):
        column = offset + tl.arange(0, BLOCK)
        inside = column < columns
        s = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
        if RESIDUAL:
            s += tl.load(residual + start + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(total + start + column, s, mask=inside)
        s = tl.where(inside, s - shift, 0.0)
        first += s
        second += s * s
    mean, power = 0.0, tl.sum(second, 0) / columns
    if SUBTRACT_MEAN:
        mean = tl.sum(first, 0) / columns
        power -= mean * mean
    rstd = tl.rsqrt(power + eps)
    for offset in range(0, columns, BLOCK):
        column = offset + tl.arange(0, BLOCK)
        inside = column < columns
        s = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
        if RESIDUAL:
            s += tl.load(residual + start + column, mask=inside, other=0.0).to(tl.float32)
        v = (s - shift - mean) * rstd * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            v += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + start + column, _activated(v, ACTIVATION), mask=inside)


@triton.jit
def moments_first(x, means, m2s, length, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """NCHW: of pieces of STEPS · BLOCK elements of contiguous stretches, program (stretch, piece)."""
    stretch, piece = tl.program_id(0), tl.program_id(1)
    begin = piece * STEPS * BLOCK
    base = x + stretch.to(tl.int64) * length
    shift = tl.load(base + begin).to(tl.float32)
    first, second = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for step in range(STEPS):
        at = begin + step * BLOCK + tl.arange(0, BLOCK)
        s = tl.where(at < length, tl.load(base + at, mask=at < length, other=0.0).to(tl.float32) - shift, 0.0)
        first += s
        second += s * s
    count = tl.minimum(length - begin, STEPS * BLOCK)
    total = tl.sum(first, 0)
    to = stretch * tl.num_programs(1) + piece
    tl.store(means + to, shift + total / count)
    tl.store(m2s + to, tl.sum(second, 0) - total * total / count)


@triton.jit
def moments_last(
    x, means, m2s, pixels, channels, STEPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """NHWC: of each channel, over pieces of STEPS · PIXELS pixels, program (sample, piece, CHANNELS of them)."""
    sample, piece = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    begin = piece * STEPS * PIXELS
    base = x + sample.to(tl.int64) * pixels * channels + channel
    shift = tl.load(base + begin * channels, mask=channel < channels, other=0.0).to(tl.float32)
    first, second = tl.zeros([PIXELS, CHANNELS], tl.float32), tl.zeros([PIXELS, CHANNELS], tl.float32)
    for step in range(STEPS):
        pixel = begin + step * PIXELS + tl.arange(0, PIXELS)[:, None]
        inside = (pixel < pixels) & (channel < channels)
        s = tl.where(inside, tl.load(base + pixel * channels, mask=inside, other=0.0).to(tl.float32) - shift, 0.0)
        first += s
        second += s * s
    count = tl.minimum(pixels - begin, STEPS * PIXELS)
    total = tl.sum(first, 0)[None, :]
    to = (sample * channels + channel) * tl.num_programs(1) + piece
    tl.store(means + to, shift + total / count, mask=channel < channels)
    tl.store(m2s + to, tl.sum(second, 0)[None, :] - total * total / count, mask=channel < channels)


@triton.jit
def merge(
    means, m2s, mean, rstd, running_mean, running_var, momentum, eps,
    outer, outer_stride, inner, pieces, piece_size, length,
    RUNNING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a set, program by program: its moments from those of its pieces, which are `outer` times `inner`, and lie in order
    within each stretch of `pieces`."""
    set_ = tl.program_id(0)
    sums, counts = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for offset in range(0, outer * inner, BLOCK):
        index = offset + tl.arange(0, BLOCK)
        inside = index < outer * inner
        at = (index // inner) * outer_stride + set_ * inner + index % inner
        count = tl.minimum(length - (at % pieces) * piece_size, piece_size).to(tl.float32)
        count = tl.where(inside, count, 0.0)
        sums += count * tl.load(means + at, mask=inside, other=0.0)
        counts += count
    total = tl.sum(counts, 0)
    middle = tl.sum(sums, 0) / total
    squares = tl.zeros([BLOCK], tl.float32)
    for offset in range(0, outer * inner, BLOCK):
        index = offset + tl.arange(0, BLOCK)
        inside = index < outer * inner
        at = (index // inner) * outer_stride + set_ * inner + index % inner
        count = tl.minimum(length - (at % pieces) * piece_size, piece_size).to(tl.float32)
        off = tl.load(means + at, mask=inside, other=0.0) - middle
        squares += tl.where(inside, tl.load(m2s + at, mask=inside, other=0.0) + count * off * off, 0.0)
    m2 = tl.sum(squares, 0)
    tl.store(mean + set_, middle)
    tl.store(rstd + set_, tl.rsqrt(m2 / total + eps))
    if RUNNING:
        moved = tl.load(running_mean + set_) * (1.0 - momentum) + middle * momentum
        tl.store(running_mean + set_, moved)
        moved = tl.load(running_var + set_) * (1.0 - momentum) + m2 / (total - 1.0) * momentum
        tl.store(running_var + set_, moved)


@triton.jit
def apply(
    x, mean, spread, weight, bias, y, elements, channels, spatial, eps, inner, sets_of_sample, channels_of_set,
    IS_VARIANCE: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = (x − mean) · rstd · weight + bias, an element's channel being `at // inner % channels`. `spread` is rstd, or the
    variance."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    channel = at // inner % channels
    set_ = at // (channels * spatial) * sets_of_sample + channel // channels_of_set
    rstd = tl.load(spread + set_, mask=inside, other=1.0)
    if IS_VARIANCE:
        rstd = tl.rsqrt(rstd + eps)
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - tl.load(mean + set_, mask=inside, other=0.0)
    v = v * rstd * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, _activated(v, ACTIVATION), mask=inside)
