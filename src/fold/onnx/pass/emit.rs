//! What the pass has decided becomes new tensors and changed nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use half::{bf16, f16};
use rayon::prelude::*;

use crate::{
    element::Element,
    fold::{Affine, FoldError, FoldReport, Refusal, absorb::Absorption},
};

use super::{
    super::{
        file::Externals,
        node::{NodeId, Setting, ValueId},
        shapes::Dims,
        tensor::{ElementType, Tensor},
    },
    Leftover, Pass,
    layers::{Linear, Weight},
    maps::{batch_norm_tensors, epsilon},
};

/// A tensor that is to be written.
#[derive(Debug)]
pub(in crate::fold::onnx) struct Payload {
    pub(in crate::fold::onnx) element: ElementType,
    /// The type that it has where none is wished for.
    pub(in crate::fold::onnx) own: ElementType,
    pub(in crate::fold::onnx) dims: Vec<usize>,
    pub(in crate::fold::onnx) contents: Contents,
}

impl Payload {
    fn dims_known(&self) -> Dims {
        self.dims.iter().map(|&dim| Some(dim)).collect()
    }
}

/// The elements of a tensor that is to be written.
#[derive(Debug)]
pub(in crate::fold::onnx) enum Contents {
    Bytes(Vec<u8>),
    /// Those of the folded weight of a layer, which are computed when they are written.
    Weight(NodeId),
    /// Those of an initializer of the file, rounded to the tensor's type when they are written.
    Converted(ValueId),
}

/// What is new among the initializers.
#[derive(Debug, Default)]
pub(in crate::fold::onnx) struct Edits {
    pub(in crate::fold::onnx) replaced: BTreeMap<ValueId, Payload>,
    pub(in crate::fold::onnx) added: Vec<(ValueId, Payload)>,
    pub(in crate::fold::onnx) dropped: BTreeSet<ValueId>,
    /// Values that nodes make in another type than they did.
    pub(in crate::fold::onnx) retyped: BTreeMap<ValueId, ElementType>,
}

impl Edits {
    /// The tensors that are to be written.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&ValueId, &Payload)> {
        self.replaced.iter().chain(self.added.iter().map(|(value, payload)| (value, payload)))
    }
}

type Refused = Vec<(NodeId, Refusal)>;

impl Linear<'_> {
    /// The fold, with all that follows the product as `after`.
    pub(in crate::fold::onnx) fn absorption<'a>(
        &'a self,
        after: Option<&'a Affine>,
    ) -> Result<Absorption<'a>, FoldError> {
        Absorption::new(&self.op(), self.before.as_ref().map(|before| (before, self.padding)), after)
    }

    /// Gives back the memory that some elements of the weight take, which are in a file and read again when they are needed.
    pub(in crate::fold::onnx) fn forget(&self, externals: &Externals, elements: Range<usize>) {
        if let Weight::Stored(tensor) = &self.weight {
            let size = tensor.element.size().unwrap_or(1);
            externals.forget(tensor.data.get(elements.start * size..elements.end * size).unwrap_or_default());
        }
    }

    fn changes_weight(&self, after: Option<&Affine>) -> bool {
        let scales = |map: Option<&Affine>| map.is_some_and(|map| map.scale().iter().any(|&scale| scale != 1.0));
        matches!(self.weight, Weight::Sum { .. }) || scales(self.before.as_ref()) || scales(after)
    }

    /// `element` is what weight and bias are to be stored in.
    fn survey(&self, element: ElementType, externals: &Externals) -> Result<FoldReport, Refusal> {
        let after = self.whole_after()?;
        let refused = || Refusal::ElementType { value: "the weight".to_owned(), found: element.name() };
        // The standard has weight and bias of one type.
        let dtype = element.dtype().ok_or_else(refused)?;
        let seen = |elements| self.forget(externals, elements);
        Ok(self.absorption(after.as_ref())?.survey_as(dtype, dtype, &seen)?)
    }
}

