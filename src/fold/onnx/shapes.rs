//! The shapes of a graph's values, as far as they can be told without running it.

use super::{
    constants::{axis_of, numbers, permutation, reduced_axes, reshaped, squeezed, unsqueezed},
    graph::Graph,
    node::{Node, ValueId},
    tensor::{ElementType, TensorHeader},
    wire::{Field, Fields},
};
use crate::fold::models::ModelError;

/// The lengths of the axes; those that the model leaves open are `None`.
pub(super) type Dims = Vec<Option<usize>>;

/// Shapes by value; of many it is not known.
#[derive(Debug)]
pub(super) struct Shapes(Vec<Option<Dims>>);

impl Shapes {
    pub(super) fn of(graph: &Graph<'_>) -> Self {
        let mut shapes = Self(vec![None; graph.values.len()]);
        for (id, value) in graph.values.iter().enumerate() {
            let stated = value.value_info.and_then(|message| stated_type(message).ok().flatten());
            let own = value.initializer.and_then(|message| TensorHeader::read(message).ok()?.shape().ok());
            let own = own.map(|(dims, _)| dims).or_else(|| Some(graph.computed.get(&ValueId(id))?.dims.clone()));
            shapes.0[id] = match own {
                Some(dims) => Some(dims.into_iter().map(Some).collect()),
                None => stated.and_then(|(_, dims)| dims),
            };
        }
        for node in graph.nodes.iter().filter(|node| !node.is_removed) {
            if let Some(output) = node.output()
                && let Some(inferred) = shapes.infer(graph, node)
            {
                shapes.0[output.0] = Some(match shapes.0[output.0].take() {
                    // What the model states may say less of some axes, and more of others.
                    Some(stated) if stated.len() == inferred.len() => {
                        inferred.into_iter().zip(stated).map(|(inferred, stated)| inferred.or(stated)).collect()
                    }
                    _ => inferred,
                });
            }
        }
        shapes
    }

    pub(super) fn get(&self, value: ValueId) -> Option<&Dims> {
        self.0.get(value.0)?.as_ref()
    }

    pub(super) fn rank(&self, value: ValueId) -> Option<usize> {
        self.get(value).map(Vec::len)
    }

    pub(super) fn dim(&self, value: ValueId, axis: usize) -> Option<usize> {
        self.get(value)?.get(axis).copied().flatten()
    }

