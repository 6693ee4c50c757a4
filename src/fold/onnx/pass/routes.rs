//! From a map to the layers that can absorb it, through operators that a map of channels commutes with.

use crate::fold::{Affine, Refusal, Side, absorb::check_shift};

use super::{
    super::{
        constants::{axis_of, permutation, reduced_axes},
        graph::Graph,
        node::{Node, NodeId, ValueId},
        shapes::{Dims, scales_of},
    },
    Pass,
    layers::{Linear, layer_of},
    maps::Map,
};

/// How many operators may lie between a map and a layer.
const LONGEST: usize = 32;

/// How many readers of a value a refusal names, as each of them may have one.
const MOST_READERS: usize = 16;

/// A layer that a map arrives at, and what the map has become on the way.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) layer: NodeId,
    pub(super) side: Side,
    pub(super) affine: Affine,
    /// Whether the layer is to be copied, as others read its output.
    pub(super) copies: bool,
}

/// The layers that together absorb a map, and the values on the way, which are then no longer what they were.
#[derive(Debug, Clone, Default)]
pub(super) struct Route {
    pub(super) landings: Vec<Landing>,
    pub(super) inside: Vec<ValueId>,
}

/// The channels that a map may get on the way, as a shape alone may say how many these are.
const MOST_CHANNELS: usize = if cfg!(fuzzing) { 1 << 12 } else { 1 << 22 };

/// Operators that change neither a channel's place nor what a map does to it.
const NEUTRAL: [&str; 1] = ["Identity"];