impl<'m> Pass<'m> {
    /// Changes the graph and lists the tensors that are new. Where the numbers forbid it: which maps to leave out, of each
    /// layer or node not more than `most`.
    pub(super) fn emit(&mut self, most: usize) -> Result<(Edits, BTreeMap<NodeId, FoldReport>), Refused> {
        let changed: Vec<_> = self.layers.iter().filter(|(_, linear)| linear.has_changed()).collect();
        let surveyed: Vec<_> = changed.par_iter().map(|(id, linear)| (**id, self.survey(linear))).collect();
        let mut reports = BTreeMap::new();
        let mut refused = Vec::new();
        for (id, report) in surveyed {
            match report {
                Ok(report) => _ = reports.insert(id, report),
                Err(refusal) => {
                    let refusal = self.at_layer(refusal, id);
                    refused.extend(self.latest(id, most).map(|latest| (latest, refusal.clone())));
                }
            }
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        let mut edits = Edits::default();
        let mut released = self.inputs_of_removed();
        for (id, leftover) in std::mem::take(&mut self.leftovers) {
            if !leftover.merged.is_empty()
                && let Err(refusal) = self.emit_leftover(id, &leftover, &mut edits, &mut released)
            {
                let latest = leftover.merged.iter().rev().take(most);
                refused.extend(latest.map(|&latest| (latest, refusal.clone())));
            }
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        for (id, (slot, shift)) in std::mem::take(&mut self.shifts) {
            self.emit_shift(id, slot, &shift, &mut edits, &mut released).map_err(|refusal| vec![(id, refusal)])?;
        }
        for id in reports.keys() {
            self.emit_layer(*id, &mut edits, &mut released).map_err(|refusal| {
                self.latest(*id, most).map(|latest| (latest, refusal.clone())).collect::<Vec<_>>()
            })?;
        }
        self.drop_unused(released, &mut edits);
        let needed = self.graph.computed.iter().filter(|&(&value, _)| !self.graph.is_unused(value));
        edits.added.extend(needed.map(|(&value, integers)| {
            let contents = Contents::Bytes(integers.bytes());
            (value, Payload { element: ElementType::I64, own: ElementType::I64, dims: integers.dims.clone(), contents })
        }));
        Ok((edits, reports))
    }

    fn survey(&self, linear: &Linear<'_>) -> Result<FoldReport, Refusal> {
        linear.survey(self.stored(linear.weight.element()), self.graph.externals)
    }

    /// The maps that a layer has absorbed last.
    fn latest(&self, layer: NodeId, most: usize) -> impl Iterator<Item = NodeId> {
        let absorbed = self.layers.get(&layer).map_or(&[][..], |linear| &linear.absorbed);
        absorbed.iter().rev().take(most).copied()
    }

    fn at_layer(&self, refusal: Refusal, layer: NodeId) -> Refusal {
        match refusal {
            Refusal::Arrays { error, .. } => Refusal::Arrays { layer: Some(self.graph.label(layer)), error },
            refusal => refusal,
        }
    }

    fn inputs_of_removed(&self) -> Vec<ValueId> {
        let removed = self.graph.nodes.iter().filter(|node| node.is_removed);
        removed.flat_map(|node| node.inputs.iter().flatten().copied()).collect()
    }

    fn emit_layer(&mut self, id: NodeId, edits: &mut Edits, released: &mut Vec<ValueId>) -> Result<(), Refusal> {
        let Some(linear) = self.layers.get(&id) else { return Ok(()) };
        let after = linear.whole_after()?;
        let own = linear.weight.element();
        let element = self.stored(own);
        let (dims, changes_weight) = (linear.weight.dims().to_vec(), linear.changes_weight(after.as_ref()));
        let had_bias = self.graph.node(id).input(2).is_some();
        let absorption = linear.absorption(after.as_ref())?;
        let bias_len = absorption.output_channels();
        let bias: Vec<f64> = absorption.biases().collect();
        let needs_bias = had_bias || bias.iter().any(|&value| value != 0.0);
        let bias = encoded("folded.bias", &bias, element)?;
        if changes_weight {
            let payload = Payload { element, own, dims, contents: Contents::Weight(id) };
            self.put(id, 1, "weight", payload, edits, released);
        }
        let node = self.graph.node(id);
        if node.op == "Gemm" {
            for (name, default) in [("alpha", 1.0), ("beta", 1.0)] {
                if self.graph.node(id).float(name, default) != default {
                    self.graph.nodes[id.0].set(name, Setting::Absent);
                }
            }
            if self.graph.opset < 7 && needs_bias {
                self.graph.nodes[id.0].set("broadcast", Setting::Int(1));
            }
        }
        if !needs_bias {
            return Ok(());
        }
        let payload = Payload { element, own, dims: vec![bias_len], contents: Contents::Bytes(bias) };
        if !Linear::is_matmul_node(self.graph.node(id)) {
            self.put(id, 2, "bias", payload, edits, released);
        } else if self.becomes_gemm(id) {
            self.graph.nodes[id.0].become_op("Gemm");
            self.put(id, 2, "bias", payload, edits, released);
        } else {
            let value = self.graph.new_value(&self.bias_name(id));
            edits.added.push((value, payload));
            if let Some(add) = self.graph.insert_behind(id, "Add", value)
                && self.graph.opset < 7
            {
                self.graph.nodes[add.0].set("broadcast", Setting::Int(1));
            }
        }
        Ok(())
    }

    /// Makes a tensor an input of a node: in place of the initializer there, if nobody else reads that.
    fn put(
        &mut self,
        id: NodeId,
        slot: usize,
        what: &str,
        payload: Payload,
        edits: &mut Edits,
        released: &mut Vec<ValueId>,
    ) {
        let node = self.graph.node(id);
        if let Some(value) = node.input(slot) {
            let of = self.graph.value(value);
            let is_own = of.uses == [(id, slot)] && !of.is_output && !of.is_captured;
            // What states its shape states the one that it has.
            let keeps_shape = of.value_info.is_none() || self.shapes.get(value) == Some(&payload.dims_known());
            if of.initializer.is_some() && is_own && keeps_shape {
                edits.replaced.insert(value, payload);
                return;
            }
            released.push(value);
        }
        let name = match (node.input(slot), what) {
            (None, "bias") => self.bias_name(id),
            (given, _) => {
                let of = given.or_else(|| node.output());
                format!("{}_folded", of.map_or("", |value| &self.graph.value(value).name))
            }
        };
        let value = self.graph.new_value(&name);
        self.graph.set_input(id, slot, Some(value));
        edits.added.push((value, payload));
    }

    /// A name for the bias of a layer that had none, as PyTorch would have it.
    fn bias_name(&self, id: NodeId) -> String {
        let weight = self.graph.node(id).input(1).map_or("", |value| &self.graph.value(value).name);
        match weight.strip_suffix("weight") {
            Some(stem) => format!("{stem}bias"),
            None => format!("{weight}_bias"),
        }
    }

    /// A map that others were merged into.
    fn emit_leftover(
        &mut self,
        id: NodeId,
        leftover: &Leftover,
        edits: &mut Edits,
        released: &mut Vec<ValueId>,
    ) -> Result<(), Refusal> {
        let map = &leftover.at.map;
        if !leftover.at.is_batch_norm {
            let own = leftover.at.element;
            let element = self.stored(own);
            let (op, values): (_, Vec<f64>) = if map.is_scale() {
                ("Mul", map.affine.scale().to_vec())
            } else {
                ("Add", map.affine.intercepts().collect())
            };
            let contents = Contents::Bytes(encoded("the merged constant", &values, element)?);
            let payload = Payload { element, own, dims: leftover.at.dims.clone(), contents };
            self.become_node(id, op, leftover.at.data, payload, edits, released);
            return Ok(());
        }
        let tensors = batch_norm_tensors(&self.graph, id)?;
        let [weight, bias, mean, var] = &tensors;
        let (eps, given_mean) = (epsilon(self.graph.node(id)), numbers(mean));
        let affine = map.of_channels(given_mean.len());
        let deviations = numbers(var).into_iter().map(|var| (var + eps).sqrt());
        let new_weight: Vec<f64> =
            affine.scale().iter().zip(deviations).map(|(scale, deviation)| scale * deviation).collect();
        let mut put = |slot, what, values: &[f64], as_was: &Tensor<'_>| {
            // Statistics have had a type of their own since opset 14.
            let is_data = slot < 3 || self.graph.opset < 14;
            let element = if is_data { self.stored(as_was.element) } else { as_was.element };
            let contents = Contents::Bytes(encoded(what, values, element)?);
            let payload = Payload { element, own: as_was.element, dims: as_was.dims.clone(), contents };
            self.put(id, slot, what, payload, edits, released);
            Ok::<_, FoldError>(())
        };
        put(1, "bn.weight", &new_weight, weight)?;
        put(2, "bn.bias", affine.shift(), bias)?;
        if affine.center() != given_mean {
            put(3, "running_mean", affine.center(), mean)?;
        }
        Ok(())
    }

    /// The shift that stays before layers which have absorbed the scale.
    fn emit_shift(
        &mut self,
        id: NodeId,
        slot: usize,
        shift: &[f64],
        edits: &mut Edits,
        released: &mut Vec<ValueId>,
    ) -> Result<(), Refusal> {
        let Some(data) = self.graph.node(id).input(slot) else { return Ok(()) };
        let rank = self.shapes.rank(data).unwrap_or(4);
        // The element type of the data is that of the weights it meets.
        let layers = self.layers.values().find(|linear| linear.absorbed.contains(&id));
        let own = layers.map_or(ElementType::F32, |linear| linear.weight.element());
        let element = self.stored(own);
        let mut dims = vec![shift.len()];
        if self.graph.opset >= 7 {
            dims.extend(vec![1; rank.saturating_sub(2)]);
        }
        let contents = Contents::Bytes(encoded("the shift", shift, element)?);
        self.become_node(id, "Add", data, Payload { element, own, dims, contents }, edits, released);
        self.graph.nodes[id.0].mark_as_left();
        if self.graph.opset < 7 {
            self.graph.nodes[id.0].set("broadcast", Setting::Int(1));
            self.graph.nodes[id.0].set("axis", Setting::Int(1));
        }
        Ok(())
    }

    fn become_node(
        &mut self,
        id: NodeId,
        op: &'static str,
        data: ValueId,
        payload: Payload,
        edits: &mut Edits,
        released: &mut Vec<ValueId>,
    ) {
        for slot in (0..self.graph.node(id).inputs.len()).rev() {
            released.extend(self.graph.node(id).input(slot).filter(|&input| input != data));
            self.graph.set_input(id, slot, None);
        }
        self.graph.nodes[id.0].become_op(op);
        self.graph.set_input(id, 0, Some(data));
        let output = self.graph.node(id).output().map_or("", |value| &self.graph.value(value).name);
        let value = self.graph.new_value(&format!("{output}_{}", op.to_lowercase()));
        self.graph.set_input(id, 1, Some(value));
        edits.added.push((value, payload));
    }

    /// Drops initializers, constant nodes and casts that nobody reads any more.
    pub(super) fn drop_unused(&mut self, mut released: Vec<ValueId>, edits: &mut Edits) {
        while let Some(value) = released.pop() {
            if !self.graph.is_unused(value) {
                continue;
            }
            if self.graph.value(value).initializer.is_some() {
                edits.dropped.insert(value);
            } else if let Some(node) = self.graph.producer(value)
                && (self.graph.is_constant(value) || self.graph.node(node).is(&["Cast"]))
                && self.graph.node(node).has_one_output()
            {
                released.extend(self.graph.node(node).inputs.iter().flatten());
                self.graph.remove(node);
            }
        }
    }
}

fn numbers(tensor: &Tensor<'_>) -> Vec<f64> {
    tensor.values().map(|values| values.to_vec()).unwrap_or_default()
}

/// The bytes of numbers rounded to a type, which must hold them.
fn encoded(argument: &'static str, values: &[f64], element: ElementType) -> Result<Vec<u8>, FoldError> {
    fn of<T: Element, const N: usize>(
        argument: &'static str,
        values: &[f64],
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, FoldError> {
        let mut bytes = Vec::with_capacity(values.len() * N);
        for (channel, &value) in values.iter().enumerate() {
            let rounded = T::from_f64(value);
            if !rounded.to_f64().is_finite() {
                return Err(FoldError::Overflow { argument, channel, value, limit: T::MAX, target: T::DTYPE.name() });
            }
            bytes.extend(to_bytes(rounded));
        }
        Ok(bytes)
    }
    match element {
        ElementType::F16 => of(argument, values, f16::to_le_bytes),
        ElementType::Bf16 => of(argument, values, bf16::to_le_bytes),
        ElementType::F64 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        _ => of(argument, values, f32::to_le_bytes),
    }
}