    fn infer(&self, graph: &Graph<'_>, node: &Node<'_>) -> Option<Dims> {
        const AS_INPUT: [&str; 24] = [
            "BatchNormalization",
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Clip",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Tanh",
            "Elu",
            "Selu",
            "Softmax",
            "LogSoftmax",
            "Softplus",
            "Mish",
            "Gelu",
            "Identity",
            "Dropout",
            "LRN",
            "Cast",
            "InstanceNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "Erf",
        ];
        if !node.is_standard() {
            return None;
        }
        let dims = |index| node.input(index).and_then(|value| self.get(value));
        let ints = |index| graph.constant(node.input(index)?).ok()?.ints();
        let axes = || node.ints("axes").map(<[i64]>::to_vec).or_else(|| ints(1));
        match node.op {
            op if AS_INPUT.contains(&op) => dims(0).cloned(),
            "ConstantOfShape" => ints(0)?.into_iter().map(|len| Some(usize::try_from(len).ok())).collect(),
            "Constant" => {
                let (dims, _) = TensorHeader::read(node.attribute("value")?.tensor?).ok()?.shape().ok()?;
                Some(dims.into_iter().map(Some).collect())
            }
            "Conv" | "ConvTranspose" => convolved(node, dims(0), dims(1)?),
            "MaxPool" | "AveragePool" | "LpPool" => pooled(node, dims(0)?),
            "GlobalAveragePool" | "GlobalMaxPool" => {
                let dims = dims(0)?;
                Some(dims.iter().enumerate().map(|(axis, &dim)| if axis < 2 { dim } else { Some(1) }).collect())
            }
            // Until then what is broadcast may begin at any axis, but is always the second.
            "Add" | "Sub" | "Mul" | "Div" | "Pow" if graph.opset < 7 => dims(0).cloned(),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Sum" | "Max" | "Min" => {
                (1..node.inputs.len()).try_fold(dims(0)?.clone(), |shape, index| broadcast(&shape, dims(index)?))
            }
            "Gemm" => Some(vec![
                *dims(0)?.get(usize::from(node.int("transA", 0) != 0))?,
                *dims(1)?.get(usize::from(node.int("transB", 0) == 0))?,
            ]),
            "MatMul" => multiplied(dims(0)?, dims(1)?),
            "Transpose" => {
                let dims = dims(0)?;
                Some(permutation(node.ints("perm"), dims.len())?.into_iter().map(|axis| dims[axis]).collect())
            }
            "Flatten" => flattened(dims(0)?, node.int("axis", 1)),
            "Reshape" => {
                let shape = node.ints("shape").map(<[i64]>::to_vec).or_else(|| ints(1))?;
                let unknown = vec![None; shape.len()];
                reshaped(dims(0).unwrap_or(&unknown), &shape, node.int("allowzero", 0) != 0)
            }
            // An axis that is left open may be of length 1 too.
            "Squeeze" => match (axes(), dims(0)?) {
                (None, dims) if node.input(1).is_some() || dims.contains(&None) => None,
                (axes, dims) => squeezed(dims, axes.as_deref()),
            },
            "Unsqueeze" => unsqueezed(dims(0)?, &axes()?),
            "Concat" => {
                let mut shape = dims(0)?.clone();
                let axis = axis_of(node.int("axis", 1), shape.len())?;
                for index in 1..node.inputs.len() {
                    let added = *dims(index)?.get(axis)?;
                    shape[axis] = shape[axis].zip(added).and_then(|(len, added)| len.checked_add(added));
                }
                Some(shape)
            }
            // The axes that are padded may be named.
            "Pad" if node.input(3).is_none() => {
                let pads = node.ints("pads").map(<[i64]>::to_vec).or_else(|| ints(1))?;
                let rank = dims(0)?.len();
                let pad = |axis: usize, dim: Option<usize>| {
                    let len = i64::try_from(dim?).ok()?;
                    usize::try_from(len.checked_add(*pads.get(axis)?)?.checked_add(*pads.get(axis + rank)?)?).ok()
                };
                Some(dims(0)?.iter().enumerate().map(|(axis, &dim)| pad(axis, dim)).collect())
            }
            "Resize" | "Upsample" => Some(resized(graph, node, dims(0)?)),
            "Pad" | "DepthToSpace" | "SpaceToDepth" | "Slice" => Some(vec![None; dims(0)?.len()]),
            "ReduceMean" => {
                let dims = dims(0)?;
                let named = axes();
                let keeps = node.int("keepdims", 1) != 0;
                if named.is_none() && node.input(1).is_some() {
                    return keeps.then(|| vec![None; dims.len()]);
                }
                let axes = reduced_axes(node, named.as_deref(), dims.len())?;
                let kept = keeps.then_some(Some(1));
                let reduced = |(axis, &dim)| if axes.contains(&axis) { kept } else { Some(dim) };
                Some(dims.iter().enumerate().filter_map(reduced).collect())
            }
            _ => None,
        }
    }
}

/// The element type and the shape in a `ValueInfoProto` of a tensor.
pub(super) fn stated_type(message: &[u8]) -> Result<Option<(ElementType, Option<Dims>)>, ModelError> {
    /// The bytes of a field.
    fn field(message: &[u8], wanted: u64) -> Result<Option<&[u8]>, ModelError> {
        let mut found = None;
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            if number == wanted {
                found = Some(value.bytes()?);
            }
        }
        Ok(found)
    }
    let Some(tensor) = field(message, 2)?.map(|of_type| field(of_type, 1)).transpose()?.flatten() else {
        return Ok(None);
    };
    let (mut element, mut dims) = (ElementType::Other(0), None);
    for part in Fields::of(tensor) {
        let Field { number, value, .. } = part?;
        match number {
            1 => element = ElementType::of(value.int()?),
            2 => dims = Some(stated_dims(value.bytes()?)?),
            _ => {}
        }
    }
    Ok(Some((element, dims)))
}

