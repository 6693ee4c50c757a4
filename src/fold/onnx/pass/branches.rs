//! Parallel convolutions whose outputs are added become one: the blocks of RepVGG and MobileOne (Ding et al., "RepVGG:
//! Making VGG-style ConvNets Great Again", 2021, section 3.3).
//!
//! Each branch is a kernel; a smaller one is set into the largest, where its taps meet the same inputs, and a branch that
//! is only a map is a kernel of one tap. Kernels and biases are then added, in f64.

use crate::fold::{Affine, FoldError, Layer};

use super::{
    super::{
        node::{Node, NodeId, ValueId},
        tensor::ElementType,
    },
    Fate, Pass,
    layers::{Linear, Weight},
    units::{Unit, note},
};
use crate::fold::Side;

/// One of the terms.
struct Branch<'m> {
    /// The convolution, or the map, or nothing where the input itself is added.
    node: Option<NodeId>,
    linear: Option<Linear<'m>>,
    map: Option<Affine>,
    /// The nodes that have been absorbed on the way.
    absorbed: Vec<NodeId>,
}

/// How a convolution's taps lie over its input.
#[derive(Debug, Clone, PartialEq)]
struct Taps {
    kernel: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    begins: Vec<i64>,
    ends: Vec<i64>,
}

impl Taps {
    fn of(node: &Node<'_>, kernel: &[usize]) -> Option<Self> {
        let rank = kernel.len();
        if !matches!(node.text("auto_pad"), None | Some("NOTSET" | "VALID")) {
            return None;
        }
        let list = |name: &str, default: i64| node.ints(name).map_or_else(|| vec![default; rank], <[i64]>::to_vec);
        let pads = node.ints("pads").map_or_else(|| vec![0; 2 * rank], <[i64]>::to_vec);
        let (strides, dilations) = (list("strides", 1), list("dilations", 1));
        let is_valid = strides.len() == rank && dilations.len() == rank && pads.len() == 2 * rank;
        let (begins, ends) = pads.split_at_checked(rank).filter(|_| is_valid)?;
        Some(Self { kernel: kernel.to_vec(), strides, dilations, begins: begins.to_vec(), ends: ends.to_vec() })
    }

    /// The taps of a copy of the input.
    fn of_identity(rank: usize) -> Self {
        let (zeros, ones) = (vec![0; rank], vec![1; rank]);
        Self { kernel: vec![1; rank], strides: ones.clone(), dilations: ones, begins: zeros.clone(), ends: zeros }
    }

    /// Where the first tap of `other` lies among these, on each axis, if all of them lie there and give as many outputs.
    fn offset_of(&self, other: &Self) -> Option<Vec<usize>> {
        let rank = self.kernel.len();
        if other.kernel.len() != rank || self.strides != other.strides {
            return None;
        }
        let offset = |axis: usize| {
            let dilation = self.dilations[axis];
            if other.kernel[axis] > 1 && other.dilations[axis] != dilation || dilation < 1 {
                return None;
            }
            let reach = |kernel: usize| i64::try_from(kernel.checked_sub(1)?).ok()?.checked_mul(dilation);
            let before = self.begins[axis].checked_sub(other.begins[axis])?;
            let behind = self.ends[axis].checked_sub(other.ends[axis])?;
            let fits = before >= 0
                && before % dilation == 0
                && before + behind == reach(self.kernel[axis])? - reach(other.kernel[axis])?;
            let offset = usize::try_from(before / dilation).ok()?;
            (fits && offset.checked_add(other.kernel[axis])? <= self.kernel[axis]).then_some(offset)
        };
        (0..rank).map(offset).collect()
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
        let branches = inputs.iter().map(|&input| self.branch(input, origin, sum)).collect::<Option<Vec<_>>>()?;
        let size = |branch: &&Branch<'_>| {
            branch.linear.as_ref().map_or(0, |linear| linear.weight.dims()[2..].iter().product())
        };
        let largest = branches.iter().max_by_key(size)?;
        let (main, linear) = (largest.node?, largest.linear.as_ref()?);
        let (values, bias) = self.sum_of(&branches, main, linear)?;
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

