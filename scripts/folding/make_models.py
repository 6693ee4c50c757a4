#!/usr/bin/env python3
"""Makes whole networks to fold, with statistics as training leaves them.

    make_models.py OUT [NAME...]

Torchvision's networks and a UNet with transposed convolutions are exported with their BatchNorms; the real graphs among
the `onnx` package's test data get random weights. In all of them the running statistics are those of activations, the
scales are spread and sometimes negative or zero. Nothing is downloaded; the same versions give the same files.

Needs onnx and onnxruntime; and torch and torchvision for those of torchvision.
"""

import pathlib
import sys

import numpy as np

LIGHT = ["resnet50", "densenet121", "inception_v2", "shufflenet"]
TORCHVISION = {
    "resnet18": 224,
    "resnet50": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "mobilenet_v3_large": 224,
    "efficientnet_b0": 224,
    "densenet121": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "shufflenet_v2_x1_0": 224,
    "vgg11_bn": 224,
    "regnet_y_400mf": 224,
}


def affine_parameters(random, channels):
    weight = random.uniform(0.3, 1.5, channels)
    weight[random.random(channels) < 0.05] *= -1
    weight[random.random(channels) < 0.01] = 0
    return weight, random.normal(0, 0.3, channels)


def exported(name, size, path):
    import torch
    import torchvision

    torch.manual_seed(1)
    random = np.random.default_rng(1)
    if name == "unet":
        model = unet(torch)
    else:
        more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        model = getattr(torchvision.models, name)(weights=None, **more)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            weight, bias = affine_parameters(random, norm.num_features)
            norm.weight.copy_(torch.from_numpy(weight))
            norm.bias.copy_(torch.from_numpy(bias))
            norm.momentum = None
            norm.reset_running_stats()
        model.eval()
        for norm in norms:
            norm.train()
        for _ in range(2):
            model(torch.randn(4, 3, size, size))
        model.eval()
        torch.onnx.export(
            model,
            (torch.randn(1, 3, size, size),),
            path,
            dynamo=False,
            opset_version=17,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["image"],
            output_names=["logits"],
        )


def unet(torch):
    nn = torch.nn

    def block(inputs, outputs):
        layers = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.ModuleList([block(3, 16), block(16, 32), block(32, 64)])
            up = [(64, 32, 1), (32, 16, 2)]
            self.up = nn.ModuleList([
                nn.Sequential(nn.ConvTranspose2d(i, o, 2, stride=2, groups=g), nn.BatchNorm2d(o), nn.ReLU())
                for i, o, g in up
            ])
            self.merge = nn.ModuleList([block(64, 32), block(32, 16)])
            self.head = nn.Conv2d(16, 2, 1)

        def forward(self, x):
            kept = []
            for index, down in enumerate(self.down):
                x = down(nn.functional.max_pool2d(x, 2) if index else x)
                kept.append(x)
            for up, merge, skip in zip(self.up, self.merge, reversed(kept[:-1])):
                x = merge(torch.cat([up(x), skip], 1))
            return self.head(x)

    return UNet()


def light(name, path):
    """A graph of the standard's test data, whose weights are one number each, with weights and statistics."""
    import onnx
    import onnx.backend.test
    import onnxruntime
    from onnx import helper, numpy_helper

    # It warns of every statistic that the calibrated graph does without.
    onnxruntime.set_default_logger_severity(3)
    folder = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "light"
    model = onnx.load(folder / f"light_{name}.onnx")
    random = np.random.default_rng(1)
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: tuple(shapes[node.input[0]]) for node in graph.node if node.op_type == "ConstantOfShape"}
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    roles = {}
    for node in kept:
        for slot, value in enumerate(node.input):
            roles.setdefault(value, (node.op_type, slot))
    values = {}
    for value, shape in made.items():
        op, slot = roles.get(value, ("", 0))
        if op in ("Conv", "Gemm") and len(shape) > 1:
            values[value] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif op == "BatchNormalization":
            weight, bias = affine_parameters(random, shape[0])
            values[value] = {1: weight, 2: bias, 3: np.zeros(shape), 4: np.ones(shape)}[slot]
        elif op in ("Mul", "Unsqueeze"):
            values[value] = random.uniform(0.5, 1.5, shape)
        else:
            values[value] = random.normal(0, 0.1, shape)
    del graph.node[:]
    graph.node.extend(kept)
    used = set(shapes) & {value for node in kept for value in node.input}
    statics = [tensor for tensor in graph.initializer if tensor.name in used]
    inputs = [value for value in graph.input if value.name not in shapes]
    del graph.initializer[:], graph.input[:]
    graph.input.extend(inputs)

    def initializers():
        return [tensor for tensor in statics if tensor.name not in values] + [numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()]

    # With a batch of one, an InstanceNormalization normalizes by the statistics that a BatchNormalization should have.
    norms = [node for node in kept if node.op_type == "BatchNormalization"]
    calibrated = onnx.ModelProto()
    calibrated.CopyFrom(model)
    calibrated.graph.initializer.extend(initializers())
    for node in calibrated.graph.node:
        if node.op_type == "BatchNormalization":
            node.op_type = "InstanceNormalization"
            del node.input[3:]
            eps = [attribute for attribute in node.attribute if attribute.name == "epsilon"]
            del node.attribute[:]
            node.attribute.extend(eps)
    calibrated.graph.output.extend(
        helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None) for node in norms
    )
    calibrated.ir_version = model.ir_version = 8
    session = onnxruntime.InferenceSession(calibrated.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    image = random.normal(0, 1, given.shape).astype(np.float32)
    activations = session.run([node.input[0] for node in norms], {given.name: image})
    for node, activation in zip(norms, activations):
        values[node.input[3]] = activation.mean((0, 2, 3))
        values[node.input[4]] = activation.var((0, 2, 3)) + 1e-4
    graph.initializer.extend(initializers())
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[2:]
    for name in LIGHT:
        if not wanted or f"light_{name}" in wanted:
            light(name, str(out / f"light_{name}.onnx"))
    for name, size in {**TORCHVISION, "unet": 128}.items():
        if not wanted or name in wanted:
            exported(name, size, str(out / f"{name}.onnx"))
    print("\n".join(sorted(f"{path} {path.stat().st_size}" for path in out.glob("*.onnx"))))


if __name__ == "__main__":
    main()
