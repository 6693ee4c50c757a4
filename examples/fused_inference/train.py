"""Trains the network of the `fused_inference` example into one safetensors file.

    pip install torch scikit-learn safetensors
    python train.py --out digits.safetensors

A small residual network of convolution, BatchNorm and ReLU learns the 8 x 8 scans of
handwritten digits that scikit-learn ships. Nothing is downloaded, no GPU is used, and
it takes less than a minute. The file holds what a program in another language needs to
load the network, run it, fold its BatchNorms and check itself: the parameters, the
held-out images with their labels, the logits PyTorch computed for them and, as
metadata, the list of layers. `README.md` describes it.
"""

import argparse
import json
import struct
import sys
from pathlib import Path

import numpy as np
import sklearn
import torch
from safetensors import safe_open
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

SEED = 20
HELD_OUT = 450
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 0.1

# Not PyTorch's default of 1e-5. Networks with 1e-3 are common, a state dict does not
# tell the value, and a program that guesses the default is off by 0.1 in the logits.
EPS = 1e-3


def conv(name, bn, in_channels, out_channels, kernel_size, **options):
    """A convolution, then the BatchNorm `bn`, then ReLU.

    `residual` names the layer whose output is added before the ReLU.
    """
    layer = {
        "name": name,
        "kind": "conv2d",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernel_size,
        "stride": 1,
        "padding": kernel_size // 2,
        "groups": 1,
        "bias": False,
        "bn": bn,
        "residual": None,
        "relu": True,
    }
    assert options.keys() <= layer.keys()
    return layer | options


# The network. The model is built from this list, runs by it and is saved with it, so
# the list in the file cannot disagree with what was trained. Each layer reads the
# output of the one before it.
LAYERS = [
    conv("stem.conv", "stem.bn", 1, 16, 3),
    conv("block1.conv1", "block1.bn1", 16, 16, 3),
    conv("block1.conv2", "block1.bn2", 16, 16, 3, residual="stem.conv"),
    # A bias before a BatchNorm has no effect on training, but exporters write such
    # layers, and whoever folds them must not forget it: the running mean includes it.
    conv("down.conv", "down.bn", 16, 32, 3, stride=2, bias=True),
    conv("block2.depthwise", "block2.bn1", 32, 32, 3, groups=32),
    conv("block2.pointwise", "block2.bn2", 32, 32, 1, residual="down.conv"),
    conv("head.conv", "head.bn", 32, 64, 3),
    {"name": "pool", "kind": "global_average_pool"},
    {
        "name": "classifier",
        "kind": "linear",
        "in_features": 64,
        "out_features": 10,
        "bias": True,
    },
]


class Network(nn.Module):
    """The layers of `LAYERS`, each under the dotted name it has there."""

    def __init__(self):
        super().__init__()
        for layer in LAYERS:
            if layer["kind"] == "conv2d":
                sizes = ("in_channels", "out_channels", "kernel_size")
                options = ("stride", "padding", "groups", "bias")
                arguments = {key: layer[key] for key in (*sizes, *options)}
                self._put(layer["name"], nn.Conv2d(**arguments))
                self._put(layer["bn"], nn.BatchNorm2d(layer["out_channels"], eps=EPS))
            elif layer["kind"] == "linear":
                sizes = ("in_features", "out_features")
                arguments = {key: layer[key] for key in (*sizes, "bias")}
                self._put(layer["name"], nn.Linear(**arguments))

    def _put(self, path, module):
        parent = self
        *groups, name = path.split(".")
        for group in groups:
            if not hasattr(parent, group):
                parent.add_module(group, nn.Module())
            parent = getattr(parent, group)
        parent.add_module(name, module)

    def forward(self, x):
        outputs = {}
        for layer in LAYERS:
            if layer["kind"] == "conv2d":
                x = self.get_submodule(layer["name"])(x)
                x = self.get_submodule(layer["bn"])(x)
                if layer["residual"]:
                    x = x + outputs[layer["residual"]]
                if layer["relu"]:
                    x = F.relu(x)
            elif layer["kind"] == "global_average_pool":
                x = x.mean(dim=(2, 3))
            else:
                x = self.get_submodule(layer["name"])(x)
            outputs[layer["name"]] = x
        return x