impl Pass<'_> {
    /// The layers before a map that together can absorb it.
    pub(super) fn routes_back(&self, value: ValueId, map: &Map, reader: NodeId) -> Result<Route, Refusal> {
        let mut route = Route::default();
        self.back(value, map, reader, 0, &mut route)?;
        Ok(route)
    }

    fn back(&self, value: ValueId, map: &Map, reader: NodeId, depth: usize, route: &mut Route) -> Result<(), Refusal> {
        route.inside.push(value);
        let name = || self.graph.value(value).name.to_string();
        let Some((producer, slot)) = self.graph.value(value).producer else {
            return Err(Refusal::BehindInput { value: name() });
        };
        let node = self.graph.node(producer);
        let behind = || Refusal::Behind { node: self.graph.label(producer), op: node.op.to_owned() };
        let shared = self.check_unshared(value, reader);
        if let Some(linear) = self.layer(producer)? {
            let copies = match shared {
                Ok(()) => false,
                // A copy of what others read has its own output.
                Err(_) if self.options.duplicate_shared && depth == 0 && node.has_one_output() => true,
                Err(refusal) => return Err(refusal),
            };
            let affine = self.land(producer, map, linear.output_axis, linear.channels(Side::After), Side::After)?;
            if self.moves_an_addition(producer, &linear, map) {
                return Err(behind());
            }
            route.landings.push(Landing { layer: producer, side: Side::After, affine, copies });
            return Ok(());
        }
        shared?;
        if depth == LONGEST || slot != 0 || !node.has_one_output() {
            return Err(behind());
        }
        if node.is(&["Concat"]) {
            return self.back_through_concat(producer, map, depth, route);
        }
        if node.is(&["Add", "Sum"]) && !node.inputs.iter().flatten().any(|&input| self.graph.is_constant(input)) {
            return self.back_through_sum(producer, map, depth, route);
        }
        let data = node.input(0).ok_or_else(behind)?;
        let given = self.through(node, value, data, map, Side::Before).ok_or_else(behind)?;
        self.back(data, &given, producer, depth + 1, route)
    }

    /// A map of the concatenation is one of each part.
    fn back_through_concat(&self, concat: NodeId, map: &Map, depth: usize, route: &mut Route) -> Result<(), Refusal> {
        let node = self.graph.node(concat);
        let inputs: Vec<_> = node.inputs.iter().flatten().copied().collect();
        let unknown = |value: ValueId| Refusal::UnknownShape { value: self.graph.value(value).name.to_string() };
        let mut start = 0;
        for &input in &inputs {
            let rank = self.shapes.rank(input).ok_or_else(|| unknown(input))?;
            let splits = !map.is_uniform && axis_of(node.int("axis", 1), rank) == Some(map.axis);
            let part = if splits {
                let len = self.shapes.dim(input, map.axis).ok_or_else(|| unknown(input))?;
                let end = start + len;
                if end > map.affine.channels() {
                    return Err(unknown(input));
                }
                let part = map.with(map.affine.gather(start..end));
                start = end;
                part
            } else {
                map.clone()
            };
            self.back(input, &part, concat, depth + 1, route)?;
        }
        Ok(())
    }

    /// Each term is scaled, and one of them shifted.
    fn back_through_sum(&self, sum: NodeId, map: &Map, depth: usize, route: &mut Route) -> Result<(), Refusal> {
        let node = self.graph.node(sum);
        let behind = || Refusal::Behind { node: self.graph.label(sum), op: node.op.to_owned() };
        let inputs: Vec<_> = node.inputs.iter().flatten().copied().collect();
        // A term that is broadcast would count more than once.
        let shape = |value: ValueId| self.shapes.get(value).filter(|dims| dims.iter().skip(1).all(Option::is_some));
        let first = shape(*inputs.first().ok_or_else(behind)?).ok_or_else(behind)?;
        if !inputs.iter().all(|&input| shape(input) == Some(first)) {
            return Err(behind());
        }
        let scale = map.with(map.affine.without_shift());
        for (index, &input) in inputs.iter().enumerate() {
            self.back(input, if index == 0 { map } else { &scale }, sum, depth + 1, route)?;
        }
        Ok(())
    }

    /// The layers behind a map that together can absorb it.
    pub(super) fn routes_forth(&self, value: ValueId, map: &Map) -> Result<Route, Refusal> {
        let mut route = Route::default();
        self.forth(value, map, 0, &mut route)?;
        Ok(route)
    }

    fn forth(&self, value: ValueId, map: &Map, depth: usize, route: &mut Route) -> Result<(), Refusal> {
        route.inside.push(value);
        self.check_inner(value)?;
        let of = self.graph.value(value);
        for &(user, slot) in &of.uses {
            let node = self.graph.node(user);
            let before = || Refusal::Behind { node: self.graph.label(user), op: node.op.to_owned() };
            if slot != 0 || depth == LONGEST {
                return Err(before());
            }
            if let Some(linear) = self.layer(user)? {
                if self.moves_an_addition(user, &linear, map) {
                    return Err(before());
                }
                let affine = self.land(user, map, linear.input_axis, linear.channels(Side::Before), Side::Before)?;
                let layer = || Some(self.graph.label(user));
                check_shift(linear.layer, &affine, linear.padding)
                    .map_err(|error| Refusal::Arrays { layer: layer(), error })?;
                route.landings.push(Landing { layer: user, side: Side::Before, affine, copies: false });
                continue;
            }
            let output = node.output().filter(|_| node.has_one_output()).ok_or_else(before)?;
            let given = self.through(node, value, output, map, Side::After).ok_or_else(before)?;
            self.forth(output, &given, depth + 1, route)?;
        }
        if of.uses.is_empty() { Err(Refusal::BehindInput { value: of.name.to_string() }) } else { Ok(()) }
    }

    /// That a value is known to the nodes of its own graph alone.
    fn check_inner(&self, value: ValueId) -> Result<(), Refusal> {
        let of = self.graph.value(value);
        match () {
            () if of.is_output => Err(Refusal::IsOutput { value: of.name.to_string() }),
            () if of.is_captured => Err(Refusal::IsCaptured { value: of.name.to_string() }),
            () => Ok(()),
        }
    }

    /// That nobody but `reader` reads a value, once.
    pub(super) fn check_unshared(&self, value: ValueId, reader: NodeId) -> Result<(), Refusal> {
        self.check_inner(value)?;
        let of = self.graph.value(value);
        if of.uses.len() > 1 {
            let others = || of.uses.iter().filter(|&&(user, _)| user != reader);
            let mut readers: Vec<_> = others().take(MOST_READERS).map(|&(user, _)| self.graph.label(user)).collect();
            match others().count().saturating_sub(MOST_READERS) {
                0 => {}
                more => readers.push(format!("{more} more")),
            }
            if readers.is_empty() {
                readers.push(self.graph.label(reader));
            }
            return Err(Refusal::ReadElsewhere { value: of.name.to_string(), readers });
        }
        Ok(())
    }

    /// What the map is at a layer, whose channels must be those of the map.
    fn land(&self, layer: NodeId, map: &Map, axis: usize, channels: usize, side: Side) -> Result<Affine, Refusal> {
        if !map.is_uniform && map.axis != axis {
            return Err(Refusal::Axis { layer: self.graph.label(layer), axis: map.axis, layer_axis: axis });
        }
        let affine = map.of_channels(channels);
        if affine.channels() == channels {
            Ok(affine)
        } else {
            let error = crate::fold::FoldError::ChannelMismatch { side, found: affine.channels(), expected: channels };
            Err(Refusal::Arrays { layer: Some(self.graph.label(layer)), error })
        }
    }

    /// The layer that a node is, with what it has absorbed.
    pub(super) fn layer(&self, id: NodeId) -> Result<Option<std::borrow::Cow<'_, Linear<'_>>>, Refusal> {
        match self.layers.get(&id) {
            Some(linear) => Ok(Some(std::borrow::Cow::Borrowed(linear))),
            None => Ok(layer_of(&self.graph, &self.shapes, id)?.map(std::borrow::Cow::Owned)),
        }
    }

    /// Moves a map from one side of a node, where `from` is, to the other, where `to` is. `to_side` is which side of the
    /// node that is. `None` where the node does not commute with it.
    fn through(&self, node: &Node<'_>, from: ValueId, to: ValueId, map: &Map, to_side: Side) -> Option<Map> {
        if !node.is_standard() {
            return None;
        }
        match node.op {
            op if NEUTRAL.contains(&op) => Some(map.clone()),
            "Dropout" if drops_nothing(&self.graph, node) => Some(map.clone()),
            "Transpose" => self.through_transpose(node, from, map, to_side),
            "AveragePool" => averages(node, map).then(|| map.clone()),
            "GlobalAveragePool" => (map.is_uniform || map.axis == 1).then(|| map.clone()),
            "ReduceMean" => self.through_mean(node, map),
            // The largest stays the largest unless a scale is negative.
            "MaxPool" | "GlobalMaxPool" => {
                let keeps_order = map.affine.scale().iter().all(|&scale| scale >= 0.0);
                (keeps_order && (map.is_uniform || map.axis == 1)).then(|| map.clone())
            }
            "Resize" | "Upsample" => self.resizes_only_space(node, from, map).then(|| map.clone()),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
                let (from, to) = (self.shapes.get(from)?, self.shapes.get(to)?);
                reshape(map, from, to, to_side)
            }
            "DepthToSpace" if to_side == Side::Before => depth_to_space(node, map),
            _ => None,
        }
    }

    fn through_transpose(&self, node: &Node<'_>, from: ValueId, map: &Map, to_side: Side) -> Option<Map> {
        let perm =
            permutation(node.ints("perm"), self.shapes.rank(from).or_else(|| node.ints("perm").map(<[i64]>::len))?)?;
        let axis = match to_side {
            Side::Before => *perm.get(map.axis)?,
            Side::After => perm.iter().position(|&axis| axis == map.axis)?,
        };
        Some(Map { axis, ..map.clone() })
    }

    fn through_mean(&self, node: &Node<'_>, map: &Map) -> Option<Map> {
        if map.is_uniform {
            return Some(map.clone());
        }
        let named = match node.input(1) {
            Some(axes) => Some(self.graph.constant(axes).ok()?.ints()?),
            None => node.ints("axes").map(<[i64]>::to_vec),
        };
        let axes = reduced_axes(node, named.as_deref(), self.shapes.rank(node.input(0)?)?)?;
        let keeps_place = node.int("keepdims", 1) != 0 || axes.iter().all(|&axis| axis > map.axis);
        (keeps_place && !axes.contains(&map.axis)).then(|| map.clone())
    }

    /// Whether every result of a resize is an average of values of one channel.
    fn resizes_only_space(&self, node: &Node<'_>, data: ValueId, map: &Map) -> bool {
        let linear = matches!(node.text("mode"), None | Some("nearest" | "linear"));
        let within = node.text("coordinate_transformation_mode") != Some("tf_crop_and_resize");
        let keeps_channels = scales_of(&self.graph, node).is_some_and(|scales| match node.ints("axes") {
            None => scales.get(map.axis) == Some(&1.0),
            Some(axes) => {
                let rank = self.shapes.rank(data);
                let axes =
                    rank.and_then(|rank| axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<Vec<_>>>());
                axes.is_some_and(|axes| {
                    axes.iter().zip(&scales).all(|(&axis, &scale)| axis != map.axis || scale == 1.0)
                })
            }
        });
        linear && within && (map.is_uniform || keeps_channels)
    }

    /// Whether all that comes of a fold is an addition behind a `MatMul` instead of one elsewhere.
    fn moves_an_addition(&self, layer: NodeId, linear: &Linear<'_>, map: &Map) -> bool {
        let adds_a_node = self.graph.node(layer).op == "MatMul" && !self.becomes_gemm(layer);
        adds_a_node && linear.after.is_none() && map.is_shift()
    }

    /// Whether a `MatMul` with a bias can be a `Gemm`.
    pub(super) fn becomes_gemm(&self, id: NodeId) -> bool {
        let data = self.graph.node(id).input(0);
        self.graph.opset >= 7 && data.and_then(|data| self.shapes.rank(data)) == Some(2)
    }
}