    /// Weight and bias of the sum of all branches.
    fn sum_of(&self, branches: &[Branch<'m>], main: NodeId, largest: &Linear<'m>) -> Option<(Vec<f64>, Vec<f64>)> {
        let dims = largest.weight.dims();
        let Layer::Conv { groups } = largest.layer else { return None };
        let (outputs, columns) = (dims[0], dims[1]);
        let taps = Taps::of(self.graph.node(main), &dims[2..])?;
        let kernel_len: usize = dims[2..].iter().product();
        let mut weight = vec![0.0; outputs * columns * kernel_len];
        let mut bias = vec![0.0; outputs];
        for branch in branches {
            let (own_taps, own_weight, own_bias) = match (&branch.linear, branch.node) {
                (Some(linear), Some(id)) => {
                    let own = linear.weight.dims();
                    if linear.layer != largest.layer || own[..2] != dims[..2] || element(linear) != element(largest) {
                        return None;
                    }
                    let (weight, bias) = linear.op().fold_exactly(linear.after.as_ref()).ok()?;
                    (Taps::of(self.graph.node(id), &own[2..])?, weight, bias)
                }
                _ => {
                    // A map of channels needs as many outputs as inputs.
                    if outputs != columns * groups {
                        return None;
                    }
                    let map = branch.map.clone().unwrap_or_else(|| Affine::identity(outputs));
                    let (weight, bias) = identity(&map, outputs, columns).ok()?;
                    (Taps::of_identity(dims.len() - 2), weight, bias)
                }
            };
            let places = places(&taps.kernel, &own_taps.kernel, &taps.offset_of(&own_taps)?);
            for (row, own) in weight.chunks_exact_mut(kernel_len).zip(own_weight.chunks_exact(places.len())) {
                for (&place, own) in places.iter().zip(own) {
                    row[place] += own;
                }
            }
            for (sum, own) in bias.iter_mut().zip(own_bias) {
                *sum += own;
            }
        }
        Some((weight, bias))
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

/// A map of channels as a convolution with one tap.
fn identity(map: &Affine, outputs: usize, columns: usize) -> Result<(Vec<f64>, Vec<f64>), FoldError> {
    if map.channels() != outputs {
        let (found, expected) = (map.channels(), outputs);
        return Err(FoldError::ChannelMismatch { side: Side::After, found, expected });
    }
    let mut weight = vec![0.0; outputs * columns];
    for (output, scale) in map.scale().iter().enumerate() {
        weight[output * columns + output % columns] = *scale;
    }
    Ok((weight, map.intercepts().collect()))
}

/// Where the taps of a kernel lie in a larger one.
fn places(large: &[usize], small: &[usize], offset: &[usize]) -> Vec<usize> {
    let mut places = vec![0];
    for axis in 0..large.len() {
        let extended =
            places.iter().flat_map(|place| (0..small[axis]).map(move |tap| place * large[axis] + offset[axis] + tap));
        places = extended.collect();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_lies_in_a_larger_one_where_its_taps_meet_the_same_inputs() {
        let taps = |kernel: usize, dilation, begin, end| Taps {
            kernel: vec![kernel],
            strides: vec![2],
            dilations: vec![dilation],
            begins: vec![begin],
            ends: vec![end],
        };
        assert_eq!(taps(3, 1, 1, 1).offset_of(&taps(1, 1, 0, 0)), Some(vec![1]));
        assert_eq!(taps(3, 2, 2, 2).offset_of(&taps(1, 1, 0, 0)), Some(vec![1]));
        assert_eq!(taps(5, 1, 2, 2).offset_of(&taps(2, 1, 1, 0)), Some(vec![1]));
        // Taps between those of the larger kernel; other outputs; another dilation.
        assert_eq!(taps(3, 2, 1, 3).offset_of(&taps(1, 1, 0, 0)), None);
        assert_eq!(taps(3, 1, 1, 1).offset_of(&taps(1, 1, 0, 1)), None);
        assert_eq!(taps(5, 1, 2, 2).offset_of(&taps(2, 2, 1, 1)), None);
        assert_eq!(places(&[3, 3], &[1, 2], &[1, 1]), [4, 5]);
    }
}