def to_input(images):
    """Images u8 [n, 8, 8], 0..16, as f32 [n, 1, 8, 8], 0..1; the division is exact."""
    return torch.from_numpy(images).unsqueeze(1).float() / 16


def augment(x, generator):
    """Moves each image by up to one pixel, filling with background, and adds noise."""
    n, _, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    top, left = torch.randint(0, 3, (2, n, 1, 1), generator=generator)
    rows = top + torch.arange(height).view(1, -1, 1)
    columns = left + torch.arange(width).view(1, 1, -1)
    moved = padded[torch.arange(n).view(-1, 1, 1), 0, rows, columns].unsqueeze(1)
    return moved + 0.05 * torch.randn(moved.shape, generator=generator)


def train(x, labels):
    """Trains for a fixed number of epochs: held-out images never say when to stop."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = Network()

    # BatchNorm parameters and biases are left out of the weight decay, as is usual.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": others}],
        lr=LEARNING_RATE,
        momentum=0.9,
        nesterov=True,
    )
    # A smaller last batch would give noisier BatchNorm statistics, so it is dropped.
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=steps
    )
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        order = torch.randperm(len(x), generator=generator)[: steps * BATCH]
        for batch in order.split(BATCH):
            logits = model(augment(x[batch], generator))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        loss = total / steps
        print(f"epoch {epoch + 1:2}/{EPOCHS}  loss {loss:.4f}", file=sys.stderr)
    return model.eval()


def write(path, tensors, metadata):
    """Writes a safetensors file whose metadata keys are sorted.

    The library writes them in an order that changes from run to run; sorted, the same
    training gives the same bytes.
    """
    data = save(tensors, metadata)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned to 8 bytes
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out

    # The order of floating-point sums must not depend on the number of cores.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    train_indices, held_out_indices = train_test_split(
        np.arange(len(images)), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    train_indices, held_out_indices = np.sort(train_indices), np.sort(held_out_indices)

    train_labels = torch.from_numpy(labels[train_indices]).long()
    model = train(to_input(images[train_indices]), train_labels)

    held_out = to_input(images[held_out_indices])
    held_out_labels = torch.from_numpy(labels[held_out_indices]).long()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        correct = int((model(held_out).argmax(1) == held_out_labels).sum())
        exact = model.double()(held_out.double())
    # The count of right answers is fair to test only if rounding cannot change it.
    best = exact.topk(2, dim=1).values
    margin = float((best[:, 0] - best[:, 1]).min())
    assert correct == int((exact.argmax(1) == held_out_labels).sum()) and margin > 1e-3

    tensors = state | {
        "heldout.images": torch.from_numpy(images[held_out_indices]),
        "heldout.labels": torch.from_numpy(labels[held_out_indices]),
        "heldout.indices": torch.from_numpy(held_out_indices.astype(np.int32)),
        "heldout.logits": exact.float(),
        "train.indices": torch.from_numpy(train_indices.astype(np.int32)),
    }
    metadata = {
        "dataset": "Optical Recognition of Handwritten Digits (E. Alpaydin and C. "
        "Kaynak, 1998), UCI Machine Learning Repository, as shipped with scikit-learn",
        "dataset_doi": "10.24432/C50P49",
        "dataset_license": "CC-BY-4.0",
        "dataset_changes": "450 of the 1797 images that load_digits() returns, as u8",
        "sklearn_version": sklearn.__version__,
        "torch_version": torch.__version__.split("+")[0],
        "seed": str(SEED),
        "eps": repr(EPS),
        "input": "heldout.images / 16 as f32, NCHW [n, 1, 8, 8]",
        "layers": json.dumps(LAYERS, separators=(",", ":")),
        "heldout_count": str(HELD_OUT),
        "heldout_correct": str(correct),
        "heldout_accuracy": f"{correct / HELD_OUT:.6f}",
    }
    write(out, tensors, metadata)

    with safe_open(out, framework="pt") as file:
        assert file.metadata() == metadata
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor), name
    print(f"{out}: {correct} of {HELD_OUT} right, smallest margin {margin:.4f}")


if __name__ == "__main__":
    main()