fn stated_dims(message: &[u8]) -> Result<Dims, ModelError> {
    let mut dims = Vec::new();
    for field in Fields::of(message) {
        let Field { number, value, .. } = field?;
        if number == 1 {
            let mut len = None;
            for field in Fields::of(value.bytes()?) {
                let Field { number, value, .. } = field?;
                if number == 1 {
                    len = usize::try_from(value.int()?).ok();
                }
            }
            dims.push(len);
        }
    }
    Ok(dims)
}

/// How a window goes over one axis, with the attributes' defaults by the standard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) pad_begin: usize,
    pub(super) pad_end: usize,
}

impl Window {
    /// That of a spatial axis of given length. `None` where attributes are no windows, or too large to be.
    pub(super) fn of(node: &Node<'_>, axis: usize, rank: usize, kernel: usize, len: usize) -> Option<Self> {
        let size = |name: &str, index: usize, default: usize| match node.ints(name) {
            Some(values) => usize::try_from(*values.get(index)?).ok().filter(|&value| value < 1 << 31),
            None => Some(default),
        };
        let mut window = Self {
            kernel,
            stride: size("strides", axis, 1)?,
            dilation: size("dilations", axis, 1)?,
            pad_begin: size("pads", axis, 0)?,
            pad_end: size("pads", axis + rank, 0)?,
        };
        if window.stride == 0 || window.dilation == 0 || kernel == 0 {
            return None;
        }
        match node.text("auto_pad") {
            None | Some("NOTSET") => {}
            Some("VALID") => (window.pad_begin, window.pad_end) = (0, 0),
            Some(auto @ ("SAME_UPPER" | "SAME_LOWER")) => {
                let output = len.div_ceil(window.stride);
                let needed = (output.max(1) - 1).checked_mul(window.stride)?.checked_add(window.extent()?)?;
                let pads = needed.saturating_sub(len);
                window.pad_begin = if auto == "SAME_UPPER" { pads / 2 } else { pads.div_ceil(2) };
                window.pad_end = pads - window.pad_begin;
            }
            Some(_) => return None,
        }
        Some(window)
    }

    pub(super) fn extent(&self) -> Option<usize> {
        (self.kernel - 1).checked_mul(self.dilation)?.checked_add(1)
    }

    /// How many positions it has; with `ceil`, also one that begins within the input but ends outside.
    pub(super) fn positions(&self, len: usize, ceil: bool) -> Option<usize> {
        let padded = len.checked_add(self.pad_begin)?.checked_add(self.pad_end)?;
        let room = padded.checked_sub(self.extent()?)?;
        let positions = if ceil { room.div_ceil(self.stride) } else { room / self.stride } + 1;
        let last_starts_inside = (positions - 1) * self.stride < len + self.pad_begin;
        Some(if ceil && !last_starts_inside { positions - 1 } else { positions })
    }
}

fn convolved(node: &Node<'_>, given: Option<&Dims>, weight: &Dims) -> Option<Dims> {
    let rank = weight.len().checked_sub(2)?;
    let unknown = vec![None; weight.len()];
    let given = given.unwrap_or(&unknown);
    if given.len() != weight.len() {
        return None;
    }
    let is_transposed = node.op == "ConvTranspose";
    let groups = usize::try_from(node.int("group", 1)).ok()?;
    let channels = if is_transposed { weight[1]?.checked_mul(groups) } else { weight[0] };
    let mut dims = vec![given[0], channels];
    for axis in 0..rank {
        let size = || {
            let len = given[axis + 2]?;
            let window = Window::of(node, axis, rank, weight[axis + 2]?, len)?;
            if is_transposed { transposed_size(node, axis, &window, len) } else { window.positions(len, false) }
        };
        dims.push(size());
    }
    Some(dims)
}

