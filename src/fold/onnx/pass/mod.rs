//! The pass over a graph: which maps there are, where they go, and what the graph is afterwards.
//!
//! Maps are first composed, in f64, and only then are weights computed, so that each is rounded once. Where the numbers then
//! turn out to forbid a fold, that map is left out and the pass begins again.

mod branches;
mod convert;
mod emit;
mod layers;
mod maps;
mod routes;
mod tidy;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use crate::fold::{AffineReport, FoldReport, Refusal, Side};

use super::{
    Forward, Options,
    file::Model,
    graph::Graph,
    node::{NodeId, ValueId},
    shapes::Shapes,
};
use crate::fold::models::{Conversion, ModelError};
use layers::Linear;
use maps::{MapNode, map_of};
use routes::{Landing, Route};
use units::note;

pub(super) use emit::{Contents, Edits, Payload};
pub(super) use maps::{batch_norm_tensors, epsilon};
pub(super) use units::Unit;

/// The bytes that weights may take which do not lie in a file as they are: one that nodes make of a small one may be the
/// weight of any number of layers.
const MOST_OWNED_BYTES: usize = if cfg!(fuzzing) { 1 << 20 } else { 1 << 30 };

/// How many maps that could not be merged are looked at together.
const MOST_IN_CHAIN: usize = 4;

/// What became of a map.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// These layers have absorbed it.
    Folded { layers: Vec<NodeId>, side: Side },
    /// Its scale is in these layers, and its shift is where it was.
    ScaleFolded { layers: Vec<NodeId> },
    /// It is part of another map now.
    Merged { into: NodeId },
    /// It is where it was.
    Refused(Refusal),
}

/// A map that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) is_batch_norm: bool,
    pub(super) channels: Option<usize>,
    /// Where its channels are; means nothing where it has none.
    pub(super) axis: usize,
    pub(super) report: Option<AffineReport>,
    pub(super) data: Option<ValueId>,
    pub(super) fate: Fate,
}

/// A map that no layer has absorbed, with those that were merged into it.
#[derive(Debug, Clone)]
struct Leftover {
    at: MapNode,
    merged: Vec<NodeId>,
}

/// The pass over one graph.
#[derive(Debug)]
pub(super) struct Pass<'m> {
    pub(super) graph: Graph<'m>,
    pub(super) shapes: Shapes,
    pub(super) found: BTreeMap<NodeId, Found>,
    pub(super) layers: BTreeMap<NodeId, Linear<'m>>,
    pub(super) units: Vec<Unit>,
    options: Options,
    leftovers: BTreeMap<NodeId, Leftover>,
    /// The additions that stay before layers which have absorbed the scale, and as which input they take the data.
    shifts: BTreeMap<NodeId, (usize, Vec<f64>)>,
    /// Values that stay as they were, each with one of another type that the model reads in its place.
    pub(super) twins: BTreeMap<ValueId, ValueId>,
}

/// What the pass has decided, and computed as far as sizes go.
#[derive(Debug)]
pub(super) struct Decided<'m> {
    pub(super) pass: Pass<'m>,
    pub(super) edits: Edits,
    pub(super) reports: BTreeMap<NodeId, FoldReport>,
    pub(super) conversion: Option<Conversion>,
}

impl<'m> Decided<'m> {
    pub(super) fn of(model: &'m Model, options: &Options) -> Result<Self, ModelError> {
        let mut excluded: BTreeMap<NodeId, Refusal> = BTreeMap::new();
        // A layer that refuses again and again loses more and more of its maps at once.
        let mut most = 1_usize;
        loop {
            let mut pass = Pass::new(model, options)?;
            pass.run(&excluded);
            match pass.emit(most) {
                Ok((mut edits, reports)) => {
                    let conversion = options.dtype.map(|dtype| pass.convert(&mut edits, dtype)).transpose()?;
                    return Ok(Self { pass, edits, reports, conversion });
                }
                Err(refused) => excluded.extend(refused),
            }
            most = most.saturating_mul(2);
        }
    }
}

impl<'m> Pass<'m> {
    fn new(model: &'m Model, options: &Options) -> Result<Self, ModelError> {
        let mut graph = Graph::read(model)?;
        graph.freezes_inputs = options.freeze_inputs;
        if options.tidy {
            tidy::tidy(&mut graph);
        }
        let shapes = Shapes::of(&graph);
        Ok(Self {
            graph,
            shapes,
            found: BTreeMap::new(),
            layers: BTreeMap::new(),
            units: Vec::new(),
            options: options.clone(),
            leftovers: BTreeMap::new(),
            shifts: BTreeMap::new(),
            twins: BTreeMap::new(),
        })
    }

