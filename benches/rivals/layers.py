"""Convolutions that a BatchNorm follows: every shape of ResNet-50 and MobileNetV2 once, for images of 224 × 224."""

import dataclasses

from .cells import BYTES


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A layer of a network, or a cell when it has a batch. Square images and kernels, padded by half a kernel."""

    network: str
    channels_in: int
    channels: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = ""
    batch: int = 1
    dtype: str = "f16"
    layout: str = "nhwc"
    op = "conv_batch_norm"
    warm = False

    @property
    def weight_dtype(self):
        return self.dtype

    @property
    def case(self):
        return f"{self.batch}x{self.channels_in}x{self.size}x{self.size}"

    @property
    def variant(self):
        kind = "depthwise" if self.groups > 1 else ""
        words = (self.network, f"c{self.channels}", f"k{self.kernel}", f"s{self.stride}", kind, self.activation)
        return "+".join(word for word in words if word)

    @property
    def name(self):
        return "/".join((self.op, self.case, self.dtype, self.layout, self.variant))

    @property
    def weight_shape(self):
        return self.channels, self.channels_in // self.groups, self.kernel, self.kernel

    @property
    def output_size(self):
        return -(-self.size // self.stride)

    @property
    def read_bytes(self):
        weights = self.channels * self.channels_in // self.groups * self.kernel**2
        return (self.batch * self.channels_in * self.size**2 + weights) * BYTES[self.dtype]

    @property
    def written_bytes(self):
        return self.batch * self.channels * self.output_size**2 * BYTES[self.dtype]

    @property
    def bytes(self):
        return self.read_bytes + self.written_bytes

    def shrunk(self):
        return dataclasses.replace(self, size=min(self.size, 8), batch=min(self.batch, 2))


def resnet50():
    layers = [Convolution("resnet50", 3, 64, 224, kernel=7, stride=2, activation="relu")]
    channels_in, size = 64, 56
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            out = size // stride
            layers += [
                Convolution("resnet50", channels_in, width, size, activation="relu"),
                Convolution("resnet50", width, width, size, kernel=3, stride=stride, activation="relu"),
                # Its activation comes behind the sum.
                Convolution("resnet50", width, 4 * width, out),
            ]
            if block == 0:
                layers.append(Convolution("resnet50", channels_in, 4 * width, size, stride=stride))
            channels_in, size = 4 * width, out
    return list(dict.fromkeys(layers))


def mobilenetv2():
    layers = [Convolution("mobilenetv2", 3, 32, 224, kernel=3, stride=2, activation="relu6")]
    channels_in, size = 32, 112
    # expansion, channels, repetitions, stride of the first: table 2 of arXiv:1801.04381
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repetitions, first_stride in table:
        for stride in (first_stride, *[1] * (repetitions - 1)):
            inner = expansion * channels_in
            if expansion > 1:
                layers.append(Convolution("mobilenetv2", channels_in, inner, size, activation="relu6"))
            depthwise = {"kernel": 3, "stride": stride, "groups": inner, "activation": "relu6"}
            layers.append(Convolution("mobilenetv2", inner, inner, size, **depthwise))
            size //= stride
            layers.append(Convolution("mobilenetv2", inner, channels, size))
            channels_in = channels
    layers.append(Convolution("mobilenetv2", channels_in, 1280, size, activation="relu6"))
    return list(dict.fromkeys(layers))


def convolutions():
    """The types and batches first that say most."""
    return [
        dataclasses.replace(layer, batch=batch, dtype=dtype, layout=layout)
        for dtype, layout in (("f16", "nhwc"), ("f32", "nchw"))
        for batch in (8, 64, 1)
        for layer in (*resnet50(), *mobilenetv2())
    ]


def convolutions_on_cpu():
    """Each layer once, as the benchmark of convolutions by the GEMM crate has them."""
    return [dataclasses.replace(layer, dtype="f32", layout="nchw") for layer in (*resnet50(), *mobilenetv2())]


# torch.compile takes seconds for each: of these layers, in f16 at batch 1 and 64.
_COMPILED_LAYERS = """
    3x224x224/f16/nhwc/resnet50+c64+k7+s2+relu 64x56x56/f16/nhwc/resnet50+c64+k3+s1+relu
    256x14x14/f16/nhwc/resnet50+c1024+k1+s1 512x7x7/f16/nhwc/resnet50+c512+k3+s1+relu
    96x112x112/f16/nhwc/mobilenetv2+c96+k3+s2+depthwise+relu6 384x14x14/f16/nhwc/mobilenetv2+c64+k1+s1
""".split()
COMPILED = [f"conv_batch_norm/{batch}x{layer}" for layer in _COMPILED_LAYERS for batch in (1, 64)]
