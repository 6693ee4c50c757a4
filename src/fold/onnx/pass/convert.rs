//! The folded model in another type of elements: `--dtype`.
//!
//! What the fold has computed is in that type already, rounded once. Here the other constants follow, and operators compute
//! in the type where the standard lets them. The model's inputs and outputs keep theirs; where the types meet, a `Cast` is
//! set. If the layers themselves do not know the type (bf16 before opset 22), their weights are stored in it, and
//! everything is computed in the type that it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    element::DType,
    fold::{
        models::{Conversion, ModelError},
        rounding::fits,
    },
};

use super::{
    super::{
        node::{Node, NodeId, Setting, ValueId},
        shapes::stated_type,
        tensor::{ElementType, Tensor, TensorHeader},
    },
    Contents, Edits, Pass, Payload,
};

/// No opset.
const NEVER: i64 = 1_000_000_000;
/// Every input.
const ALL: u32 = u32::MAX;
/// The first input.
const DATA: u32 = 1;
/// From which opset on there are casts to a type, as they are understood here.
const fn casts_since(dtype: DType) -> i64 {
    match dtype {
        DType::F32 | DType::F16 => 6,
        DType::Bf16 => 13,
    }
}

/// The operators that compute in any floating-point type: which of their inputs are of it, a bit for each, and from which
/// opset on it may be bf16. f16 is known to all of them.
const OPERATORS: [(&str, u32, i64); 82] = [
    ("Abs", ALL, 13),
    ("Add", ALL, 13),
    ("AveragePool", ALL, 22),
    ("BatchNormalization", 0b111, 14),
    ("Ceil", ALL, 13),
    ("Clip", ALL, 13),
    ("Concat", ALL, 13),
    ("Conv", ALL, 22),
    ("ConvTranspose", ALL, 22),
    ("Cos", ALL, 22),
    ("DepthToSpace", ALL, 13),
    ("Div", ALL, 13),
    ("Dropout", DATA, 13),
    ("Einsum", ALL, 28),
    ("Elu", ALL, 22),
    ("Erf", ALL, 13),
    ("Exp", ALL, 13),
    ("Expand", DATA, 13),
    ("Flatten", ALL, 13),
    ("Floor", ALL, 13),
    ("Gather", DATA, 13),
    ("Gelu", ALL, 20),
    ("Gemm", ALL, 13),
    ("GlobalAveragePool", ALL, 22),
    ("GlobalMaxPool", ALL, 22),
    ("GroupNormalization", ALL, 18),
    ("HardSigmoid", ALL, 22),
    ("HardSwish", ALL, 22),
    ("Identity", ALL, 13),
    ("InstanceNormalization", ALL, 22),
    ("LRN", ALL, 13),
    ("LayerNormalization", ALL, 17),
    ("LeakyRelu", ALL, 16),
    ("Log", ALL, 13),
    ("LogSoftmax", ALL, 13),
    ("LpNormalization", ALL, 22),
    ("LpPool", ALL, 22),
    ("MatMul", ALL, 13),
    ("Max", ALL, 13),
    ("MaxPool", ALL, 22),
    ("Mean", ALL, 13),
    ("Min", ALL, 13),
    ("Mish", ALL, 22),
    ("Mul", ALL, 13),
    ("Neg", ALL, 13),
    ("PRelu", ALL, 16),
    ("Pad", 0b101, 13),
    ("Pow", ALL, 15),
    ("RMSNormalization", ALL, 23),
    ("Reciprocal", ALL, 13),
    ("ReduceL1", DATA, 13),
    ("ReduceL2", DATA, 13),
    ("ReduceLogSumExp", DATA, 13),
    ("ReduceMax", DATA, 13),
    ("ReduceMean", DATA, 13),
    ("ReduceMin", DATA, 13),
    ("ReduceProd", DATA, 13),
    ("ReduceSum", DATA, 13),
    ("ReduceSumSquare", DATA, 13),
    ("Relu", ALL, 13),
    ("Reshape", DATA, 13),
    ("Resize", DATA, 13),
    ("Selu", ALL, 22),
    ("Sigmoid", ALL, 13),
    ("Sign", ALL, 13),
    ("Sin", ALL, 22),
    ("Slice", DATA, 13),
    ("Softmax", ALL, 13),
    ("Softplus", ALL, 22),
    ("Softsign", ALL, 22),
    ("SpaceToDepth", ALL, 13),
    ("Split", DATA, 13),
    ("Sqrt", ALL, 13),
    ("Squeeze", DATA, 13),
    ("Sub", ALL, 13),
    ("Sum", ALL, 13),
    ("Tanh", ALL, 13),
    ("Tile", DATA, 13),
    ("Transpose", ALL, 13),
    ("Unsqueeze", DATA, 13),
    ("Upsample", DATA, NEVER),
    ("Where", 0b110, 16),
];

