//! What each operator computes.

use std::sync::Arc;

use super::{
    super::{
        constants::{axis_of, numbers, reduced_axes},
        graph::Graph,
        node::Node,
        tensor::Tensor,
    },
    Mode,
    array::{Array, matmul, zip},
    shaping,
    windows::{self, Pool},
};

/// The outputs of a node. `None` where the operator is not known, or not like this.
pub(super) fn run(graph: &Graph<'_>, node: &Node<'_>, inputs: &[Option<Arc<Array>>], mode: Mode) -> Option<Vec<Array>> {
    if !node.is_standard() {
        return None;
    }
    let optional = |slot: usize| inputs.get(slot).and_then(Option::as_deref);
    if node.op == "Split" {
        let sizes = node.ints("split").map(<[i64]>::to_vec).or_else(|| optional(1).map(Array::ints));
        return shaping::split(optional(0)?, node.int("axis", 0), sizes, node.outputs.len());
    }
    let all = || inputs.iter().map(Option::as_deref).collect::<Option<Vec<_>>>();
    let one = match node.op {
        "Constant" | "ConstantOfShape" => constant(graph, node, optional(0), mode),
        "Sum" => sum(&all()?, |left, right| left + right),
        "Max" => sum(&all()?, f64::max),
        "Min" => sum(&all()?, f64::min),
        "Concat" => shaping::concat(&all()?, node.int("axis", 1)),
        _ => unary_or_more(graph, node, optional(0)?, &optional, mode),
    };
    // Masks and indices are not computed; whoever reads them finds them missing.
    one.map(|array| vec![array])
}

fn unary_or_more<'a>(
    graph: &Graph<'_>,
    node: &Node<'_>,
    x: &'a Array,
    optional: &impl Fn(usize) -> Option<&'a Array>,
    mode: Mode,
) -> Option<Array> {
    let list =
        |name: &str, slot: usize| node.ints(name).map(<[i64]>::to_vec).or_else(|| optional(slot).map(Array::ints));
    match node.op {
        "Conv" => windows::conv(node, x, optional(1)?, optional(2)),
        "ConvTranspose" => windows::conv_transpose(node, x, optional(1)?, optional(2)),
        "MaxPool" if node.has_one_output() => windows::pool(node, x, Pool::Max),
        "AveragePool" => windows::pool(node, x, Pool::Average),
        "GlobalAveragePool" => reduced(x, &(2..x.dims.len()).collect::<Vec<_>>(), true, mean),
        "GlobalMaxPool" => reduced(x, &(2..x.dims.len()).collect::<Vec<_>>(), true, largest),
        "ReduceMean" | "ReduceSum" | "ReduceMax" => {
            let axes = reduced_axes(node, list("axes", 1).as_deref(), x.dims.len())?;
            let of = match node.op {
                "ReduceMean" => mean,
                "ReduceSum" => |values: &[f64]| values.iter().sum(),
                _ => largest,
            };
            reduced(x, &axes, node.int("keepdims", 1) != 0, of)
        }
        "BatchNormalization" => {
            batch_norm(graph, node, x, [optional(1)?, optional(2)?, optional(3)?, optional(4)?], mode)
        }
        "Gemm" => gemm(node, x, optional(1)?, optional(2), mode),
        "MatMul" => matmul(x, optional(1)?),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "PRelu" => arithmetic(graph, node, x, optional(1)?, mode),
        "Reshape" => shaping::reshape(x, &list("shape", 1)?, node.int("allowzero", 0) != 0),
        "Flatten" => shaping::flatten(x, node.int("axis", 1)),
        "Squeeze" => shaping::squeeze(x, list("axes", 1).as_deref()),
        "Unsqueeze" => shaping::unsqueeze(x, &list("axes", 1)?),
        "Transpose" => shaping::transpose(x, node.ints("perm")),
        "Gather" => shaping::gather(x, optional(1)?, node.int("axis", 0)),
        "Shape" => shape(node, x),
        "Slice" => {
            let (starts, ends) = (list("starts", 1)?, list("ends", 2)?);
            shaping::slice(x, &starts, &ends, list("axes", 3).as_deref(), list("steps", 4).as_deref())
        }
        "Pad" if optional(3).is_none() => {
            let value = optional(2).and_then(|value| value.data.first().copied());
            let value = value.unwrap_or_else(|| f64::from(node.float("value", 0.0)));
            shaping::pad(x, &list("pads", 1)?, node.text("mode").unwrap_or("constant"), value)
        }
        "Resize" | "Upsample" if node.ints("axes").is_none() => {
            let own = node.floats("scales").map(|scales| Array::list(scales.into_iter().map(f64::from).collect()));
            let slot = if node.op == "Upsample" || graph.opset < 11 { 1 } else { 2 };
            let is_given = |array: &&Array| !array.data.is_empty();
            shaping::resize(node, x, own.as_ref().or_else(|| optional(slot).filter(is_given)), optional(3))
        }
        "DepthToSpace" => shaping::depth_to_space(node, x),
        "Softmax" => softmax(graph, node, x),
        "Clip" => {
            let bound = |name: &str, slot: usize, none: f64| {
                let attribute = node.attribute(name).and_then(|attribute| attribute.f).map(f64::from);
                attribute.or_else(|| optional(slot)?.data.first().copied()).unwrap_or(none)
            };
            let (least, most) = (bound("min", 1, f64::NEG_INFINITY), bound("max", 2, f64::INFINITY));
            Some(x.map(|value| value.max(least).min(most)))
        }
        "Dropout" => {
            let trains = graph.opset < 7 && node.int("is_test", 0) == 0;
            let trains = trains || optional(2).is_some_and(|mode| mode.data.iter().any(|&value| value != 0.0));
            (!trains).then(|| x.clone())
        }
        "Cast" => cast(node, x),
        _ => activation(node, x),
    }
}

