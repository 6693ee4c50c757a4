//! Merged branches against the sum of plain convolutions: every stored number bit for bit, and every output to a bound.

#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data are small")]

use half::{bf16, f16};
use warpnorm::{
    Element,
    fold::{Affine, Branch, Folded, Layer, LinearOp, Placement, largest_kernel, merge_branches, merge_branches_into},
};

use crate::fold::{
    BatchNorm, Random,
    reference::{self, Axes, PLAIN, Tensor, Window, positions},
};

/// A branch; `None` for the kernel is the input itself.
struct Term {
    kernel: Option<Axes>,
    dilation: Axes,
    begin: Axes,
    end: Axes,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    norm: Option<BatchNorm>,
}

/// Branches of one input, whose outputs are added.
struct Block {
    random: Random,
    /// Spatial axes; the arrays have their last ones.
    rank: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
    stride: Axes,
    terms: Vec<Term>,
}

const NONE: Axes = [0; 3];
const ONE: Axes = [1; 3];

impl Block {
    fn new(seed: u64, rank: usize, [inputs, outputs, groups]: [usize; 3], stride: Axes) -> Self {
        Self { random: Random(seed), rank, inputs, outputs, groups, stride, terms: Vec::new() }
    }

    /// A convolution with a bias and a `BatchNorm`, with one of them, or bare: whichever is next.
    fn conv(mut self, kernel: Axes, dilation: Axes, begin: Axes, end: Axes) -> Self {
        let len = self.outputs * self.inputs / self.groups * kernel.iter().product::<usize>();
        let weight = self.random.values(len, -1.0, 1.0);
        let turn = self.terms.len() % 4;
        let bias = turn.is_multiple_of(2).then(|| self.random.values(self.outputs, -1.0, 1.0));
        let norm = (turn < 2).then(|| BatchNorm::random(&mut self.random, self.outputs, true, turn == 0));
        self.terms.push(Term { kernel: Some(kernel), dilation, begin, end, weight, bias, norm });
        self
    }

    fn identity(mut self, has_norm: bool) -> Self {
        let norm = has_norm.then(|| BatchNorm::random(&mut self.random, self.outputs, true, true));
        let term = Term { kernel: None, dilation: ONE, begin: NONE, end: NONE, weight: Vec::new(), bias: None, norm };
        self.terms.push(term);
        self
    }

    fn lead(&self) -> usize {
        3 - self.rank
    }

    /// The input of a term with the zeros around it.
    fn padded(x: &Tensor, begin: Axes, end: Axes) -> Tensor {
        let mut padded = Tensor::zeros(x.batch, x.channels, std::array::from_fn(|a| begin[a] + x.size[a] + end[a]));
        for n in 0..x.batch {
            for c in 0..x.channels {
                for at in positions(x.size) {
                    let index = padded.index(n, c, std::array::from_fn(|a| begin[a] + at[a]));
                    padded.data[index] = x.data[x.index(n, c, at)];
                }
            }
        }
        padded
    }

    fn run(&self, term: &Term, x: &Tensor) -> Tensor {
        let y = match term.kernel {
            None => x.clone(),
            Some(kernel) => {
                let weight: Vec<_> = term.weight.iter().copied().map(f64::from).collect();
                self.convolved(term, kernel, x, &weight)
            }
        };
        let y = y.map(|o, y| y + term.bias.as_ref().map_or(0.0, |bias| f64::from(bias[o])));
        term.norm.as_ref().map_or(y.clone(), |norm| norm.apply(&y))
    }

    fn convolved(&self, placed: &Term, kernel: Axes, x: &Tensor, weight: &[f64]) -> Tensor {
        let window = Window { stride: self.stride, dilation: placed.dilation, ..PLAIN };
        let x = Self::padded(x, placed.begin, placed.end);
        reference::conv(&x, weight, self.outputs, kernel, self.groups, &window)
    }