/// Those whose weights make up a model.
const LAYERS: [&str; 4] = ["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// What sizes are computed with, besides casts.
const ARITHMETIC: [&str; 18] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Floor",
    "Ceil",
    "Max",
    "Min",
    "Reciprocal",
    "Sqrt",
    "Pow",
    "Concat",
    "Slice",
    "Gather",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Reshape",
];

/// In which type a node takes an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// In whichever it is.
    Any,
    /// In the new one.
    Goal,
    /// In that which it was of; what is new, in that which the node computes in.
    AsBefore(Option<ElementType>),
}

/// Whether it is a type that a model may be converted from or to.
const fn is_float(element: ElementType) -> bool {
    element.dtype().is_some()
}

/// Which inputs of a node are of the type that it computes in, and from which opset on that may be bf16. `None` where it
/// is not known to compute in more than one.
fn operator(node: &Node<'_>, opset: i64) -> Option<(u32, i64)> {
    let index = OPERATORS.binary_search_by_key(&node.op, |&(op, ..)| op).ok().filter(|_| node.is_standard())?;
    let (op, slots, bf16) = OPERATORS[index];
    // Statistics have had a type of their own since opset 14.
    let slots = if op == "BatchNormalization" && opset < 14 { ALL } else { slots };
    Some((slots, bf16))
}

fn takes(slots: u32, slot: usize) -> bool {
    slot >= 32 && slots == ALL || slot < 32 && slots >> slot & 1 != 0
}

/// The conversion of one graph.
struct Converter<'p, 'm> {
    pass: &'p mut Pass<'m>,
    edits: &'p mut Edits,
    goal: ElementType,
    /// What each value was before, where that is known.
    own: Vec<Option<ElementType>>,
    /// What each value is now.
    now: Vec<Option<ElementType>>,
    /// The nodes that compute in the type.
    converted: BTreeSet<NodeId>,
    /// Values by what they are a copy of, and in which type.
    copies: BTreeMap<(ValueId, i64), ValueId>,
    /// What has lost a reader.
    released: Vec<ValueId>,
    casts: usize,
}

impl<'m> Pass<'m> {
    /// The type that all is to be stored in, if it is to be one.
    pub(in crate::fold::onnx) const fn dtype(&self) -> Option<DType> {
        self.options.dtype
    }

    /// The element type that a tensor of this one is to be stored in.
    pub(in crate::fold::onnx) fn stored(&self, element: ElementType) -> ElementType {
        match self.options.dtype {
            Some(dtype) if is_float(element) => ElementType::from(dtype),
            _ => element,
        }
    }

