"""Writes test vectors from formulas that owe nothing to this crate.

    pip install numpy safetensors
    python group_norm_notes.py --out group_norm_notes.safetensors

`group_norm` is the `GroupNorm` of study notes on normalization, TensorFlow-like
pseudo-code as in figure 3 of "Group Normalization" (Wu and He, 2018), restated in NumPy
in float64. With one group it is LayerNorm over C, H, W with a weight per channel; with
as many groups as channels it is InstanceNorm. `batch_norm` is the notes' BatchNorm at
inference: the saved statistics, applied.

Case k of `group_norm` has the tensors

    case<k>.x                 f32 [N, C, H, W]
    case<k>.gamma, .beta      f32 [C]
    case<k>.y                 f64 [N, C, H, W]

and case k of `batch_norm` the same under `batch_norm<k>`, with `running_mean` and
`running_var`, f32 [C]. The metadata has a JSON object for each case, under the same
name: `shape`, `groups` (not for BatchNorm), `eps` and, in words, what it is `about`.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save


def group_norm(x, gamma, beta, G, eps):
    """The notes' function, line by line; `gamma` and `beta` are [1, C, 1, 1] there too.

    `moments` gives the variance of the population, not of a sample: divided by the
    count. So does NumPy's `var`.
    """
    N, C, H, W = x.shape
    x = x.reshape(N, G, C // G, H, W)
    mean = x.mean(axis=(2, 3, 4), keepdims=True)
    var = x.var(axis=(2, 3, 4), keepdims=True)
    x = (x - mean) / np.sqrt(var + eps)
    x = x.reshape(N, C, H, W)
    return x * gamma + beta


def batch_norm(x, gamma, beta, running_mean, running_var, eps):
    """y = gamma * (x - mean) / sigma + beta with the statistics that training saved."""
    return gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta


def exact(values):
    """As float64, and [C] as [1, C, 1, 1]."""
    values = values.astype(np.float64)
    return values.reshape(1, -1, 1, 1) if values.ndim == 1 else values


def affine(rng, channels):
    """A weight of either sign and a bias."""
    gamma = rng.normal(1.0, 0.5, channels).astype(np.float32)
    return gamma, rng.normal(0.0, 0.5, channels).astype(np.float32)


def standard(rng, shape):
    return rng.normal(0.0, 1.0, shape)


def far_mean(rng, shape):
    """E[x^2] - E[x]^2 in f32 has no correct digit here."""
    return rng.normal(1e4, 1.0, shape)


def far_channels(rng, shape):
    """Channel means from -1000 to 1000: who merges moments must count the distance."""
    means = np.linspace(-1000.0, 1000.0, shape[1]).reshape(1, -1, 1, 1)
    return rng.normal(means, 1.0, shape)


def small(rng, shape):
    """A variance of 1e-6, so that eps decides the result."""
    return rng.normal(0.0, 1e-3, shape)


def outlier_first(rng, shape):
    """The first element of each sample is far from the rest, which it must not ruin."""
    x = rng.normal(0.0, 1.0, shape)
    x[:, 0, 0, 0] = 1e4
    return x


def constant(rng, shape):
    """One value a sample, none with a short binary fraction: y is exactly beta."""
    return np.broadcast_to(rng.normal(0.0, 1.0, (shape[0], 1, 1, 1)), shape)


GROUP_NORM = [
    # values, shape, groups, eps, about
    (standard, (2, 10, 7, 7), 2, 1e-5, "C/G = 5, H*W = 49"),
    (far_mean, (2, 20, 7, 7), 2, 1e-5, "C/G = 10, H*W = 49, mean 1e4, sigma 1"),
    (standard, (3, 6, 7, 7), 6, 1e-5, "InstanceNorm, C/G = 1, H*W = 49"),
    (far_channels, (2, 5, 7, 7), 1, 1e-5, "LayerNorm, C/G = 5, channels far apart"),
    (standard, (3, 10, 1, 1), 1, 1e-6, "LayerNorm, C/G = 10, H*W = 1"),
    (standard, (2, 20, 1, 1), 4, 1e-5, "C/G = 5, H*W = 1"),
    (standard, (2, 7, 1, 1), 7, 1e-5, "InstanceNorm, one value a group: y is beta"),
    (far_channels, (1, 30, 5, 3), 3, 1e-5, "C/G = 10, H*W = 15, channels far apart"),
    (far_mean, (2, 3, 11, 13), 3, 1e-5, "InstanceNorm, H*W = 143, mean 1e4, sigma 1"),
    (far_mean, (1, 5, 17, 9), 1, 1e-5, "LayerNorm, C/G = 5, mean 1e4, sigma 1"),
    (small, (5, 15, 3, 5), 3, 1e-3, "C/G = 5, H*W = 15, variance far below eps"),
    (outlier_first, (2, 10, 7, 7), 1, 1e-5, "LayerNorm, C/G = 10, an outlier first"),
    (standard, (3, 1, 1, 37), 1, 1e-5, "one channel, one row of 37"),
    (constant, (2, 5, 7, 7), 1, 1e-5, "LayerNorm, constant samples: y is beta"),
]

BATCH_NORM = [
    # mean, sigma (of the data and of the statistics), shape, eps, about
    (0.0, 1.0, (2, 10, 7, 7), 1e-5, "H*W = 49"),
    (1e4, 1.0, (1, 5, 5, 3), 1e-3, "mean 1e4, sigma 1"),
    (-3.0, 2.0, (9, 13, 1, 1), 1e-5, "H*W = 1"),
    (0.5, 1e-4, (2, 3, 11, 13), 1e-3, "variance far below eps"),
    (0.0, 1e4, (2, 7, 3, 5), 1e-5, "variance 1e8"),
]


def group_norm_cases(rng):
    for k, (values, shape, groups, eps, about) in enumerate(GROUP_NORM):
        x = values(rng, shape).astype(np.float32)
        gamma, beta = affine(rng, shape[1])
        y = group_norm(exact(x), exact(gamma), exact(beta), groups, eps)
        description = {"shape": shape, "groups": groups, "eps": eps, "about": about}
        yield f"case{k}", description, {"x": x, "gamma": gamma, "beta": beta, "y": y}


def batch_norm_cases(rng):
    for k, (mean, sigma, shape, eps, about) in enumerate(BATCH_NORM):
        x = rng.normal(mean, sigma, shape).astype(np.float32)
        gamma, beta = affine(rng, shape[1])
        # Each channel's statistics are near those of its data, not equal to them.
        offset = rng.uniform(-0.5, 0.5, shape[1])
        running_mean = (mean + sigma * offset).astype(np.float32)
        scale = rng.uniform(0.5, 2.0, shape[1])
        running_var = (sigma**2 * scale).astype(np.float32)
        parameters = [exact(p) for p in (gamma, beta, running_mean, running_var)]
        tensors = {
            "x": x,
            "gamma": gamma,
            "beta": beta,
            "running_mean": running_mean,
            "running_var": running_var,
            "y": batch_norm(exact(x), *parameters, eps),
        }
        description = {"shape": shape, "eps": eps, "about": about}
        yield f"batch_norm{k}", description, tensors


def write(path, tensors, metadata, save=save):
    """Writes a safetensors file that has the same bytes every time.

    The library writes the metadata in an order that changes from run to run. Its `save`
    of NumPy arrays can be replaced by that of other libraries' tensors.
    """
    data = save(tensors, metadata)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = metadata
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned to 8 bytes
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out

    rng = np.random.default_rng(1803)
    tensors, metadata = {}, {}
    for cases in (group_norm_cases, batch_norm_cases):
        for case, description, arrays in cases(rng):
            metadata[case] = json.dumps(description, separators=(",", ":"))
            for name, array in arrays.items():
                tensors[f"{case}.{name}"] = np.ascontiguousarray(array)
    write(out, tensors, metadata)
    print(f"{out}: {len(metadata)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