    /// The exact weight: what each term has for an input so far from where the kernel's window begins.
    fn expected_weight(&self, largest: &Term) -> Vec<f64> {
        let (kernel, columns) = (largest.kernel.unwrap(), self.inputs / self.groups);
        let distance = |term: &Term, tap: Axes| -> [isize; 3] {
            std::array::from_fn(|a| (tap[a] * term.dilation[a]) as isize - term.begin[a] as isize)
        };
        let mut weights = Vec::new();
        for o in 0..self.outputs {
            for c in 0..columns {
                for at in positions(kernel) {
                    // A zero that is added to this keeps its sign.
                    let mut sum = -0.0;
                    for term in &self.terms {
                        let scale = term.norm.as_ref().map_or(1.0, |norm| norm.scale(o));
                        for (tap, own) in positions(term.kernel.unwrap_or(ONE)).enumerate() {
                            let input = o / (self.outputs / self.groups) * columns + c;
                            let weight = match term.kernel {
                                None if input != o => continue,
                                None => 1.0,
                                Some(own) => {
                                    f64::from(term.weight[(o * columns + c) * own.iter().product::<usize>() + tap])
                                }
                            };
                            if distance(term, own) == distance(largest, at) {
                                sum += weight * scale;
                            }
                        }
                    }
                    weights.push(sum);
                }
            }
        }
        weights
    }

    fn check<T: Element>(&mut self) {
        let lead = self.lead();
        let maps: Vec<_> = self.terms.iter().map(|term| term.norm.as_ref().map(BatchNorm::affine)).collect();
        let shapes: Vec<_> = self.terms.iter().map(|term| self.shape(term)).collect();
        let terms = self.terms.iter().zip(&maps).zip(&shapes);
        let branches: Vec<_> = terms.map(|((term, map), shape)| self.branch(term, map.as_ref(), shape)).collect();
        let at = largest_kernel(&branches).unwrap();
        let largest = &self.terms[at];
        assert!(shapes.iter().all(|shape| volume(shape) <= volume(&shapes[at])));
        let merged: Folded<T> = merge_branches(&branches).unwrap();

        let weight: Vec<f64> = merged.weight.iter().map(|value| value.to_f64()).collect();
        let bias: Vec<f64> = merged.bias.iter().map(|value| value.to_f64()).collect();
        let expected = self.expected_weight(largest);
        assert_eq!(weight.len(), expected.len());
        for (index, (found, expected)) in weight.iter().zip(expected).enumerate() {
            assert_eq!(found.to_bits(), reference::round::<T>(expected).to_bits(), "weight {index} of {shapes:?}");
        }
        let most = weight.iter().fold(0.0_f64, |most, weight| most.max(weight.abs()));
        assert_eq!(merged.report.weight.max_abs.to_bits(), most.to_bits());

        let (mut into, mut bias_into) = (vec![T::from_f64(7.0); weight.len()], vec![T::from_f64(7.0); bias.len()]);
        let report = merge_branches_into(&branches, &mut into, &mut bias_into).unwrap();
        assert_eq!(report, merged.report);
        assert!(into.iter().map(|value| value.to_f64().to_bits()).eq(weight.iter().map(|value| value.to_bits())));
        assert!(bias_into.iter().map(|value| value.to_f64().to_bits()).eq(bias.iter().map(|value| value.to_bits())));

        let size = std::array::from_fn(|a| if a < lead { 1 } else { [7, 8, 9][a] });
        let mut x = Tensor::zeros(2, self.inputs, size);
        x.data.fill_with(|| self.random.between(-1.0, 1.0));
        let outputs: Vec<_> = self.terms.iter().map(|term| self.run(term, &x)).collect();
        let kernel = self.terms[at].kernel.unwrap();
        let found = self.convolved(&self.terms[at], kernel, &x, &weight).map(|o, y| y + bias[o]);
        let abs: Vec<_> = weight.iter().map(|weight| weight.abs()).collect();
        let terms = self.convolved(&self.terms[at], kernel, &x.abs(), &abs).map(|o, y| y + bias[o].abs());
        // Half the last bit of each weight and of the bias, and what the terms lose in f64.
        let (digits, min_exponent) = reference::format(T::DTYPE);
        let (relative, subnormal) = (2.0_f64.powi(-digits) + 1e-13, 2.0_f64.powi(min_exponent - digits));
        for (index, found) in found.data.iter().enumerate() {
            let expected: f64 = outputs.iter().map(|y| y.data[index]).sum();
            let bound = relative * terms.data[index] + subnormal * (1.0 + weight.len() as f64) + 1e-10;
            assert!((found - expected).abs() <= bound, "output {index}: {found} for {expected}");
        }
        assert!(outputs.iter().all(|y| y.size == found.size));
    }