    /// Brings what the fold has left into another type.
    pub(super) fn convert(&mut self, edits: &mut Edits, dtype: DType) -> Result<Conversion, ModelError> {
        let opset = self.graph.opset;
        let known = casts_since(dtype);
        if opset < known {
            return Err(ModelError::Unconvertible { dtype, opset, known });
        }
        let order = self.graph.order();
        let own = self.types(&order, edits);
        let mut now = own.clone();
        for (value, payload) in edits.tensors() {
            now[value.0] = Some(payload.element);
        }
        let mut converter = Converter {
            pass: self,
            edits,
            goal: ElementType::from(dtype),
            own,
            now,
            converted: BTreeSet::new(),
            copies: BTreeMap::new(),
            released: Vec::new(),
            casts: 0,
        };
        let stored_only = converter.lacking(&order);
        match &stored_only {
            Some(_) => converter.store_weights(&order),
            None => converter.choose(&order),
        }
        for id in order {
            converter.rewire(id);
        }
        let Converter { converted, released, own, goal, casts, .. } = converter;
        self.drop_unused(released, edits);
        let is_new = |(value, payload): (&ValueId, &Payload)| payload.element == goal && own[value.0] != Some(goal);
        let tensors = edits.tensors().filter(|&tensor| is_new(tensor)).count();
        Ok(Conversion { dtype, tensors, nodes: converted.len(), casts, stored_only })
    }

    /// The element types of values, as far as they can be told.
    fn types(&self, order: &[NodeId], edits: &Edits) -> Vec<Option<ElementType>> {
        let graph = &self.graph;
        let mut types: Vec<_> = graph
            .values
            .iter()
            .map(|value| match (value.initializer, value.value_info) {
                (Some(message), _) => Some(TensorHeader::read(message).ok()?.element()),
                (None, Some(info)) => stated_type(info).ok().flatten().map(|(element, _)| element),
                (None, None) => None,
            })
            .collect();
        for (value, payload) in &edits.added {
            types[value.0] = Some(payload.own);
        }
        for &id in order {
            let node = graph.node(id);
            let made = match node.op {
                _ if !node.is_standard() => None,
                "Cast" => Some(ElementType::of(node.int("to", 0))),
                "Constant" | "ConstantOfShape" => {
                    match node.attribute("value").and_then(|attribute| attribute.tensor) {
                        Some(message) => TensorHeader::read(message).ok().map(|header| header.element()),
                        None if node.attribute("value_int").is_some() || node.attribute("value_ints").is_some() => {
                            Some(ElementType::I64)
                        }
                        None => Some(ElementType::F32),
                    }
                }
                "Upsample" => node.input(0).and_then(|value| types[value.0]),
                _ => operator(node, graph.opset).and_then(|(slots, _)| self.data_type(node, slots, &types)),
            };
            for output in node.outputs.iter().flatten().take(if node.op == "Split" { usize::MAX } else { 1 }) {
                types[output.0] = types[output.0].or(made);
            }
        }
        types
    }

    /// The type that a node computes in, as far as any of its inputs tells.
    fn data_type(&self, node: &Node<'_>, slots: u32, types: &[Option<ElementType>]) -> Option<ElementType> {
        let inputs = node.inputs.iter().enumerate().filter(|&(slot, _)| takes(slots, slot));
        inputs.filter_map(|(_, input)| *input).find_map(|value| types[value.0])
    }
}

impl Converter<'_, '_> {
    /// Why the layers cannot compute in the type, if they cannot.
    fn lacking(&self, order: &[NodeId]) -> Option<String> {
        let (graph, goal) = (&self.pass.graph, self.goal);
        let lacks = |&id: &NodeId| {
            let node = graph.node(id);
            let (slots, bf16) = operator(node, graph.opset).filter(|_| node.is(&LAYERS))?;
            let is_float = self.pass.data_type(node, slots, &self.own).is_some_and(is_float);
            (is_float && goal == ElementType::Bf16 && bf16 > graph.opset).then(|| {
                format!("{} is known in bf16 from opset {bf16} on, and the model uses {}", node.op, graph.opset)
            })
        };
        order.iter().find_map(lacks)
    }