fn constant(graph: &Graph<'_>, node: &Node<'_>, shape: Option<&Array>, mode: Mode) -> Option<Array> {
    if let Some(shape) = shape {
        let fill = match node.attribute("value").and_then(|attribute| attribute.tensor) {
            Some(message) => magnitudes(&Tensor::read(message, graph.externals).ok()?, mode)?.first().copied()?,
            None => 0.0,
        };
        let dims = shape.ints().into_iter().map(|dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>()?;
        return Some(Array::zeros(dims)?.map(|_| fill));
    }
    let tensor = graph.constant(node.output()?).ok()?;
    Some(Array { data: magnitudes(&tensor, mode)?, dims: tensor.dims })
}

/// The numbers of a tensor, or their magnitudes; integers are shapes and the like, and stay.
pub(super) fn magnitudes(tensor: &Tensor<'_>, mode: Mode) -> Option<Vec<f64>> {
    let mut data = numbers(tensor)?;
    if mode == Mode::Magnitudes && tensor.values().is_some() {
        data.iter_mut().for_each(|value| *value = value.abs());
    }
    Some(data)
}

fn sum(arrays: &[&Array], f: impl Fn(f64, f64) -> f64 + Copy) -> Option<Array> {
    let (first, rest) = arrays.split_first()?;
    rest.iter().try_fold((*first).clone(), |sum, array| zip(&sum, array, f))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// One number for all elements along some axes.
fn reduced(x: &Array, axes: &[usize], keeps: bool, f: impl Fn(&[f64]) -> f64) -> Option<Array> {
    let kept: Vec<usize> = (0..x.dims.len()).filter(|axis| !axes.contains(axis)).collect();
    let order: Vec<i64> = kept.iter().chain(axes).map(|&axis| axis as i64).collect();
    let moved = shaping::transpose(x, Some(&order))?;
    let len: usize = axes.iter().map(|&axis| x.dims[axis]).product();
    let data = if len == 0 { return None } else { moved.data.chunks_exact(len).map(f).collect() };
    let dims = if keeps {
        (0..x.dims.len()).map(|axis| if axes.contains(&axis) { 1 } else { x.dims[axis] }).collect()
    } else {
        kept.iter().map(|&axis| x.dims[axis]).collect()
    };
    Some(Array { dims, data })
}

fn batch_norm(graph: &Graph<'_>, node: &Node<'_>, x: &Array, params: [&Array; 4], mode: Mode) -> Option<Array> {
    let trains = if graph.opset < 7 { node.int("is_test", 0) == 0 } else { node.int("training_mode", 0) != 0 };
    let channels = x.dims.get(1).copied().or_else(|| (x.dims.len() == 1).then_some(1))?;
    let per_channel = params.iter().all(|param| param.data.len() == channels);
    if trains || !per_channel || !node.has_one_output() {
        return None;
    }
    let [weight, bias, mean, var] = params;
    let eps = f64::from(node.float("epsilon", 1e-5));
    let spatial: usize = x.dims.iter().skip(2).product();
    let mut y = x.clone();
    for (index, value) in y.data.iter_mut().enumerate() {
        let c = index / spatial.max(1) % channels;
        let centered = if mode == Mode::Magnitudes { *value + mean.data[c] } else { *value - mean.data[c] };
        *value = centered / (var.data[c] + eps).sqrt() * weight.data[c] + bias.data[c];
    }
    Some(y)
}

fn gemm(node: &Node<'_>, a: &Array, b: &Array, c: Option<&Array>, mode: Mode) -> Option<Array> {
    let factor = |name: &str| {
        let factor = f64::from(node.float(name, 1.0));
        if mode == Mode::Magnitudes { factor.abs() } else { factor }
    };
    let (alpha, beta) = (factor("alpha"), factor("beta"));
    let turned = |array: &Array, name: &str| match node.int(name, 0) {
        0 => Some(array.clone()),
        _ => shaping::transpose(array, None),
    };
    let product = matmul(&turned(a, "transA")?, &turned(b, "transB")?)?.map(|value| alpha * value);
    match c.filter(|_| beta != 0.0) {
        Some(c) => zip(&product, c, |product, c| product + beta * c).filter(|sum| sum.dims == product.dims),
        None => Some(product),
    }
}

fn arithmetic(graph: &Graph<'_>, node: &Node<'_>, left: &Array, right: &Array, mode: Mode) -> Option<Array> {
    let mut right = right.clone();
    if graph.opset < 7 && node.op != "PRelu" && left.dims != right.dims {
        // Broadcasting had to be asked for, and could begin at any axis.
        if node.int("broadcast", 0) == 0 {
            return None;
        }
        if let Some(axis) = node.attribute("axis").and_then(|attribute| attribute.i) {
            let behind = left.dims.len().checked_sub(axis_of(axis, left.dims.len())? + right.dims.len())?;
            right.dims.extend(vec![1; behind]);
        }
    }
    // A slope of each channel stands on axis 1.
    if node.op == "PRelu" && graph.opset < 7 && right.dims.len() == 1 {
        right.dims.extend(vec![1; left.dims.len().saturating_sub(2)]);
    }
    zip(
        left,
        &right,
        match (node.op, mode) {
            ("Add", _) | ("Sub", Mode::Magnitudes) => |left, right| left + right,
            ("Sub", Mode::Values) => |left, right| left - right,
            ("Mul", _) => |left, right| left * right,
            ("Div", _) => |left, right| left / right,
            ("Pow", _) => f64::powf,
            _ => |value, slope| if value < 0.0 { value * slope } else { value },
        },
    )
}

fn shape(node: &Node<'_>, x: &Array) -> Option<Array> {
    let rank = i64::try_from(x.dims.len()).ok()?;
    let from_end = |at: i64| usize::try_from(if at < 0 { at + rank } else { at }.clamp(0, rank)).ok();
    let (start, end) = (from_end(node.int("start", 0))?, from_end(node.int("end", rank))?);
    Some(Array::list(x.dims.get(start..end)?.iter().map(|&dim| dim as f64).collect()))
}

fn softmax(graph: &Graph<'_>, node: &Node<'_>, x: &Array) -> Option<Array> {
    let axis = axis_of(node.int("axis", if graph.opset < 13 { 1 } else { -1 }), x.dims.len())?;
    let (outer, mut len, mut inner) = x.around(axis);
    if graph.opset < 13 {
        // All axes behind count as one.
        (len, inner) = (len * inner, 1);
    }
    let mut y = x.clone();
    for at in 0..outer * inner {
        let places = (0..len).map(|step| (at / inner * len + step) * inner + at % inner);
        let most = places.clone().fold(f64::NEG_INFINITY, |most, place| most.max(x.data[place]));
        let sum: f64 = places.clone().map(|place| (x.data[place] - most).exp()).sum();
        places.for_each(|place| y.data[place] = (x.data[place] - most).exp() / sum);
    }
    Some(y)
}

/// To another floating-point type nothing is rounded: that is the models' own business, and the same in both.
fn cast(node: &Node<'_>, x: &Array) -> Option<Array> {
    match node.int("to", 0) {
        1 | 10 | 11 | 16 => Some(x.clone()),
        2..=7 | 12 | 13 => Some(x.map(f64::trunc)),
        9 => Some(x.map(|value| f64::from(value != 0.0))),
        _ => None,
    }
}

fn activation(node: &Node<'_>, x: &Array) -> Option<Array> {
    let float = |name: &str, default: f32| f64::from(node.float(name, default));
    let hard_sigmoid = |alpha: f64, beta: f64| move |value: f64| (alpha * value + beta).clamp(0.0, 1.0);
    let sigmoid = |value: f64| 1.0 / (1.0 + (-value).exp());
    Some(match node.op {
        "Identity" => x.clone(),
        "Relu" => x.map(|value| value.max(0.0)),
        "LeakyRelu" => {
            let slope = float("alpha", 0.01);
            x.map(|value| if value < 0.0 { slope * value } else { value })
        }
        "Elu" => {
            let alpha = float("alpha", 1.0);
            x.map(|value| if value < 0.0 { alpha * value.exp_m1() } else { value })
        }
        "Sigmoid" => x.map(sigmoid),
        "HardSigmoid" => x.map(hard_sigmoid(float("alpha", 0.2), float("beta", 0.5))),
        "HardSwish" => x.map(|value| value * hard_sigmoid(1.0 / 6.0, 0.5)(value)),
        "Tanh" => x.map(f64::tanh),
        "Softplus" => x.map(|value| value.exp().ln_1p()),
        "Mish" => x.map(|value| value * value.exp().ln_1p().tanh()),
        "Exp" => x.map(f64::exp),
        "Sqrt" => x.map(f64::sqrt),
        "Abs" => x.map(f64::abs),
        "Neg" => x.map(|value| -value),
        _ => return None,
    })
}
