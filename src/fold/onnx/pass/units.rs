//! Which stretches of the graph compute the same before and after: what a verification compares.

use std::collections::BTreeSet;

use super::super::node::{NodeId, ValueId};

/// A stretch of the graph whose inside has changed, but which gives the same outputs for the same inputs.
#[derive(Debug, Clone, Default)]
pub(in crate::fold::onnx) struct Unit {
    /// The layers, and the maps that stay.
    pub(in crate::fold::onnx) members: BTreeSet<NodeId>,
    pub(in crate::fold::onnx) inputs: BTreeSet<ValueId>,
    pub(in crate::fold::onnx) outputs: BTreeSet<ValueId>,
    /// Values that are not what they were, or not there any more.
    pub(in crate::fold::onnx) inside: BTreeSet<ValueId>,
}

/// Adds a unit, as one with those that it shares a member with.
pub(super) fn note(units: &mut Vec<Unit>, mut unit: Unit) {
    let (joined, others): (Vec<_>, Vec<_>) =
        std::mem::take(units).into_iter().partition(|other| !other.members.is_disjoint(&unit.members));
    for other in joined {
        unit.members.extend(other.members);
        unit.inputs.extend(other.inputs);
        unit.outputs.extend(other.outputs);
        unit.inside.extend(other.inside);
    }
    unit.inputs.retain(|value| !unit.inside.contains(value));
    unit.outputs.retain(|value| !unit.inside.contains(value));
    *units = others;
    units.push(unit);
}