    /// Chooses the nodes that compute in the type, and puts the constants that only they read into it.
    fn choose(&mut self, order: &[NodeId]) {
        let sizes = self.sizes(order);
        for &id in order {
            if !sizes.contains(&id) && self.can_compute(id) {
                self.converted.insert(id);
            }
        }
        for index in 0..self.own.len() {
            let value = ValueId(index);
            let of = self.pass.graph.value(value);
            let is_theirs = !of.is_output
                && !of.is_captured
                && !of.uses.is_empty()
                && of.uses.iter().all(|&(id, slot)| self.wish(id, slot) == Wish::Goal);
            if is_theirs && self.is_other_initializer(value) {
                self.convert_in_place(value);
            }
        }
    }

    /// The nodes that compute sizes, which must not be rounded.
    fn sizes(&self, order: &[NodeId]) -> BTreeSet<NodeId> {
        let graph = &self.pass.graph;
        let mut open = Vec::new();
        for &id in order {
            let node = graph.node(id);
            match node.op {
                "Cast" if !is_float(ElementType::of(node.int("to", 0))) => open.extend(node.input(0)),
                "Resize" | "Upsample" => open.extend(node.inputs.iter().skip(1).flatten()),
                _ => {}
            }
        }
        let mut sizes = BTreeSet::new();
        while let Some(value) = open.pop() {
            if let Some(id) = graph.producer(value)
                && (graph.node(id).is(&ARITHMETIC) || graph.node(id).is(&["Cast"]))
                && sizes.insert(id)
            {
                open.extend(graph.node(id).inputs.iter().flatten());
            }
        }
        sizes
    }

    fn can_compute(&self, id: NodeId) -> bool {
        let graph = &self.pass.graph;
        let node = graph.node(id);
        let Some((slots, bf16)) = operator(node, graph.opset) else { return false };
        let is_known = self.goal != ElementType::Bf16 || bf16 <= graph.opset;
        // What only gives a value another name, which is to stay as it was, has nothing to compute.
        let is_name = node.is(&["Identity", "Dropout"])
            && node
                .outputs
                .iter()
                .flatten()
                .map(|&output| graph.value(output))
                .any(|of| of.is_output || of.is_captured);
        let has_one_kind_of_output = node.has_one_output() || node.op == "Split";
        let mut inputs = node.inputs.iter().enumerate().filter(|&(slot, _)| takes(slots, slot));
        is_known
            && !is_name
            && has_one_kind_of_output
            && self.pass.data_type(node, slots, &self.own).is_some_and(is_float)
            && inputs.all(|(_, input)| input.is_none_or(|value| self.can_be_read(value)))
    }

    /// Whether a value may be read in the type: it is floating-point, and a constant fits.
    fn can_be_read(&self, value: ValueId) -> bool {
        if !self.now[value.0].is_some_and(is_float) {
            return false;
        }
        self.now[value.0] == Some(self.goal) || !self.is_stored(value) || self.fits(value)
    }

    fn fits(&self, value: ValueId) -> bool {
        let graph = &self.pass.graph;
        let Some(dtype) = self.goal.dtype() else { return false };
        graph.constant(value).is_ok_and(|tensor| {
            let size = tensor.element.size().unwrap_or(1);
            tensor.values().is_some_and(|values| {
                fits(&values, dtype, |seen| {
                    graph.externals.forget(&tensor.data[seen.start * size..seen.end * size]);
                })
            })
        })
    }

    /// Whether a value is an initializer that nobody may replace, or a node's constant.
    fn is_stored(&self, value: ValueId) -> bool {
        let graph = &self.pass.graph;
        let is_initializer = graph.value(value).initializer.is_some()
            && !graph.is_overridable(value)
            && !self.edits.replaced.contains_key(&value);
        is_initializer || graph.producer(value).is_some_and(|id| graph.node(id).is(&["Constant"]))
    }

    /// Whether it is an initializer of another floating-point type, as it is in the file.
    fn is_other_initializer(&self, value: ValueId) -> bool {
        let is_in_file = self.pass.graph.value(value).initializer.is_some() && self.is_stored(value);
        is_in_file && self.now[value.0].is_some_and(|now| is_float(now) && now != self.goal)
    }