    fn run(&mut self, excluded: &BTreeMap<NodeId, Refusal>) {
        for id in self.graph.node_ids() {
            if self.graph.node(id).is_removed {
                continue;
            }
            if self.options.merge_branches && !excluded.contains_key(&id) {
                self.merge_branches(id);
            }
            match map_of(&self.graph, &self.shapes, id) {
                Ok(None) => {}
                Ok(Some(at)) => {
                    let left_out = (!self.options.selects(&self.graph.label(id))).then_some(Refusal::LeftOut);
                    self.place(id, at, left_out.or_else(|| excluded.get(&id).cloned()));
                }
                Err(refusal) => {
                    let data = self.graph.node(id).input(0);
                    let fate = Fate::Refused(refusal);
                    self.found
                        .insert(id, Found { is_batch_norm: true, channels: None, axis: 1, report: None, data, fate });
                }
            }
        }
        if self.options.forward != Forward::Off {
            // The last first: then the one before it has the layer before its eyes.
            for id in self.leftovers.keys().rev().copied().collect::<Vec<_>>() {
                self.fold_forward(id);
            }
        }
    }

    /// Finds a place for a map: a layer before it, or the map before it, or where it is.
    fn place(&mut self, id: NodeId, at: MapNode, excluded: Option<Refusal>) {
        let found = |fate| Found {
            is_batch_norm: at.is_batch_norm,
            channels: (!at.map.is_uniform).then(|| at.map.affine.channels()),
            axis: at.map.axis,
            report: Some(at.map.affine.report()),
            data: Some(at.data),
            fate,
        };
        if let Some(refusal) = excluded {
            if at.is_batch_norm {
                self.found.insert(id, found(Fate::Refused(refusal)));
            }
            return;
        }
        // What no layer would take alone, as an addition, it may take together with what follows.
        let mut chain: Vec<(NodeId, Leftover)> = Vec::new();
        let (mut data, mut reader, mut whole) = (at.data, id, Ok(at.map.clone()));
        let mut refused = None;
        let placed = loop {
            let before = (chain.len() < MOST_IN_CHAIN).then(|| self.leftover_before(data, reader)).flatten();
            match (before, refused.take()) {
                (None, Some(refusal)) => break Err(refusal),
                (None, None) => {}
                (Some((node, leftover)), refusal) => {
                    whole = whole.and_then(|whole| leftover.at.map.then(&whole));
                    (data, reader, refused) = (leftover.at.data, node, refusal);
                    chain.push((node, leftover));
                }
            }
            let routes = whole.clone().and_then(|whole| self.routes_back(data, &whole, reader));
            match routes.and_then(|route| self.absorb(&route.landings).map(|layers| (layers, route))) {
                Ok(placed) => break Ok(placed),
                Err(refusal) => _ = refused.get_or_insert(refusal),
            }
        };
        match placed {
            Ok((layers, route)) => {
                let mut unit = self.unit_of(&route);
                unit.outputs.insert(at.output);
                let mut gone = vec![id];
                let (mut last, mut last_data) = (id, at.data);
                for (node, leftover) in chain {
                    self.leftovers.remove(&node);
                    gone.extend([node].into_iter().chain(leftover.merged));
                    unit.inside.insert(last_data);
                    unit.members.insert(node);
                    self.graph.remove_behind(last, last_data, at.output);
                    (last, last_data) = (node, leftover.at.data);
                }
                let copy = self.retire(last, last_data, at.output, &route.landings);
                let layers = copy.map_or(layers, |copy| vec![copy]);
                unit.members.extend(&layers);
                note(&mut self.units, unit);
                let fate = Fate::Folded { layers: layers.clone(), side: Side::After };
                self.found.insert(id, found(fate.clone()));
                self.settle(&gone, &fate, &layers);
            }
            Err(refusal) => {
                self.found.insert(id, found(Fate::Refused(refusal)));
                self.leave(id, Leftover { at, merged: Vec::new() }, chain.into_iter().next());
            }
        }
    }

    /// The layers of a route, with what they read and what lies between.
    fn unit_of(&self, route: &Route) -> Unit {
        let data = |landing: &Landing| self.graph.node(landing.layer).input(0);
        // What a copied layer makes is still what it was.
        let is_copied = route.landings.iter().any(|landing| landing.copies);
        Unit {
            members: BTreeSet::new(),
            inputs: route.landings.iter().filter_map(data).collect(),
            outputs: BTreeSet::new(),
            inside: if is_copied { BTreeSet::new() } else { route.inside.iter().copied().collect() },
        }
    }

