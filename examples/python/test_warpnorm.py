"""python3 test_warpnorm.py: every function with NumPy on the CPU, with torch where it is there, and on CUDA by
__cuda_array_interface__ where there is a driver (see README.md for the emulated one). WARPNORM_TEST_REQUIRE=torch,cuda
makes what is absent a failure."""

import ctypes
import json
import math
import os
import tempfile
import unittest

import numpy

import warpnorm

try:
    import torch
except ImportError:
    torch = None

REQUIRED = os.environ.get("WARPNORM_TEST_REQUIRE", "").split(",")
SLACK = 2.0**-21
DIGITS = {"float32": 24, "float16": 11}


class Driver:
    """Device memory, by the driver alone."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name}: CUDA error {status}")


def driver():
    try:
        return Driver()
    except (OSError, RuntimeError):
        return None


DRIVER = driver()


class DeviceArray:
    """An array in a GPU's memory, as far as the interface goes."""

    def __init__(self, values, memory=None):
        values = numpy.ascontiguousarray(values)
        self.shape, self.dtype, self.nbytes = values.shape, values.dtype, values.nbytes
        self.pointer = ctypes.c_uint64()
        DRIVER.call("cuMemAlloc_v2", ctypes.byref(self.pointer), ctypes.c_size_t(max(values.nbytes, 1)))
        DRIVER.call("cuMemcpyHtoD_v2", self.pointer, ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes))
        self.strides = None

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer.value, False), "version": 3,
                "strides": self.strides, "stream": 1}

    def numpy(self):
        values = numpy.empty(self.shape, self.dtype)
        DRIVER.call("cuCtxSynchronize")
        DRIVER.call("cuMemcpyDtoH_v2", ctypes.c_void_p(values.ctypes.data), self.pointer, ctypes.c_size_t(values.nbytes))
        return values

    def __del__(self):
        DRIVER.call("cuMemFree_v2", self.pointer)


