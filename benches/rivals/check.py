"""An output against f64: the formulas of tests/it/oracle.rs. For arrays of NumPy's or torch's: ``xp`` is either module."""

# The part of |weight|·(|x̂| + 1) + |bias| that warpnorm may miss beside its last rounding.
BOUND = 2.0**-21
FRACTION_BITS = {"f32": 23, "f16": 10, "bf16": 7}
LEAST_EXPONENT = {"f32": -126, "f16": -14, "bf16": -126}

# Others promise no bound. What is further off than this many of warpnorm's slacks, and as many roundings to the type on
# the way (a sum or a norm that was stored before it was used), has another formula in it.
LIBERTY = 4


def normalized(s, axes, eps, subtract_mean):
    """x̂ of ``s`` (f64) over its own moments."""
    centred = s - s.mean(axis=axes, keepdims=True) if subtract_mean else s
    return centred / ((centred * centred).mean(axis=axes, keepdims=True) + eps) ** 0.5


def expected(x_hat, weight, bias, activation, xp):
    """The values, and the scale of what they may miss: |weight|·(|x̂| + 1) + |bias|."""
    linear = x_hat * weight + bias
    scale = abs(weight) * (abs(x_hat) + 1.0) + abs(bias)
    if activation == "relu":
        return linear * (linear > 0), scale
    if activation == "silu":
        # Nowhere steeper than 1.13; its own evaluation in f32 may add a few units in the last place.
        return linear / (1.0 + xp.exp(-linear)), 1.13 * scale + abs(linear)
    return linear, scale


def half_ulp(values, dtype, xp):
    _, exponents = xp.frexp(values)
    # frexp's fractions are from a half to 1; of zero it says 0, which is no exponent.
    exponents = xp.where(values == 0, xp.full_like(values, LEAST_EXPONENT[dtype]), (exponents - 1) * 1.0)
    return xp.exp2(exponents.clip(LEAST_EXPONENT[dtype], None) - FRACTION_BITS[dtype] - 1)


def errors(y, values, scale, dtype, xp, others_scale=None):
    """The largest error of ``y`` (f64) as a fraction of warpnorm's bound, and of what others may miss. NaN counts as
    infinite."""
    missed, rounding = abs(y - values), half_ulp(values, dtype, xp)
    of_others = scale if others_scale is None else others_scale
    liberty = LIBERTY * (BOUND + 2.0 ** -(FRACTION_BITS[dtype] + 1)) * of_others
    return tuple(_largest(missed / (rounding + slack)) for slack in (BOUND * scale, liberty))


def _largest(fractions):
    largest = float(fractions.max())
    return largest if largest == largest else float("inf")