    /// Stores the weights of layers in the type, as far as they fit.
    fn store_weights(&mut self, order: &[NodeId]) {
        for &id in order {
            let node = self.pass.graph.node(id);
            if !node.is(&LAYERS) {
                continue;
            }
            for slot in 1..node.inputs.len() {
                let Some(value) = self.pass.graph.node(id).input(slot) else { continue };
                let is_other = self.now[value.0].is_some_and(|now| is_float(now) && now != self.goal);
                if !is_other || !self.is_stored(value) || !self.fits(value) {
                    continue;
                }
                let of = self.pass.graph.value(value);
                let is_of_layers = of.uses.iter().all(|&(id, slot)| slot > 0 && self.pass.graph.node(id).is(&LAYERS));
                if self.is_other_initializer(value) && is_of_layers && !of.is_output && !of.is_captured {
                    self.convert_in_place(value);
                } else if let Some(copy) = self.constant_copy(value) {
                    self.set_input(id, slot, copy);
                }
            }
        }
    }

    fn convert_in_place(&mut self, value: ValueId) {
        let Some(Ok((dims, _))) = self.header(value).map(|header| header.shape()) else { return };
        let own = self.own[value.0].unwrap_or(self.goal);
        let payload = Payload { element: self.goal, own, dims, contents: Contents::Converted(value) };
        self.edits.replaced.insert(value, payload);
        self.now[value.0] = Some(self.goal);
    }