class LikeTorch:
    """What of a torch tensor on a GPU is looked at."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.is_cuda = array, array.shape, f"torch.{array.dtype}", True
        self.device = type("Device", (), {"index": 0, "type": "cuda"})()

    def data_ptr(self):
        return self.array.pointer.value

    def stride(self):
        return tuple(math.prod(self.shape[axis + 1:]) for axis in range(len(self.shape)))


def noise(*shape, dtype=numpy.float32, seed=0):
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference(x, axes, weight, bias, eps=1e-5, center=True, moments=None):
    """In f64; and what may be off beside half a unit in the last place."""
    x = x.astype(numpy.float64)
    if moments is None:
        mean = x.mean(axes, keepdims=True) if center else 0.0
        var = ((x - mean) ** 2).mean(axes, keepdims=True)
    else:
        mean, var = moments
    xhat = (x - mean) / numpy.sqrt(var + numpy.float64(numpy.float32(eps)))
    weight, bias = (numpy.asarray(value, numpy.float64) for value in (weight, bias))
    return xhat * weight + bias, (abs(weight) * (abs(xhat) + 1) + abs(bias)) * SLACK


def float8(bits):
    """The number that a byte of float8_e4m3fn stands for."""
    exponent, fraction = bits >> 3 & 15, bits & 7
    magnitude = fraction / 512 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return math.nan if bits & 0x7F == 0x7F else -magnitude if bits & 0x80 else magnitude


# By the byte.
INT8 = numpy.arange(256).astype(numpy.uint8).view(numpy.int8).astype(numpy.float64)
FLOAT8 = numpy.array([float8(bits) for bits in range(256)])


def nearest(scaled, values):
    """The nearest of these; of two, the one whose last bit is 0."""
    even_first = numpy.concatenate([values[::2], values[1::2]])
    return even_first[numpy.nanargmin(abs(even_first - scaled[..., None]), -1)]


def channels(values, rank):
    return values.reshape(-1, *[1] * (rank - 2)).astype(numpy.float64)


class Functions(unittest.TestCase):
    """Over any kind of array: ``put`` makes one of it, ``get`` brings it back."""

    dtypes = (numpy.float32, numpy.float16)

    @staticmethod
    def put(values):
        return values.copy()

    @staticmethod
    def get(array):
        return array

    def options(self):
        return {}

    def check(self, found, expected, about):
        value, slack = expected
        found = self.get(found)
        least = numpy.finfo(found.dtype).minexp
        exponent = numpy.floor(numpy.log2(numpy.maximum(abs(value), 2.0**least)))
        bound = 2.0 ** (exponent - DIGITS[str(found.dtype)]) + slack
        error = abs(found.astype(numpy.float64) - value)
        self.assertTrue((error <= bound).all(), f"{about}: off by {(error - bound).max()} more than allowed")

    def test_rows(self):
        for dtype in self.dtypes:
            x, residual = noise(4, 3, 40, dtype=dtype), noise(4, 3, 40, dtype=dtype, seed=1)
            weight, bias = noise(40, seed=2), noise(40, dtype=dtype, seed=3)
            out = self.put(numpy.zeros_like(x))
            found = warpnorm.layer_norm(self.put(x), 40, self.put(weight), self.put(bias), out=out)
            self.assertIs(found, out)
            self.check(found, reference(x, (2,), weight, bias), "layer_norm")

            total, stream = self.put(numpy.zeros_like(x)), self.put(residual)
            arguments = dict(eps=1e-6, out=self.put(numpy.zeros_like(x)))
            found = warpnorm.rms_norm(self.put(x), [40], self.put(weight), residual=stream, sum=total, **arguments)
            added = (x.astype(numpy.float32) + residual.astype(numpy.float32))
            self.check(found, reference(added, (2,), weight, 0.0, 1e-6, center=False), "rms_norm")
            numpy.testing.assert_array_equal(self.get(total), added.astype(dtype))

            found = warpnorm.rms_norm(self.put(x), [3, 40], self.put(noise(3, 40, seed=4)), weight_plus_one=True,
                                      residual=stream, sum_in_residual=True, **arguments)
            weight_2 = noise(3, 40, seed=4) + numpy.float64(1)
            self.check(found, reference(added, (1, 2), weight_2, 0.0, 1e-6, center=False), "rms_norm + 1")
            numpy.testing.assert_array_equal(self.get(stream), added.astype(dtype))

            wide = self.put(numpy.zeros(x.shape, numpy.float32))
            found = warpnorm.layer_norm(self.put(x), 40, out=wide)
            self.check(found, reference(x, (2,), 1.0, 0.0), "layer_norm into float32")

            gate, scale, shift = (noise(4, 40, seed=seed) for seed in (5, 6, 7))
            second, input_bias = noise(4, 3, 40, dtype=dtype, seed=8), noise(40, seed=9)
            found = warpnorm.layer_norm(
                self.put(x), 40, gate=self.put(gate), scale=self.put(scale), shift=self.put(shift), scale_plus_one=True,
                input_bias=self.put(input_bias), residual=self.put(residual), second_residual=self.put(second), sum=total,
                out=self.put(numpy.zeros_like(x)))
            added = (x.astype(numpy.float32) + input_bias) * gate[:, None, :] + residual.astype(numpy.float32)
            added += second.astype(numpy.float32)
            scale_1 = scale[:, None, :] + numpy.float64(1)
            self.check(found, reference(added, (2,), scale_1, shift[:, None, :]), "layer_norm, surrounded")
            numpy.testing.assert_array_equal(self.get(total), added.astype(dtype))

            in_place = self.put(x)
            warpnorm.layer_norm(in_place, 40, out=in_place)
            self.check(in_place, reference(x, (2,), 1.0, 0.0), "in place")

    def test_post_norm_and_rounding(self):
        for dtype in self.dtypes:
            x, residual = noise(4, 40, dtype=dtype), noise(4, 40, dtype=dtype, seed=1)
            weight, post_weight, post_bias = (noise(40, seed=seed) * numpy.float32(0.1) + 1 for seed in (2, 3, 4))
            total, out = (self.put(numpy.zeros_like(x)) for _ in range(2))
            warpnorm.layer_norm(
                self.put(x), 40, self.put(weight), post_norm=True, post_norm_weight=self.put(post_weight),
                post_norm_bias=self.put(post_bias), residual=self.put(residual), sum=total, rounding="steps", out=out)
            # The sum is of what was rounded, and either neighbour may be right; what is normalized is the sum as stored.
            added = reference(x, (1,), post_weight, post_bias)[0] + residual
            numpy.testing.assert_allclose(self.get(total), added, rtol=2 * numpy.finfo(dtype).eps, atol=4 * numpy.finfo(dtype).eps)
            self.check(out, reference(self.get(total), (1,), weight, 0.0), "post-norm, steps rounded")

            found = [self.put(numpy.zeros_like(x)) for _ in range(3)]
            for rounding, out in zip((None, "steps", "normalized"), found):
                warpnorm.rms_norm(self.put(x), 40, self.put(weight), eps=1e-6, rounding=rounding,
                                  residual=self.put(residual), sum=total, out=out)
            once, steps, normalized = map(self.get, found)
            self.check(found[1], reference(self.get(total), (1,), weight, 0.0, 1e-6, center=False), "steps rounded")
            for one, other in ((once, steps), (steps, normalized)):
                self.assertEqual((one != other).any(), dtype == numpy.float16, "only float32 has nothing to round")
        self.refused("WN_STATUS_UNEXPECTED", "post_norm_weight", warpnorm.layer_norm, self.put(noise(3, 4)), 4,
                     post_norm_weight=self.put(noise(4)), out=self.put(noise(3, 4)))
        self.refused("WN_STATUS_INVALID_VALUE", "rounding", warpnorm.layer_norm, self.put(noise(3, 4)), 4, rounding="up",
                     out=self.put(noise(3, 4)))

    def test_quantized(self):
        x, weight = noise(3, 300), noise(300, seed=1)
        value, slack = reference(x, (1,), weight, 0.0, center=False)
        groups = numpy.arange(300) // 128
        made = {"static": (1,), "rows": (3,), "groups": (3, 3), "groups_by_column": (3, 3)}
        for scaling, shape in made.items():
            for values, stored, output in ((INT8, numpy.int8, None), (FLOAT8, numpy.uint8, "float8_e4m3fn")):
                q, scales = self.put(numpy.zeros(x.shape, stored)), self.put(numpy.full(shape, 0.03, numpy.float32))
                found = warpnorm.rms_norm(self.put(x), 300, self.put(weight), eps=1e-5, out=q, output=output,
                                          scaling=scaling, scales=scales)
                self.assertIs(found, q)
                of_values, largest = self.get(scales).astype(numpy.float64), numpy.nanmax(values)
                by_group = numpy.stack([abs(value[:, groups == group]).max(1) for group in range(3)], 1) / largest
                expected = {"static": numpy.float32(0.03), "rows": by_group.max(1), "groups": by_group,
                            "groups_by_column": by_group.T}[scaling]
                numpy.testing.assert_allclose(of_values, numpy.broadcast_to(expected, shape), rtol=2e-6)
                each = {"static": lambda: of_values, "rows": lambda: of_values[:, None],
                        "groups": lambda: of_values[:, groups], "groups_by_column": lambda: of_values.T[:, groups]}
                scale = each[scaling]()
                off = slack / scale + abs(value / scale) * 2.0**-22
                low, high = (nearest(value / scale + sign * off, values) for sign in (-1, 1))
                given = values[self.get(q).view(numpy.uint8)]
                self.assertTrue(((low <= given) & (given <= high)).all(), f"{scaling}, {output}")

    def test_refusals_of_quantized(self):
        x, q, scales = self.put(noise(3, 4)), self.put(numpy.zeros((3, 4), numpy.int8)), self.put(noise(3))
        norm = warpnorm.layer_norm
        self.refused("WN_STATUS_INVALID_VALUE", "out=", norm, x, 4, scaling="rows", scales=scales)
        self.refused("WN_STATUS_INVALID_VALUE", "scaling", norm, x, 4, out=q, scales=scales)
        self.refused("WN_STATUS_INVALID_VALUE", "scaling", norm, x, 4, out=q, scaling="columns", scales=scales)
        self.refused("WN_STATUS_MISSING", "scales", norm, x, 4, out=q, scaling="rows")
        self.refused("WN_STATUS_LENGTH", "scales", norm, x, 4, out=q, scaling="static", scales=scales)
        self.refused("WN_STATUS_ELEMENT_TYPE", "scales is float16", norm, x, 4, out=q, scaling="rows",
                     scales=self.put(noise(3, dtype="f2")))
        self.refused("WN_STATUS_ELEMENT_TYPE", "out is int8", norm, x, 4, out=q, output="float8_e4m3fn", scaling="rows",
                     scales=scales)
        self.refused("WN_STATUS_INVALID_VALUE", "uint8", norm, x, 4, out=self.put(numpy.zeros((3, 4), numpy.uint8)),
                     scaling="rows", scales=scales)

    def test_images(self):
        for dtype in self.dtypes:
            for spatial in ((5, 7), (9,)):
                x = noise(2, 6, *spatial, dtype=dtype)
                rank, over = x.ndim, tuple(range(2, x.ndim))
                weight, bias = noise(6, seed=2), noise(6, dtype=dtype, seed=3)
                wide = channels(weight, rank), channels(bias, rank)
                out = lambda: self.put(numpy.zeros_like(x))  # noqa: E731

                grouped = x.reshape(2, 3, 2, *spatial)
                value, _ = reference(grouped, (2, *(axis + 1 for axis in over)), 1.0, 0.0)
                xhat = value.reshape(x.shape)
                scale, shift = noise(2, 6, seed=5), noise(2, 6, seed=6, dtype=dtype)
                full = (slice(None), slice(None), *[None] * len(spatial))
                factor = wide[0] * (scale[full].astype(numpy.float64) + 1)
                term = wide[1] * (scale[full].astype(numpy.float64) + 1) + shift[full].astype(numpy.float64)
                expected = xhat * factor + term, (abs(factor) * (abs(xhat) + 1) + abs(term)) * SLACK
                found = warpnorm.group_norm(self.put(x), 3, self.put(weight), self.put(bias), scale=self.put(scale),
                                            shift=self.put(shift), scale_plus_one=True, out=out())
                self.check(found, expected, "group_norm")

                found = warpnorm.instance_norm(self.put(x), weight=self.put(weight), bias=self.put(bias), out=out())
                self.check(found, reference(x, over, *wide), "instance_norm")

                mean, var = noise(6, seed=7), noise(6, seed=8) ** 2 + numpy.float32(0.1)
                moments = channels(mean, rank), channels(var, rank)
                found = warpnorm.batch_norm(self.put(x), self.put(mean), self.put(var), self.put(weight),
                                            self.put(bias), eps=1e-3, out=out())
                self.check(found, reference(x, None, *wide, 1e-3, moments=moments), "batch_norm")
                found = warpnorm.instance_norm(self.put(x), self.put(mean), self.put(var), out=out())
                self.check(found, reference(x, None, 1.0, 0.0, moments=moments), "instance_norm, tracked")

                running, batches = (self.put(mean), self.put(var)), self.put(numpy.array([3]))
                found = warpnorm.batch_norm(self.put(x), *running, self.put(weight), self.put(bias), training=True,
                                            momentum=None, num_batches_tracked=batches, out=out(), **self.options())
                self.check(found, reference(x, (0, *over), *wide), "batch_norm, training")
                exact = x.astype(numpy.float64).transpose(1, 0, *over).reshape(6, -1)
                numpy.testing.assert_allclose(self.get(running[0]), mean + (exact.mean(1) - mean) / 4, atol=1e-6)
                numpy.testing.assert_allclose(self.get(running[1]), var + (exact.var(1, ddof=1) - var) / 4, rtol=1e-6)
                self.assertEqual(self.get(batches).tolist(), [4])

    def test_activations(self):
        x = noise(8, 100)
        y = reference(x, (1,), 1.0, 0.0)[0]
        erf = numpy.vectorize(math.erf)
        for name, expected in {
            "relu": numpy.maximum(y, 0), "silu": y / (1 + numpy.exp(-y)), "gelu": y / 2 * (1 + erf(y / math.sqrt(2))),
            "gelu_tanh": y / 2 * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))),
        }.items():
            found = warpnorm.layer_norm(self.put(x), 100, activation=name, out=self.put(numpy.zeros_like(x)))
            numpy.testing.assert_allclose(self.get(found), expected, atol=4e-6, err_msg=name)

    def test_outputs_of_another_type(self):
        x, mean, var = noise(3, 4, 5, 5, dtype=numpy.float16), noise(4), noise(4, seed=1) ** 2 + 0.5
        moments = channels(mean, 4), channels(var, 4)
        for of_channels, expected in [
            (lambda x, **how: warpnorm.instance_norm(x, **how), reference(x, (2, 3), 1.0, 0.0)),
            (lambda x, **how: warpnorm.batch_norm(x, self.put(mean), self.put(var), **how),
             reference(x, (), 1.0, 0.0, moments=moments)),
            (lambda x, **how: warpnorm.batch_norm(x, training=True, **how), reference(x, (0, 2, 3), 1.0, 0.0)),
        ]:
            out = self.put(numpy.zeros(x.shape, numpy.float32))
            self.check(of_channels(self.put(x), out=out, **self.options()), expected, "float16 into float32")

    def refused(self, name, words, function, *arguments, **options):
        with self.assertRaises(warpnorm.Error) as caught:
            function(*arguments, **options)
        self.assertEqual(caught.exception.name, name, caught.exception.message)
        self.assertIn(words, caught.exception.message)

    def test_refusals(self):
        x, out, four = self.put(noise(3, 4)), self.put(noise(3, 4)), self.put(noise(4))
        norm = warpnorm.layer_norm
        self.refused("WN_STATUS_LENGTH", "weight", norm, x, 4, self.put(noise(5)), out=out)
        self.refused("WN_STATUS_SHAPE", "[5]", norm, x, 5, out=out)
        half = self.put(noise(3, 4, dtype="f2"))
        self.refused("WN_STATUS_ELEMENT_TYPE", "residual is float16", norm, x, 4, residual=half, out=out)
        self.refused("WN_STATUS_INVALID_VALUE", "shape", norm, x, 4, out=self.put(noise(4, 4)))
        self.refused("WN_STATUS_INVALID_VALUE", "activation", norm, x, 4, out=out, activation="swish")
        self.refused("WN_STATUS_INVALID_VALUE", "list", norm, [1.0], 1, out=out)
        self.refused("WN_STATUS_MISSING", "residual", norm, x, 4, out=out, sum=self.put(noise(3, 4)))
        self.refused("WN_STATUS_EPS", "eps", norm, x, 4, out=out, eps=-1.0)
        self.refused("WN_STATUS_GROUPS", "3 groups", warpnorm.group_norm, x, 3, out=out)
        self.refused("WN_STATUS_MISSING", "running_mean", warpnorm.batch_norm, x, out=out)
        self.refused("WN_STATUS_ELEMENT_TYPE", "running_mean", warpnorm.batch_norm, x, self.put(noise(4, dtype="f2")), four,
                     out=out)


class Numpy(Functions):
    def test_output_is_made(self):
        x = noise(3, 8)
        y = warpnorm.layer_norm(x, 8)
        self.assertEqual((y.dtype, y.shape), (x.dtype, x.shape))
        self.check(y, reference(x, (1,), 1.0, 0.0), "a new output")

    def test_strided_rows(self):
        wide = noise(5, 64)
        x, out = wide[:, 8:24], numpy.full((5, 20), 7, numpy.float32)
        warpnorm.layer_norm(x, 16, out=out[:, :16])
        self.check(out[:, :16].copy(), reference(x, (1,), 1.0, 0.0), "rows of one stride")
        self.assertTrue((out[:, 16:] == 7).all())
        for crooked in (wide[:, ::2], wide.T, wide[::-1], noise(4, 5, 6)[:, ::2]):
            self.refused("WN_STATUS_INVALID_VALUE", "strides", warpnorm.layer_norm, crooked, crooked.shape[-1],
                         out=numpy.zeros_like(crooked, order="C"))

    def test_strided_rows_of_several_axes(self):
        wide = noise(5, 4, 4)
        x, out = wide[:, :2], numpy.full((5, 3, 4), 7, numpy.float32)
        warpnorm.layer_norm(x, [2, 4], out=out[:, :2])
        self.check(out[:, :2].copy(), reference(x, (1, 2), 1.0, 0.0), "rows of two axes")
        self.assertTrue((out[:, 2:] == 7).all())
        for crooked in (wide[:, ::2], wide[:, :, :2], noise(8)[::2]):
            self.refused("WN_STATUS_INVALID_VALUE", "strides", warpnorm.layer_norm, crooked, crooked.shape[-2:],
                         out=numpy.zeros_like(crooked, order="C"))

    def test_channels_last(self):
        memory = noise(2, 5, 7, 6)
        x = memory.transpose(0, 3, 1, 2)
        out = numpy.zeros_like(memory).transpose(0, 3, 1, 2)
        warpnorm.instance_norm(x, out=out)
        self.check(out.copy(), reference(x, (2, 3), 1.0, 0.0), "channels last")
        self.refused("WN_STATUS_INVALID_VALUE", "laid out", warpnorm.instance_norm, x, out=numpy.zeros(x.shape, x.dtype))

    def test_read_only(self):
        out = noise(3, 4)
        out.flags.writeable = False
        self.refused("WN_STATUS_INVALID_VALUE", "written", warpnorm.layer_norm, noise(3, 4), 4, out=out)

    def test_folding(self):
        for shape, groups, transposed in (((6, 2, 3, 3), 2, False), ((4, 3, 3), 2, True), ((5, 7), 1, False)):
            weight, outs = noise(*shape), shape[1] * groups if transposed else shape[0]
            bias, mean, var = noise(outs, seed=1), noise(outs, seed=2), noise(outs, seed=3) ** 2 + numpy.float32(0.1)
            gamma, beta = noise(outs, seed=4), noise(outs, seed=5)
            found = warpnorm.fold_conv_bn(weight, bias, mean, var, gamma, beta, eps=1e-3, groups=groups,
                                          transposed=transposed)
            a = gamma / numpy.sqrt(var.astype(numpy.float64) + 1e-3)
            if transposed:
                factor = a.reshape(groups, 1, shape[1]).repeat(shape[0] // groups, 1).reshape(shape[0], shape[1])
            else:
                factor = a[:, None].repeat(shape[1], 1)
            expected = weight * factor.reshape(*factor.shape, *[1] * (len(shape) - 2))
            numpy.testing.assert_array_equal(found[0], expected.astype(numpy.float32))
            numpy.testing.assert_allclose(found[1], (bias.astype(numpy.float64) - mean) * a + beta, rtol=1e-7)
        self.refused("WN_STATUS_INVALID_VALUE", "eps", warpnorm.fold_conv_bn, weight, None, mean, var)
        self.refused("WN_STATUS_FOLD_INVALID_VARIANCE", "channel 0", warpnorm.fold_conv_bn, weight, None, mean, -var, eps=0.1)

    def test_branches(self):
        x, wide, narrow, bias = noise(4, 9, 11), noise(4, 2, 3, 3, seed=1), noise(4, 2, 1, 1, seed=2), noise(4, seed=3)
        mean, var = noise(4, seed=4), noise(4, seed=5) ** 2 + numpy.float32(0.1)
        gamma, beta = noise(4, seed=6), noise(4, seed=7)
        norm = dict(running_mean=mean, running_var=var, bn_weight=gamma, bn_bias=beta, eps=1e-3)

        def convolve(weight, bias, padding):
            padded = numpy.pad(x.astype(numpy.float64), ((0, 0), (padding, padding), (padding, padding)))
            y = numpy.zeros(x.shape) + numpy.asarray(bias, numpy.float64).reshape(-1, 1, 1)
            for (o, c, row, column), w in numpy.ndenumerate(weight):
                y[o] += w * padded[o // 2 * 2 + c, row:row + x.shape[1], column:column + x.shape[2]]
            return y

        def normalize(y):
            a = gamma / numpy.sqrt(var.astype(numpy.float64) + 1e-3)
            return (y - mean.reshape(-1, 1, 1)) * a.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)

        branches = [warpnorm.Branch(narrow, groups=2, **norm), warpnorm.Branch(**norm),
                    warpnorm.Branch(wide, bias, padding=1, groups=2)]
        weight, merged_bias, largest = warpnorm.fold_branches(branches)
        self.assertEqual((weight.shape, str(weight.dtype), largest), (wide.shape, "float32", 2))
        expected = normalize(convolve(narrow, [0] * 4, 0)) + normalize(x) + convolve(wide, bias, 1)
        numpy.testing.assert_allclose(convolve(weight, merged_bias, 1), expected, rtol=0, atol=1e-5)
        self.refused("WN_STATUS_FOLD_NOTHING_TO_MERGE", "2 branches", warpnorm.fold_branches, [warpnorm.Branch()] * 2)
        unpadded = [warpnorm.Branch(wide, groups=2), warpnorm.Branch()]
        self.refused("WN_STATUS_FOLD_KERNEL_OUTSIDE", "branch 1", warpnorm.fold_branches, unpadded)
        self.refused("WN_STATUS_INVALID_VALUE", "eps", warpnorm.Branch, wide, running_mean=mean, running_var=var)
        self.refused("WN_STATUS_INVALID_VALUE", "2 axes", warpnorm.Branch, wide, padding=[1])

    def test_state_dicts(self):
        def state_dict(tensors):
            header, data = {}, b""
            for name, tensor in tensors.items():
                end = len(data) + tensor.nbytes
                header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(data), end]}
                data += tensor.tobytes()
            header = json.dumps(header).encode()
            return len(header).to_bytes(8, "little") + header + data

        def tensors(path):
            with open(path, "rb") as file:
                data = file.read()
            start = 8 + int.from_bytes(data[:8], "little")
            return {name: numpy.frombuffer(data[start:][slice(*tensor["data_offsets"])], numpy.float32)
                    .reshape(tensor["shape"]) for name, tensor in json.loads(data[8:start]).items()}

        given = {"conv1.weight": noise(4, 3, 3, 3), "bn1.weight": noise(4, seed=1), "bn1.bias": noise(4, seed=2),
                 "bn1.running_mean": noise(4, seed=3), "bn1.running_var": noise(4, seed=4) ** 2 + numpy.float32(0.1)}
        with tempfile.TemporaryDirectory() as folder:
            path, output = os.path.join(folder, "model.safetensors"), os.path.join(folder, "folded.safetensors")
            with open(path, "wb") as file:
                file.write(state_dict(given))
            [row] = warpnorm.fold_safetensors(path)
            self.assertEqual((row["node"], row["code"], row["channels"]), ("bn1", "unknown-eps", 4))
            [row] = warpnorm.fold_safetensors(path, eps=1e-3, verify=True)
            self.assertEqual((row["code"], row["is_refused"]), ("folded", 0))
            self.refused("WN_STATUS_NOT_ACCEPTED", "accept_names", warpnorm.fold_safetensors, path, output, eps=1e-3)
            self.assertFalse(os.path.exists(output))
            warpnorm.fold_safetensors(path, output, eps=[("bn*", 1e-3), ("*", 1)], accept_names=True)
            weight, bias = warpnorm.fold_conv_bn(*(given.get(name) for name in (
                "conv1.weight", "conv1.bias", "bn1.running_mean", "bn1.running_var", "bn1.weight", "bn1.bias")), eps=1e-3)
            found = tensors(output)
            self.assertEqual(sorted(found), ["conv1.bias", "conv1.weight"])
            numpy.testing.assert_array_equal(found["conv1.weight"], weight)
            numpy.testing.assert_array_equal(found["conv1.bias"], bias)
            pairs = json.dumps({"version": 1, "pairs": [{"conv": "conv1", "bn": "bn1", "eps": 1e-3}]})
            warpnorm.fold_safetensors(path, output, pairs=pairs)
            numpy.testing.assert_array_equal(tensors(output)["conv1.weight"], weight)
            [row] = warpnorm.fold_safetensors(path, eps=1e-3, skip="bn?")
            self.assertEqual(row["code"], "left-out")
            self.refused("WN_STATUS_MODEL_MALFORMED", "pairs", warpnorm.fold_safetensors, path, pairs="{")

    def test_onnx(self):
        def field(number, value):
            value = value if isinstance(value, bytes) else value.encode()
            return varint(number << 3 | 2) + varint(len(value)) + value

        def varint(value):
            return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

        def number(key, value):
            return varint(key << 3) + varint(value)

        def tensor(name, array):
            dims = b"".join(number(1, length) for length in array.shape)
            return field(5, dims + number(2, 1) + field(8, name) + field(9, array.tobytes()))

        def node(op, inputs, output):
            return field(1, b"".join(field(1, name) for name in inputs) + field(2, output) + field(3, output) + field(4, op))

        def value(key, name, shape):
            shape = b"".join(field(1, number(1, length)) for length in shape)
            return field(key, field(1, name) + field(2, field(1, number(1, 1) + field(2, shape))))

        names = ["weight", "bias", "mean", "var"]
        arrays = [noise(4, seed=1), noise(4, seed=2), noise(4, seed=3), noise(4, seed=4) ** 2 + numpy.float32(0.1)]
        graph = node("Conv", ["x", "w"], "conv") + node("BatchNormalization", ["conv", *names], "y") + field(2, "graph")
        graph += tensor("w", noise(4, 3, 3, 3)) + b"".join(map(tensor, names, arrays))
        graph += value(11, "x", (1, 3, 8, 8)) + value(12, "y", (1, 4, 6, 6))
        model = number(1, 8) + field(7, graph) + field(8, number(2, 17))
        with tempfile.TemporaryDirectory() as folder:
            path, output = os.path.join(folder, "model.onnx"), os.path.join(folder, "folded.onnx")
            with open(path, "wb") as file:
                file.write(model)
            [row] = warpnorm.fold_onnx(path, output, verify=2)
            self.assertEqual((row["node"], row["code"], row["channels"]), ("y", "folded", 4))
            self.assertLess(os.path.getsize(output), len(model))
            self.assertEqual(warpnorm.fold_onnx(output, verify=1), [])
            warpnorm.fold_onnx(path, output, dtype="float16", tidy=True, verify=1)
            [row] = warpnorm.fold_onnx(path, skip=["y"])
            self.assertEqual(row["code"], "left-out")
            self.refused("WN_STATUS_NOT_VERIFIED", "differs", warpnorm.fold_onnx, path, verify=1, tolerance=1e-15)
            self.refused("WN_STATUS_MODEL_IO", "none.onnx", warpnorm.fold_onnx, os.path.join(folder, "none.onnx"))

    def test_prepared(self):
        x, y = noise(4, 32), numpy.zeros((4, 32), numpy.float32)
        device = warpnorm.Device.cpu()
        self.assertEqual((device.name, device.is_cuda), ("CPU", False))
        call = warpnorm.prepare(device, warpnorm.layer("layer_norm", normalized_shape=32),
                                warpnorm.signature((4, 32), "float32"))
        self.assertEqual(call.workspace_bytes, 0)
        tensors = warpnorm.tensors(input=x.ctypes.data, output=y.ctypes.data)
        for seed in range(3):
            x[:] = noise(4, 32, seed=seed)
            call.launch_tensors(tensors)
            self.check(y, reference(x, (1,), 1.0, 0.0), "a prepared call")
        self.refused("WN_STATUS_MISSING", "output", call.launch, input=x.ctypes.data)

    def test_heads(self):
        qkv, weights = noise(3, 7, 16), noise(2, 16, seed=1)
        made = warpnorm.layer("qk_rms_norm", q_heads=4, k_heads=2, head_dim=16, eps=1e-6)
        signed = warpnorm.signature(qkv.shape, "float32", weight="float32", key_weight="float32", in_place=True)
        call = warpnorm.prepare(warpnorm.Device.cpu(), made, signed)
        expected = qkv.astype(numpy.float64)
        expected[:, :6] /= numpy.sqrt((expected[:, :6] ** 2).mean(-1, keepdims=True) + 1e-6)
        expected[:, :4] *= weights[0]
        expected[:, 4:6] *= weights[1]
        call.launch(output=qkv.ctypes.data, weight=weights[0].ctypes.data, key_weight=weights[1].ctypes.data)
        numpy.testing.assert_allclose(qkv, expected, rtol=1e-5, atol=1e-6)
        self.refused("WN_STATUS_INVALID_VALUE", "eps", warpnorm.layer, "qk_rms_norm", q_heads=1, k_heads=1, head_dim=16)
        self.refused("WN_STATUS_TOO_LARGE", "head_dim", warpnorm.layer, "qk_layer_norm", q_heads=1, k_heads=1, head_dim=2048)

    def test_empty(self):
        self.assertEqual(warpnorm.layer_norm(numpy.zeros((0, 4), numpy.float32), 4).shape, (0, 4))


@unittest.skipIf(torch is None and "torch" not in REQUIRED, "SKIPPED: torch is not there")
class Torch(unittest.TestCase):
    def close(self, found, expected, dtype):
        tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)

    def test_functions(self):
        functional = torch.nn.functional
        torch.manual_seed(1)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            x, weight, bias = torch.randn(3, 5, 48).to(dtype), torch.randn(48), torch.randn(48)
            exact = functional.layer_norm(x.double(), [48], weight.double(), bias.double())
            self.close(warpnorm.layer_norm(x, [48], weight, bias), exact, dtype)
            exact = functional.rms_norm(x.double(), [48], weight.double(), 1e-6)
            self.close(warpnorm.rms_norm(x, [48], weight, eps=1e-6), exact, dtype)
            for layout in (torch.contiguous_format, torch.channels_last):
                image = torch.randn(2, 8, 6, 5).to(dtype).contiguous(memory_format=layout)
                weight, bias, mean, var = torch.randn(8), torch.randn(8), torch.randn(8), torch.rand(8) + 0.1
                wide = weight.double(), bias.double()
                found = warpnorm.group_norm(image, 4, weight, bias, activation="silu")
                self.assertTrue(found.is_contiguous(memory_format=layout))
                self.close(found, functional.silu(functional.group_norm(image.double(), 4, *wide)), dtype)
                found = warpnorm.batch_norm(image, mean, var, weight, bias)
                self.close(found, functional.batch_norm(image.double(), mean.double(), var.double(), *wide), dtype)
                running = mean.clone(), var.clone()
                theirs = mean.double(), var.double()
                found = warpnorm.batch_norm(image, *running, weight, bias, training=True)
                self.close(found, functional.batch_norm(image.double(), *theirs, *wide, training=True), dtype)
                torch.testing.assert_close(running[0].double(), theirs[0], atol=1e-6, rtol=1e-6)
                torch.testing.assert_close(running[1].double(), theirs[1], atol=1e-6, rtol=1e-6)

    def test_quantized(self):
        x = torch.randn(3, 48)
        q, scales = torch.empty(3, 48, dtype=torch.float8_e4m3fn), torch.empty(3)
        warpnorm.rms_norm(x, [48], eps=1e-6, out=q, scaling="rows", scales=scales)
        exact = torch.nn.functional.rms_norm(x.double(), [48], eps=1e-6)
        torch.testing.assert_close(q.double() * scales.double()[:, None], exact, rtol=2.0**-4 + 1e-6, atol=1e-5)

    def test_in_place(self):
        x = torch.randn(3, 16)
        expected = torch.nn.functional.layer_norm(x.double(), [16])
        self.assertIs(warpnorm.layer_norm(x, 16, out=x), x)
        self.close(x, expected, torch.float32)


@unittest.skipIf(DRIVER is None and "cuda" not in REQUIRED, "SKIPPED: there is no CUDA driver")
class Cuda(Functions):
    @staticmethod
    def put(values):
        return DeviceArray(values)

    @staticmethod
    def get(array):
        return array.numpy()

    def options(self):
        device = warpnorm.Device.cuda(0)
        memory = DeviceArray(numpy.zeros(1 << 16, numpy.uint8))
        return {"workspace": warpnorm.Workspace(device, memory, 1)}

    def test_workspace_is_asked_for(self):
        x = self.put(numpy.zeros((2, 4, 1024, 512), numpy.float32))  # too large to be held
        self.refused("WN_STATUS_INVALID_VALUE", "workspace", warpnorm.batch_norm, x, training=True, out=x)

    def test_devices(self):
        self.assertIn("(sm_", warpnorm.Device.cuda(0).name)
        self.assertIs(warpnorm.Device.cuda(0), warpnorm.Device.cuda(0))
        self.assertTrue(warpnorm.Device.current().is_cuda)
        self.refused("WN_STATUS_NO_DEVICE", "99", warpnorm.Device.cuda, 99)
        x = self.put(noise(2, 4))
        self.refused("WN_STATUS_INVALID_VALUE", "another device", warpnorm.layer_norm, x, 4, out=noise(2, 4))

    def test_programmatic_launch(self):
        x, y = noise(3, 24), self.put(numpy.zeros((3, 24), numpy.float32))
        device = warpnorm.Device.cuda(0).programmatic_launch()
        self.assertEqual(device.name, warpnorm.Device.cuda(0).name)
        warpnorm.layer_norm(self.put(x), 24, out=y, device=device)
        warpnorm.layer_norm(y, 24, out=y, device=device)
        self.check(y, reference(reference(x, (1,), 1.0, 0.0)[0], (1,), 1.0, 0.0), "two in a row")

    def test_strides(self):
        x = self.put(noise(3, 4))
        x.strides = (16, 4)
        warpnorm.layer_norm(x, 4, out=x)
        x.strides = (16, 8)
        self.refused("WN_STATUS_INVALID_VALUE", "strides", warpnorm.layer_norm, x, 4, out=x)

    def test_like_a_tensor_of_torch(self):
        x = noise(3, 24)
        array, out = self.put(x), self.put(numpy.zeros_like(x))
        warpnorm.layer_norm(LikeTorch(array), 24, out=LikeTorch(out), stream=2)
        self.check(out, reference(x, (1,), 1.0, 0.0), "data_ptr")


del Functions  # only its heirs have arrays

if __name__ == "__main__":
    print(f"warpnorm {warpnorm.version()}; torch {'is there' if torch else 'IS NOT THERE'}; "
          f"CUDA {'is there' if DRIVER else 'IS NOT THERE'}")
    unittest.main()
