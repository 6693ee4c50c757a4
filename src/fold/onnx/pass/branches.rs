//! Parallel convolutions whose outputs are added become one: the blocks of RepVGG and MobileOne (Ding et al., "RepVGG:
//! Making VGG-style ConvNets Great Again", 2021, section 3.3).
//!
//! The algebra is that of [`fold::merge_branches`]; here is which nodes are branches.

use crate::fold::{self, Affine, Placement, Side, branches::Merge};

use super::{
    super::{
        node::{Node, NodeId, ValueId},
        tensor::ElementType,
    },
    Fate, MOST_OWNED_BYTES, Pass,
    layers::{Linear, Weight},
    units::{Unit, note},
};

/// One of the terms.
struct Branch<'m> {
    /// The convolution, or the map, or nothing where the input itself is added.
    node: Option<NodeId>,
    linear: Option<Linear<'m>>,
    map: Option<Affine>,
    /// The nodes that have been absorbed on the way.
    absorbed: Vec<NodeId>,
}

/// How a convolution's kernel moves over its input.
#[derive(Debug, Default)]
struct Taps {
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads_begin: Vec<usize>,
    pads_end: Vec<usize>,
}

impl Taps {
    fn of(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.text("auto_pad"), None | Some("NOTSET" | "VALID")) {
            return None;
        }
        // What is not given is what an empty list stands for.
        let list = |name: &str| {
            let list = node.ints(name).unwrap_or_default();
            list.iter().map(|&number| usize::try_from(number).ok()).collect::<Option<Vec<_>>>()
        };
        let mut pads_begin = list("pads")?;
        let pads_end = pads_begin.split_off(pads_begin.len() / 2);
        Some(Self { strides: list("strides")?, dilations: list("dilations")?, pads_begin, pads_end })
    }

    fn placement(&self) -> Placement<'_> {
        let Self { strides, dilations, pads_begin, pads_end } = self;
        Placement { strides, dilations, pads_begin, pads_end }
    }
}

impl<'m> Pass<'m> {
    /// Merges the terms of a sum into one convolution, where they are convolutions and maps of one value.
    pub(super) fn merge_branches(&mut self, sum: NodeId) {
        if let Some(Merged { main, linear, others }) = self.merged(sum) {
            let absorbed = linear.absorbed.clone();
            let (Some(origin), Some(output)) = (self.graph.node(main).input(0), self.graph.node(sum).output()) else {
                return;
            };
            let branches = self.graph.node(sum).inputs.iter().flatten().copied();
            note(
                &mut self.units,
                Unit {
                    members: others.iter().copied().chain([main]).collect(),
                    inputs: [origin].into(),
                    outputs: [output].into(),
                    inside: branches.filter(|&branch| branch != origin).collect(),
                },
            );
            self.graph.remove(sum);
            for other in others {
                self.graph.remove(other);
                self.layers.remove(&other);
                self.leftovers.remove(&other);
            }
            self.graph.set_output(main, 0, output);
            for id in &absorbed {
                if let Some(found) = self.found.get_mut(id) {
                    found.fate = Fate::Folded { layers: vec![main], side: Side::After };
                }
            }
            self.layers.insert(main, linear);
        }
    }

    fn merged(&self, sum: NodeId) -> Option<Merged<'m>> {
        let node = self.graph.node(sum);
        let inputs: Vec<_> = node.inputs.iter().flatten().copied().collect();
        if !node.is(&["Add", "Sum"]) || inputs.len() < 2 {
            return None;
        }
        // What they all begin with: the input of any convolution among them.
        let conv = inputs
            .iter()
            .filter_map(|&input| self.graph.producer(input))
            .find(|&id| self.graph.node(id).is(&["Conv"]))?;
        let origin = self.graph.node(conv).input(0)?;
        let mut owned_bytes = 0;
        let branch = |&input: &ValueId| {
            let branch = self.branch(input, origin, sum)?;
            owned_bytes += branch.linear.as_ref().map_or(0, Linear::owned_bytes);
            (owned_bytes <= MOST_OWNED_BYTES).then_some(branch)
        };
        let branches = inputs.iter().map(branch).collect::<Option<Vec<_>>>()?;
        let (largest, values, bias) = self.sum_of(&branches)?;
        let (main, linear) = (branches[largest].node?, branches[largest].linear.as_ref()?);
        let mut absorbed: Vec<_> = branches.iter().flat_map(|branch| branch.absorbed.iter().copied()).collect();
        // Should the sum not fit its type, this is what must not be merged.
        absorbed.push(sum);
        let weight = Weight::Sum { values, bias, dims: linear.weight.dims().to_vec(), element: element(linear)? };
        let others = branches.iter().filter_map(|branch| branch.node).filter(|&id| id != main).collect();
        let linear = Linear { weight, bias: linear.bias.clone(), after: None, absorbed, ..linear.clone() };
        Some(Merged { main, linear, others })
    }

    fn branch(&self, value: ValueId, origin: ValueId, sum: NodeId) -> Option<Branch<'m>> {
        if value == origin {
            return Some(Branch { node: None, linear: None, map: None, absorbed: Vec::new() });
        }
        self.check_unshared(value, sum).ok()?;
        let producer = self.graph.producer(value)?;
        let node = self.graph.node(producer);
        if node.input(0) != Some(origin) {
            return None;
        }
        if let Some(leftover) = self.leftovers.get(&producer) {
            let absorbed = [producer].into_iter().chain(leftover.merged.iter().copied()).collect();
            let map =
                (leftover.at.map.axis == 1 && !leftover.at.map.is_uniform).then(|| leftover.at.map.affine.clone())?;
            return Some(Branch { node: Some(producer), linear: None, map: Some(map), absorbed });
        }
        let linear = self.copied_state(producer).filter(|_| node.is(&["Conv"]))?;
        // A kernel that anyone else's fold reads first is not ready yet.
        let absorbed = linear.absorbed.clone();
        linear.before.is_none().then_some(Branch { node: Some(producer), linear: Some(linear), map: None, absorbed })
    }

    /// Which branch has the largest kernel, and the weight and bias of the sum of all.
    fn sum_of(&self, branches: &[Branch<'m>]) -> Option<(usize, Vec<f64>, Vec<f64>)> {
        let mut elements = branches.iter().filter_map(|branch| branch.linear.as_ref()).map(element);
        let first = elements.next()?;
        if !elements.all(|element| element == first) {
            return None;
        }
        let taps = |branch: &Branch<'_>| match (&branch.linear, branch.node) {
            (Some(_), Some(id)) => Taps::of(self.graph.node(id)),
            _ => Some(Taps::default()),
        };
        let taps = branches.iter().map(taps).collect::<Option<Vec<_>>>()?;
        let terms = branches.iter().zip(&taps).map(|(branch, taps)| {
            let (term, after) = match &branch.linear {
                Some(linear) => (fold::Branch::conv(linear.op(), taps.placement()), &linear.after),
                None => (fold::Branch::identity(), &branch.map),
            };
            after.as_ref().map_or(term, |after| term.after(after))
        });
        let terms: Vec<_> = terms.collect();
        let merge = Merge::new(&terms).ok()?;
        let (weight, bias) = merge.exact().ok()?;
        Some((merge.largest, weight, bias))
    }
}

struct Merged<'m> {
    main: NodeId,
    linear: Linear<'m>,
    others: Vec<NodeId>,
}

const fn element(linear: &Linear<'_>) -> Option<ElementType> {
    match linear.weight.element() {
        ElementType::Other(_) => None,
        element => Some(element),
    }
}