/// Whether a `Dropout` is one at inference.
pub(super) fn drops_nothing(graph: &Graph<'_>, node: &Node<'_>) -> bool {
    if graph.opset < 7 {
        return node.int("is_test", 0) != 0;
    }
    let Some(mode) = node.input(2) else { return true };
    let is_false = |tensor: super::super::tensor::Tensor<'_>| tensor.data.iter().all(|&byte| byte == 0);
    graph.constant(mode).is_ok_and(is_false)
}

/// Whether zeros that pad an average would be missed by the map.
fn averages(node: &Node<'_>, map: &Map) -> bool {
    if !map.is_uniform && map.axis != 1 {
        return false;
    }
    let counts_padding = node.int("count_include_pad", 0) != 0;
    let may_pad = node.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad != 0))
        || matches!(node.text("auto_pad"), Some("SAME_UPPER" | "SAME_LOWER"))
        || node.int("ceil_mode", 0) != 0;
    map.is_scale() || !counts_padding || !may_pad
}

/// Through a change of shape that keeps the axis of the channels, or on the way forward merges it with those behind it.
fn reshape(map: &Map, from: &Dims, to: &Dims, to_side: Side) -> Option<Map> {
    if map.is_uniform {
        return Some(map.clone());
    }
    let channels = map.affine.channels();
    let product = |dims: &[Option<usize>]| dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim?));
    let behind = product(from.get(map.axis + 1..)?)?;
    let is_same_batch = |axis: usize| {
        let (given, wanted) = (&from[..map.axis], &to[..axis]);
        // An open first axis is the same in both, since all that lies behind it is.
        matches!((given, wanted), ([None, given @ ..], [None, wanted @ ..]) if product(given).is_some() && product(given) == product(wanted))
            || product(given).is_some() && product(given) == product(wanted)
    };
    (1..to.len()).filter(|&axis| is_same_batch(axis)).find_map(|axis| {
        let (len, behind_it) = (to[axis]?, product(&to[axis + 1..])?);
        let merged = len.checked_div(channels)?;
        let fits = merged.checked_mul(channels) == Some(len) && merged.checked_mul(behind_it) == Some(behind);
        match (merged, to_side) {
            (1, _) if fits => Some(Map { axis, ..map.clone() }),
            (_, Side::After) if fits && len <= MOST_CHANNELS => {
                Some(Map { axis, ..map.with(map.affine.gather((0..len).map(|index| index / merged))) })
            }
            _ => None,
        }
    })
}

/// Several input channels become one output channel, so each has that one's map.
fn depth_to_space(node: &Node<'_>, map: &Map) -> Option<Map> {
    if map.is_uniform {
        return Some(map.clone());
    }
    let block = usize::try_from(node.int("blocksize", 0)).ok()?;
    let blocks = block.checked_mul(block).filter(|&blocks| blocks > 0 && blocks < 1 << 16)?;
    let channels = map.affine.channels();
    let inputs = channels.checked_mul(blocks).filter(|&inputs| inputs <= MOST_CHANNELS)?;
    let by_column = node.text("mode") == Some("CRD");
    let output_of = |input: usize| if by_column { input / blocks } else { input % channels };
    (map.axis == 1).then(|| map.with(map.affine.gather((0..inputs).map(output_of))))
}