    fn shape(&self, term: &Term) -> Vec<usize> {
        let kernel = term.kernel.unwrap_or(NONE);
        [&[self.outputs, self.inputs / self.groups], &kernel[self.lead()..]].concat()
    }

    fn branch<'a>(&'a self, term: &'a Term, map: Option<&'a Affine>, shape: &'a [usize]) -> Branch<'a> {
        let lead = self.lead();
        let branch = if term.kernel.is_some() {
            let op = LinearOp::new(Layer::Conv { groups: self.groups }, &term.weight, shape);
            let op = term.bias.as_ref().map_or(op, |bias| op.bias(bias));
            let placement = Placement {
                strides: &self.stride[lead..],
                dilations: &term.dilation[lead..],
                pads_begin: &term.begin[lead..],
                pads_end: &term.end[lead..],
            };
            Branch::conv(op, placement)
        } else {
            Branch::identity()
        };
        map.map_or(branch, |map| branch.after(map))
    }

    fn check_all_types(mut self) {
        self.check::<f32>();
        self.check::<f16>();
        self.check::<bf16>();
    }
}

fn volume(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Channels and groups: plain, in two groups, depthwise, depthwise to twice as many.
const CHANNELS: [[usize; 3]; 4] = [[3, 5, 1], [4, 6, 2], [4, 4, 4], [3, 6, 3]];

#[test]
fn a_pointwise_kernel_lies_in_the_middle_of_another() {
    for channels in CHANNELS {
        for (rank, kernel) in [(1, [1, 1, 3]), (2, [1, 3, 3]), (3, [3, 3, 3])] {
            let pad = kernel.map(|taps| taps / 2);
            let block = || Block::new(1, rank, channels, ONE);
            block().conv(kernel, ONE, pad, pad).conv(ONE, ONE, NONE, NONE).check_all_types();
            block().conv(ONE, ONE, NONE, NONE).conv(kernel, ONE, pad, pad).check_all_types();
        }
    }
}

#[test]
fn blocks_of_repvgg_and_mobileone() {
    for channels in [[4, 4, 1], [4, 4, 2], [4, 4, 4]] {
        for has_norm in [false, true] {
            let pad = [0, 1, 1];
            let block = || Block::new(2, 2, channels, ONE);
            block().conv([1, 3, 3], ONE, pad, pad).conv(ONE, ONE, NONE, NONE).identity(has_norm).check_all_types();
            let mobile = (0..4).fold(block().identity(has_norm), |block, _| block.conv([1, 3, 3], ONE, pad, pad));
            mobile.conv(ONE, ONE, NONE, NONE).check_all_types();
            // Where the kernel has one tap, all that there is are branches of it.
            (0..3).fold(block(), |block, _| block.conv(ONE, ONE, NONE, NONE)).identity(has_norm).check_all_types();
        }
    }
}

#[test]
fn strides_and_dilations() {
    for channels in CHANNELS {
        let strided = Block::new(3, 2, channels, [1, 2, 3]).conv([1, 3, 3], ONE, [0, 1, 1], [0, 1, 1]);
        strided.conv(ONE, ONE, NONE, NONE).check_all_types();
        // A kernel of one tap may say any dilation.
        let dilated = Block::new(4, 2, channels, ONE).conv([1, 3, 3], [1, 2, 3], [0, 2, 3], [0, 2, 3]);
        dilated.conv(ONE, [1, 5, 1], NONE, NONE).check_all_types();
        let both = Block::new(5, 3, channels, [2, 1, 2]).conv([3, 1, 3], [2, 1, 1], [2, 0, 1], [2, 0, 1]);
        both.conv([1, 1, 3], ONE, [0, 0, 1], [0, 0, 1])
            .conv([3, 1, 1], [2, 1, 1], [2, 0, 0], [2, 0, 0])
            .check_all_types();
    }
}

#[test]
fn rectangular_and_even_kernels_and_pads_of_one_side() {
    for channels in CHANNELS {
        let block = |stride| Block::new(6, 2, channels, stride);
        let cross = block(ONE).conv([1, 3, 5], ONE, [0, 1, 2], [0, 1, 2]).conv([1, 1, 5], ONE, [0, 0, 2], [0, 0, 2]);
        cross.conv([1, 3, 1], ONE, [0, 1, 0], [0, 1, 0]).check_all_types();
        let even = block([1, 2, 1]).conv([1, 4, 2], ONE, [0, 1, 0], [0, 2, 1]);
        even.conv([1, 2, 1], ONE, NONE, [0, 1, 0]).conv(ONE, ONE, NONE, NONE).check_all_types();
        let sided = block(ONE).conv([1, 3, 3], [1, 1, 2], [0, 2, 0], [0, 0, 4]);
        sided.conv(ONE, ONE, NONE, NONE).check_all_types();
    }
}

#[test]
fn large_kernels() {
    for (kernel, small) in [([1, 9, 11], [1, 3, 5]), ([5, 3, 7], [1, 3, 3])] {
        let pad = |kernel: Axes| kernel.map(|taps| taps / 2);
        let block = Block::new(7, 3, [4, 4, 2], ONE).conv(kernel, ONE, pad(kernel), pad(kernel));
        block.conv(small, ONE, pad(small), pad(small)).identity(true).check_all_types();
    }
}

#[test]
fn one_branch_is_the_layer_with_its_map() {
    let weight = [-0.0_f32, 1.5, -2.0, 0.0, 3.0, 1e-30];
    let (op, map) = (
        LinearOp::new(Layer::Conv { groups: 1 }, &weight, &[2, 1, 3]).bias(&[1.0_f32, -0.0]),
        Affine::from_scale(&[0.3, -7.0]).unwrap(),
    );
    let merged: Folded<f32, f16> = merge_branches(&[Branch::conv(op, Placement::default()).after(&map)]).unwrap();
    let folded: Folded<f32, f16> = op.fold_after(&map).unwrap();
    let bits = |folded: &Folded<f32, f16>| -> (Vec<u32>, Vec<u16>) {
        (
            folded.weight.iter().map(|value| value.to_bits()).collect(),
            folded.bias.iter().map(|value| value.to_bits()).collect(),
        )
    };
    assert_eq!(bits(&merged), bits(&folded));
    assert_eq!(merged.report, folded.report);
}

#[test]
fn a_channel_is_dead_where_it_is_in_every_branch() {
    let weight = [1.0_f32, 2.0, 3.0];
    let conv = || Branch::conv(LinearOp::new(Layer::Conv { groups: 3 }, &weight, &[3, 1, 1]), Placement::default());
    let (first, second) =
        (Affine::from_scale(&[0.0, 2e4, 0.0]).unwrap(), Affine::from_scale(&[0.0, -3.0, 4.0]).unwrap());
    let branches = [conv().after(&first), Branch::identity().after(&second)];
    let report = merge_branches::<f32, f32>(&branches).unwrap().report.after.unwrap();
    assert_eq!((report.dead_channels, report.max_abs_scale, report.warnings.len()), (vec![0], 2e4, 1));
    let report = merge_branches::<f32, f32>(&[branches[0], conv()]).unwrap().report.after.unwrap();
    assert!(report.dead_channels.is_empty());
    assert_eq!(merge_branches::<f32, f32>(&[conv(), conv()]).unwrap().report.after, None);
}