/// The length that a transposed convolution gives an axis.
pub(super) fn transposed_size(node: &Node<'_>, axis: usize, window: &Window, len: usize) -> Option<usize> {
    if let Some(shape) = node.ints("output_shape") {
        return usize::try_from(*shape.get(axis)?).ok();
    }
    if matches!(node.text("auto_pad"), Some("SAME_UPPER" | "SAME_LOWER")) {
        return len.checked_mul(window.stride);
    }
    let added = node.ints("output_padding").map_or(Some(0), |values| usize::try_from(*values.get(axis)?).ok())?;
    let whole = len.checked_sub(1)?.checked_mul(window.stride)?.checked_add(window.extent()?)?.checked_add(added)?;
    whole.checked_sub(window.pad_begin.checked_add(window.pad_end)?)
}

fn pooled(node: &Node<'_>, given: &Dims) -> Option<Dims> {
    let kernel = node.ints("kernel_shape")?;
    let ceil = node.int("ceil_mode", 0) != 0;
    let mut dims = given.get(..2)?.to_vec();
    for (axis, &len) in given[2..].iter().enumerate() {
        let size = || {
            let kernel = usize::try_from(*kernel.get(axis)?).ok()?;
            let window = Window::of(node, axis, given.len() - 2, kernel, len?)?;
            window.positions(len?, ceil)
        };
        dims.push(size());
    }
    Some(dims)
}

/// By what a `Resize` or an `Upsample` multiplies each axis, or each that `axes` names, where that is constant.
pub(super) fn scales_of(graph: &Graph<'_>, node: &Node<'_>) -> Option<Vec<f64>> {
    if let Some(scales) = node.floats("scales") {
        return Some(scales.into_iter().map(f64::from).collect());
    }
    // Opset 10 and `Upsample` have them as input 1, later ones as input 2, behind `roi`.
    let slot = if node.op == "Upsample" || graph.opset < 11 { 1 } else { 2 };
    numbers(&graph.constant(node.input(slot)?).ok()?)
}

fn resized(graph: &Graph<'_>, node: &Node<'_>, given: &Dims) -> Dims {
    let scales = scales_of(graph, node).filter(|_| node.attribute("axes").is_none());
    let size = |(axis, &dim): (usize, &Option<usize>)| {
        let len = (dim? as f64 * scales.as_ref()?.get(axis)?).floor();
        (0.0..268_435_456.0).contains(&len).then_some(len as usize)
    };
    given.iter().enumerate().map(size).collect()
}

/// The shape of an elementwise operation of two.
pub(super) fn broadcast(left: &Dims, right: &Dims) -> Option<Dims> {
    let rank = left.len().max(right.len());
    let dim = |dims: &Dims, axis: usize| (axis + dims.len()).checked_sub(rank).map_or(Some(1), |axis| dims[axis]);
    (0..rank)
        .map(|axis| match (dim(left, axis), dim(right, axis)) {
            (Some(1), other) | (other, Some(1)) => Some(other),
            (Some(left), Some(right)) => (left == right).then_some(Some(left)),
            (known, None) | (None, known) => Some(known),
        })
        .collect()
}

fn multiplied(left: &Dims, right: &Dims) -> Option<Dims> {
    if left.len() < 2 || right.len() < 2 {
        return None;
    }
    let (left_batch, right_batch) = (left[..left.len() - 2].to_vec(), right[..right.len() - 2].to_vec());
    let mut dims = broadcast(&left_batch, &right_batch)?;
    dims.extend([left[left.len() - 2], right[right.len() - 1]]);
    Some(dims)
}

fn flattened(given: &Dims, axis: i64) -> Option<Dims> {
    let rank = i64::try_from(given.len()).ok()?;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&axis| axis <= given.len())?;
    let product = |dims: &[Option<usize>]| match dims {
        [one] => *one,
        dims => dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim?)),
    };
    Some(vec![product(&given[..axis]), product(&given[axis..])])
}