    fn header(&self, value: ValueId) -> Option<TensorHeader<'_>> {
        TensorHeader::read(self.pass.graph.value(value).initializer?).ok()
    }

    /// A new initializer with a constant's elements in the type.
    fn constant_copy(&mut self, value: ValueId) -> Option<ValueId> {
        if let Some(&copy) = self.copies.get(&(value, self.goal.code())) {
            return Some(copy);
        }
        let own = self.own[value.0].unwrap_or(self.goal);
        let payload = if self.is_other_initializer(value) {
            let (dims, _) = self.header(value)?.shape().ok()?;
            Payload { element: self.goal, own, dims, contents: Contents::Converted(value) }
        } else {
            let tensor = self.pass.graph.constant(value).ok()?;
            let bytes = encode(&tensor, self.goal)?;
            Payload { element: self.goal, own, dims: tensor.dims, contents: Contents::Bytes(bytes) }
        };
        let copy = self.new_value(value, self.goal);
        self.edits.added.push((copy, payload));
        Some(copy)
    }

    /// A value for what another one is in a given type.
    fn new_value(&mut self, of: ValueId, element: ElementType) -> ValueId {
        let name = format!("{}_{}", self.pass.graph.value(of).name, element.name());
        let copy = self.pass.graph.new_value(&name);
        self.own.push(self.own[of.0]);
        self.now.push(Some(element));
        self.copies.insert((of, element.code()), copy);
        copy
    }

    fn wish(&self, id: NodeId, slot: usize) -> Wish {
        let graph = &self.pass.graph;
        let node = graph.node(id);
        match operator(node, graph.opset) {
            Some((slots, _)) if takes(slots, slot) && self.converted.contains(&id) => Wish::Goal,
            Some((slots, _)) => Wish::AsBefore(self.pass.data_type(node, slots, &self.own)),
            None if node.is(&["Cast"]) => Wish::Any,
            None => Wish::AsBefore(None),
        }
    }

    /// Gives a node its inputs in the types that it takes, and others its outputs in theirs.
    fn rewire(&mut self, id: NodeId) {
        for slot in 0..self.pass.graph.node(id).inputs.len() {
            let Some(value) = self.pass.graph.node(id).input(slot) else { continue };
            let Some(now) = self.now[value.0].filter(|&now| is_float(now)) else { continue };
            let wanted = match self.wish(id, slot) {
                Wish::Any => now,
                Wish::Goal => self.goal,
                Wish::AsBefore(computed) => self.own[value.0].or(computed).unwrap_or(now),
            };
            if wanted != now {
                let copy = self.in_type(value, wanted);
                self.set_input(id, slot, copy);
            }
        }
        self.drop_needless_cast(id);
        if self.converted.contains(&id) {
            for slot in 0..self.pass.graph.node(id).outputs.len() {
                self.convert_output(id, slot);
            }
        }
    }

    /// Takes out a cast to what its input has become.
    fn drop_needless_cast(&mut self, id: NodeId) {
        let graph = &self.pass.graph;
        let node = graph.node(id);
        let (Some(input), Some(output)) = (node.input(0), node.output()) else { return };
        let of = graph.value(output);
        let is_needless = node.is(&["Cast"])
            && self.now[input.0] != self.own[input.0]
            && self.now[input.0] == Some(ElementType::of(node.int("to", 0)))
            && !of.is_output
            && !of.is_captured;
        if is_needless {
            self.pass.graph.remove_before(id, input, output);
            self.pass.twins.insert(output, input);
        }
    }

    fn set_input(&mut self, id: NodeId, slot: usize, value: ValueId) {
        self.released.extend(self.pass.graph.node(id).input(slot));
        self.pass.graph.set_input(id, slot, Some(value));
    }

    /// The value in a type: another one that is, or a new one.
    fn in_type(&mut self, value: ValueId, wanted: ElementType) -> ValueId {
        if let Some(&copy) = self.copies.get(&(value, wanted.code())) {
            return copy;
        }
        if wanted == self.goal
            && self.is_stored(value)
            && let Some(copy) = self.constant_copy(value)
        {
            return copy;
        }
        let graph = &self.pass.graph;
        let producer = graph.producer(value);
        if let Some(id) = producer
            && graph.node(id).is(&["Cast"])
            && let Some(before) = graph.node(id).input(0).filter(|before| self.now[before.0] == Some(wanted))
        {
            self.pass.twins.insert(value, before);
            return before;
        }
        let copy = self.new_value(value, wanted);
        self.cast(producer, value, copy, wanted);
        copy
    }

    /// A node's output is of the type from now on. Whoever needs it as it was has it by its name.
    fn convert_output(&mut self, id: NodeId, slot: usize) {
        let Some(&Some(output)) = self.pass.graph.node(id).outputs.get(slot) else { return };
        let Some(own) = self.own[output.0].filter(|&own| is_float(own) && own != self.goal) else { return };
        let of = self.pass.graph.value(output);
        if of.is_output || of.is_captured {
            let twin = self.new_value(output, self.goal);
            self.pass.graph.set_output(id, slot, twin);
            self.pass.twins.insert(output, twin);
            self.cast(Some(id), twin, output, own);
        } else {
            self.now[output.0] = Some(self.goal);
            self.edits.retyped.insert(output, self.goal);
        }
    }

    /// Adds the node that makes one value of another.
    fn cast(&mut self, behind: Option<NodeId>, from: ValueId, to: ValueId, element: ElementType) {
        let mut node = Node::new("Cast", vec![Some(from)], to);
        node.set("to", Setting::Int(element.code()));
        let graph = &self.pass.graph;
        node.rename(&graph.free_node_name(&format!("{}_cast", graph.value(to).name)));
        self.pass.graph.add_node_behind(behind, node);
        self.casts += 1;
    }
}

/// The elements of a tensor in another type.
fn encode(tensor: &Tensor<'_>, element: ElementType) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    tensor.values()?.put_as(0..tensor.len(), element.dtype()?, &mut bytes);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_can_be_searched() {
        assert!(OPERATORS.is_sorted_by_key(|&(op, ..)| op));
        assert!(LAYERS.iter().all(|layer| OPERATORS.iter().any(|(op, ..)| op == layer)));
    }
}
