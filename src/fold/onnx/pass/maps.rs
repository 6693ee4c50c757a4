//! Which nodes are per-channel maps.

use crate::fold::{Affine, BatchNormParams, Refusal};

use super::super::{
    constants::NotConstant,
    graph::Graph,
    node::{Node, NodeId, ValueId},
    shapes::Shapes,
    tensor::{ElementType, Tensor},
};

/// A map of each channel on its own, and on which axis the channels are.
#[derive(Debug, Clone)]
pub(super) struct Map {
    /// Of one channel where `is_uniform`, which then stands for all of them.
    pub(super) affine: Affine,
    pub(super) is_uniform: bool,
    /// Means nothing where `is_uniform`.
    pub(super) axis: usize,
}

impl Map {
    /// The map of so many channels, if it is one.
    pub(super) fn of_channels(&self, channels: usize) -> Affine {
        if self.is_uniform { self.affine.gather(std::iter::repeat_n(0, channels)) } else { self.affine.clone() }
    }

    pub(super) fn then(&self, next: &Self) -> Result<Self, Refusal> {
        let (first, second) = match (self.is_uniform, next.is_uniform) {
            (false, true) => (self.affine.clone(), next.of_channels(self.affine.channels())),
            (true, false) => (self.of_channels(next.affine.channels()), next.affine.clone()),
            _ => (self.affine.clone(), next.affine.clone()),
        };
        let axis = if self.is_uniform { next.axis } else { self.axis };
        if !self.is_uniform && !next.is_uniform && self.axis != next.axis {
            let layer = "the map before it".to_owned();
            return Err(Refusal::Axis { layer, axis: next.axis, layer_axis: self.axis });
        }
        Ok(Self { affine: first.then(&second)?, is_uniform: self.is_uniform && next.is_uniform, axis })
    }

    pub(super) fn with(&self, affine: Affine) -> Self {
        Self { affine, ..*self }
    }

    pub(super) fn is_scale(&self) -> bool {
        self.affine.intercepts().all(|shift| shift == 0.0)
    }

    pub(super) fn is_shift(&self) -> bool {
        self.affine.scale().iter().all(|&scale| scale == 1.0)
    }
}

/// A node that is a per-channel map.
#[derive(Debug, Clone)]
pub(super) struct MapNode {
    pub(super) data: ValueId,
    pub(super) output: ValueId,
    pub(super) map: Map,
    pub(super) is_batch_norm: bool,
    /// The shape of the constant of an addition, multiplication and so on.
    pub(super) dims: Vec<usize>,
    /// The type of its constant.
    pub(super) element: ElementType,
}

/// The map that a node is. `None` where it is none; a refusal where it is a `BatchNormalization` that is not to be taken
/// for one.
pub(super) fn map_of(graph: &Graph<'_>, shapes: &Shapes, id: NodeId) -> Result<Option<MapNode>, Refusal> {
    let node = graph.node(id);
    if node.is(&["BatchNormalization"]) {
        batch_norm(graph, id).map(Some)
    } else if node.is(&["Mul", "Add", "Sub", "Div"]) && !node.is_left() && graph.opset >= 6 {
        Ok(arithmetic(graph, shapes, node))
    } else {
        Ok(None)
    }
}

/// A constant that a fold needs, or why it cannot be had.
pub(super) fn needed<'m>(graph: &Graph<'m>, value: ValueId) -> Result<Tensor<'m>, Refusal> {
    let name = || graph.value(value).name.to_string();
    graph.constant(value).map_err(|reason| match reason {
        NotConstant::Computed => Refusal::NotConstant { value: name() },
        NotConstant::Overridable => Refusal::Overridable { value: name() },
        NotConstant::Unreadable(error) => Refusal::Unreadable { value: name(), reason: error.to_string() },
    })
}

/// The tensors of `scale`, `B`, `mean` and `var` of a `BatchNormalization` that is in inference mode.
pub(in crate::fold::onnx) fn batch_norm_tensors<'m>(graph: &Graph<'m>, id: NodeId) -> Result<[Tensor<'m>; 4], Refusal> {
    let node = graph.node(id);
    let invalid = |what: &str| Refusal::Invalid { node: graph.label(id), what: what.to_owned() };
    let input = |slot: usize| {
        let value = node.input(slot).ok_or_else(|| invalid("it has fewer than five inputs"))?;
        needed(graph, value)
    };
    Ok([input(1)?, input(2)?, input(3)?, input(4)?])
}

/// `epsilon` is stored as an f32, and so is the standard's default.
pub(in crate::fold::onnx) fn epsilon(node: &Node<'_>) -> f64 {
    f64::from(node.float("epsilon", 1e-5))
}