    /// The unit of a map that goes forward.
    fn unit_behind(&self, at: &MapNode, id: NodeId, route: &Route) -> Unit {
        let layers = || route.landings.iter().map(|landing| landing.layer);
        Unit {
            members: layers().chain([id]).collect(),
            inputs: [at.data].into(),
            outputs: layers().filter_map(|layer| self.graph.node(layer).output()).collect(),
            inside: route.inside.iter().copied().collect(),
        }
    }

    /// Takes a map's node out of the graph, behind the layer that has absorbed it or else a copy of that, which it returns.
    fn retire(&mut self, id: NodeId, data: ValueId, output: ValueId, landings: &[Landing]) -> Option<NodeId> {
        let [Landing { layer, affine, copies: true, .. }] = landings else {
            self.graph.remove_behind(id, data, output);
            return None;
        };
        let mut linear = self.copied_state(*layer)?;
        // `absorb` has seen that the maps compose.
        linear.absorb(Side::After, affine.clone()).ok()?;
        self.graph.remove(id);
        let copy = self.graph.copy_behind(*layer, output);
        self.layers.insert(copy, linear);
        Some(copy)
    }

    fn copied_state(&self, layer: NodeId) -> Option<Linear<'m>> {
        self.layers.get(&layer).cloned().or_else(|| layers::layer_of(&self.graph, &self.shapes, layer).ok().flatten())
    }

    /// The map directly before this one, if nothing else reads it and both may be one.
    fn leftover_before(&self, data: ValueId, id: NodeId) -> Option<(NodeId, Leftover)> {
        let value = self.graph.value(data);
        let is_read_once = value.uses == [(id, value.uses.first()?.1)] && !value.is_output && !value.is_captured;
        let producer = self.graph.producer(data).filter(|_| is_read_once)?;
        self.leftovers.get(&producer).map(|leftover| (producer, leftover.clone()))
    }

    /// Whether a map may have more channels than its data, as an axis of length 1 is repeated. Without it, or with another
    /// node in its place, the data would then be of the wrong shape.
    fn may_widen(&self, at: &MapNode) -> bool {
        !at.is_batch_norm
            && !at.map.is_uniform
            && self.shapes.dim(at.data, at.map.axis) != Some(at.map.affine.channels())
    }

    /// Leaves a map where it is, or within the maps before it.
    fn leave(&mut self, id: NodeId, left: Leftover, previous: Option<(NodeId, Leftover)>) {
        let at = &left.at;
        if self.may_widen(at) {
            return;
        }
        let merged = previous.and_then(|(node, leftover)| {
            let map = leftover.at.map.then(&at.map).ok()?;
            let is_one_node = leftover.at.is_batch_norm
                || at.is_batch_norm
                || self.graph.opset >= 7 && leftover.at.map.is_scale() && at.map.is_scale()
                || self.graph.opset >= 7 && leftover.at.map.is_shift() && at.map.is_shift();
            is_one_node.then_some((node, leftover, map))
        });
        let Some((node, leftover, map)) = merged else {
            self.leftovers.insert(id, left);
            return;
        };
        let keeps_first = leftover.at.is_batch_norm || !at.is_batch_norm;
        let (kept, gone) = if keeps_first { (node, id) } else { (id, node) };
        if keeps_first {
            self.graph.remove_behind(id, at.data, at.output);
        } else {
            self.graph.remove_before(node, leftover.at.data, leftover.at.output);
        }
        note(
            &mut self.units,
            Unit {
                members: [node, id].into(),
                inputs: [leftover.at.data].into(),
                outputs: [at.output].into(),
                inside: [at.data].into(),
            },
        );
        let mut merged = [leftover.merged, left.merged].concat();
        merged.push(gone);
        // Those before it are in the first one already.
        for merged in &merged[if keeps_first { merged.len() - 1 } else { 0 }..] {
            if let Some(found) = self.found.get_mut(merged) {
                found.fate = Fate::Merged { into: kept };
            }
        }
        let is_first_uniform = leftover.at.map.is_uniform;
        let whole = MapNode {
            data: leftover.at.data,
            output: at.output,
            map,
            is_batch_norm: leftover.at.is_batch_norm || at.is_batch_norm,
            element: at.element,
            dims: if is_first_uniform { left.at.dims } else { leftover.at.dims },
        };
        self.leftovers.remove(&node);
        // What this one alone could not be one node with, both together may be.
        let previous = self.leftover_before(whole.data, kept);
        self.leave(kept, Leftover { at: whole, merged }, previous);
    }

    /// Gives the layers what arrives at them, all or none.
    fn absorb(&mut self, landings: &[Landing]) -> Result<Vec<NodeId>, Refusal> {
        let mut states: BTreeMap<NodeId, Linear<'m>> = BTreeMap::new();
        for landing in landings {
            let known = states.get(&landing.layer).cloned().or_else(|| self.copied_state(landing.layer));
            let Some(mut linear) = known else { continue };
            let held = self.layers.values().chain(states.values()).map(Linear::owned_bytes);
            if held.chain([linear.owned_bytes()]).sum::<usize>() > MOST_OWNED_BYTES {
                let (value, reason) = (self.graph.label(landing.layer), "its weight takes too much memory".to_owned());
                return Err(Refusal::Unreadable { value, reason });
            }
            linear.absorb(landing.side, landing.affine.clone())?;
            if !landing.copies {
                states.insert(landing.layer, linear);
            }
        }
        self.layers.extend(states);
        Ok(landings.iter().map(|landing| landing.layer).collect())
    }

    /// Notes what became of maps, and which layers have them.
    fn settle(&mut self, gone: &[NodeId], fate: &Fate, layers: &[NodeId]) {
        for id in gone {
            if let Some(found) = self.found.get_mut(id) {
                found.fate = fate.clone();
            }
        }
        for layer in layers {
            if let Some(linear) = self.layers.get_mut(layer) {
                linear.absorbed.extend(gone);
            }
        }
    }

    /// Folds a map into the layers behind it, if all who read it are such.
    fn fold_forward(&mut self, id: NodeId) {
        let Some(leftover) = self.leftovers.get(&id).cloned() else { return };
        let MapNode { data, output, map, .. } = &leftover.at;
        let gone: Vec<_> = [id].into_iter().chain(leftover.merged.iter().copied()).collect();
        let routes = self.routes_forth(*output, map);
        match routes.and_then(|route| self.absorb(&route.landings).map(|layers| (layers, route))) {
            Ok((layers, route)) => {
                let unit = self.unit_behind(&leftover.at, id, &route);
                note(&mut self.units, unit);
                self.graph.remove_before(id, *data, *output);
                self.leftovers.remove(&id);
                let fate = Fate::Folded { layers: layers.clone(), side: Side::Before };
                self.settle(&gone, &fate, &layers);
            }
            Err(refusal @ Refusal::Arrays { .. }) => {
                let refusal = match self.fold_scale(id, &leftover, &gone) {
                    Some(Ok(())) => return,
                    Some(Err(refusal)) => refusal,
                    None => refusal,
                };
                // A layer that would absorb it but for its padding says more than what there is before it.
                if let Some(found) = self.found.get_mut(&id) {
                    found.fate = Fate::Refused(refusal);
                }
            }
            Err(_) => {}
        }
    }

    /// Folds the scale alone, and leaves an addition in the map's place; if that is wanted.
    fn fold_scale(&mut self, id: NodeId, leftover: &Leftover, gone: &[NodeId]) -> Option<Result<(), Refusal>> {
        let map = &leftover.at.map;
        if self.options.forward != Forward::Scale || map.is_uniform || map.axis != 1 || map.is_shift() {
            return None;
        }
        self.shapes.rank(leftover.at.data)?;
        let affine = &leftover.at.map.affine;
        let route = self.routes_forth(leftover.at.output, &leftover.at.map.with(affine.without_shift())).ok()?;
        let layer = self.graph.label(route.landings.first()?.layer);
        if let Some(channel) = affine.scale().iter().position(|&scale| scale == 0.0) {
            return Some(Err(Refusal::ZeroScale { layer, channel }));
        }
        let slot = self.graph.node(id).inputs.iter().position(|&input| input == Some(leftover.at.data))?;
        let shift = affine.intercepts().zip(affine.scale()).map(|(shift, scale)| shift / scale).collect();
        Some(self.absorb(&route.landings).map(|layers| {
            let unit = self.unit_behind(&leftover.at, id, &route);
            note(&mut self.units, unit);
            self.shifts.insert(id, (slot, shift));
            self.leftovers.remove(&id);
            self.settle(gone, &Fate::ScaleFolded { layers: layers.clone() }, &layers);
        }))
    }
}