fn batch_norm(graph: &Graph<'_>, id: NodeId) -> Result<MapNode, Refusal> {
    let node = graph.node(id);
    let invalid = |what: &str| Refusal::Invalid { node: graph.label(id), what: what.to_owned() };
    if graph.opset < 6 {
        return Err(Refusal::Version { version: graph.opset });
    }
    // Until opset 6 it said whether it was in inference mode, from 14 on it says the contrary.
    let in_training = if graph.opset < 7 { node.int("is_test", 0) == 0 } else { node.int("training_mode", 0) != 0 };
    if in_training || !node.has_one_output() {
        return Err(Refusal::TrainingMode);
    }
    if graph.opset < 9 && node.int("spatial", 1) == 0 {
        return Err(Refusal::PerElement);
    }
    let data = node.input(0).ok_or_else(|| invalid("it has no input"))?;
    let output = node.output().ok_or_else(|| invalid("it has no output"))?;
    let [weight, bias, mean, var] = batch_norm_tensors(graph, id)?;
    let numbers = |tensor: &'_ Tensor<'_>, slot: usize| {
        let value = || node.input(slot).map(|value| graph.value(value).name.to_string()).unwrap_or_default();
        tensor
            .values()
            .is_some()
            .then_some(())
            .ok_or_else(|| Refusal::ElementType { value: value(), found: tensor.element.name() })
    };
    for (slot, tensor) in [&weight, &bias, &mean, &var].into_iter().enumerate() {
        numbers(tensor, slot + 1)?;
        if tensor.dims.len() != 1 {
            return Err(invalid("its parameters are not of one axis"));
        }
    }
    let element = weight.element;
    let (Some(weight), Some(bias), Some(mean), Some(var)) =
        (weight.values(), bias.values(), mean.values(), var.values())
    else {
        return Err(invalid("its parameters are not floating-point"));
    };
    let affine = BatchNormParams::new(mean, var, epsilon(node)).weight(weight).bias(bias).affine()?;
    let map = Map { affine, is_uniform: false, axis: 1 };
    Ok(MapNode { data, output, map, is_batch_norm: true, dims: Vec::new(), element })
}

/// An addition and so on of a constant that is the same along every axis but perhaps one.
fn arithmetic(graph: &Graph<'_>, shapes: &Shapes, node: &Node<'_>) -> Option<MapNode> {
    let (left, right) = (node.input(0)?, node.input(1)?);
    let (data, constant, is_first) = match (graph.is_constant(left), graph.is_constant(right)) {
        (false, true) => (left, right, false),
        (true, false) if graph.opset >= 7 => (right, left, true),
        _ => return None,
    };
    let output = node.output()?;
    let tensor = graph.constant(constant).ok()?;
    let (axis, is_uniform) = channel_axis(graph, shapes, node, data, &tensor.dims)?;
    // An axis of length 1 would be repeated.
    if !is_uniform && shapes.dim(data, axis).is_some_and(|len| len != tensor.len()) {
        return None;
    }
    let values = tensor.values()?;
    let affine = match node.op {
        "Mul" => Affine::from_scale(values),
        "Add" => Affine::from_shift(values),
        "Sub" if is_first => {
            let minus = vec![-1.0; tensor.len()];
            Affine::from_scale(&minus).and_then(|minus| minus.then(&Affine::from_shift(values)?))
        }
        "Sub" => Affine::from_shift(&values.to_vec().into_iter().map(|value| -value).collect::<Vec<_>>()),
        "Div" if !is_first => Affine::from_scale(&values.to_vec().into_iter().map(f64::recip).collect::<Vec<_>>()),
        _ => return None,
    };
    let map = Map { affine: affine.ok()?, is_uniform, axis };
    let element = tensor.element;
    Some(MapNode { data, output, map, is_batch_norm: false, dims: tensor.dims, element })
}

/// On which axis of the data the constant varies, and whether on none.
fn channel_axis(
    graph: &Graph<'_>,
    shapes: &Shapes,
    node: &Node<'_>,
    data: ValueId,
    dims: &[usize],
) -> Option<(usize, bool)> {
    if dims.contains(&0) {
        return None;
    }
    let varying: Vec<_> = (0..dims.len()).filter(|&axis| dims[axis] != 1).collect();
    // Where the first axis of the constant lies in the data.
    let first = |rank: usize| {
        if graph.opset >= 7 {
            return rank.checked_sub(dims.len());
        }
        // Until opset 6 broadcasting had to be asked for, and could begin at any axis.
        let broadcasts = node.int("broadcast", 0) != 0;
        match (broadcasts, node.attribute("axis").and_then(|attribute| attribute.i)) {
            (true, Some(axis)) => usize::try_from(axis).ok().filter(|axis| axis + dims.len() <= rank),
            (true, None) => rank.checked_sub(dims.len()),
            (false, _) => (rank == dims.len()).then_some(0),
        }
    };
    match (varying[..].first(), varying.len(), shapes.rank(data)) {
        // One number goes with everything, but a constant of more axes would give the result more.
        (None, _, rank) if rank.map_or(dims.len() <= 1, |rank| dims.len() <= rank) => Some((0, true)),
        (Some(axis), 1, Some(rank)) => Some((first(rank)? + axis, false)),
        _ => None,
    }
}
