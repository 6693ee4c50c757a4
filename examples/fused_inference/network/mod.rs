//! The network: what is computed, by which numbers. Where it is computed is `runner.rs`'s business.
//!
//! | file | idea |
//! | --- | --- |
//! | `checkpoint.rs` | the network and its held-out images from a safetensors file |
//! | `runner.rs` | a network on a device, for batches of one size |
//! | `batch_norm.rs` | a `BatchNorm` on a device, by running statistics or the batch's |
//! | `cpu.rs`, `cuda.rs` | the two devices |
//! | `convolution.rs` | a convolution on the CPU |
//! | `logits.rs` | what comes out, compared |

mod batch_norm;
pub mod checkpoint;
mod convolution;
mod cpu;
mod cuda;
pub mod logits;
pub mod runner;

use warpnorm::DirectConvolution;
use warpnorm::fold::{BatchNormParams, FoldError, FoldReport, Folded, Layer, LinearOp};

/// Whatever a user of the example may be told.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Blocks in the order in which they run, each on the output of the one before it.
#[derive(Debug, Clone)]
pub struct Network {
    pub blocks: Vec<Block>,
}

/// Convolution, then `BatchNorm`, then the residual's addition, then `ReLU`: all but the convolution where they are.
///
/// The pool and the classifier are blocks too: a depthwise convolution as large as its input with weights of 1/area,
/// and a 1×1 convolution of what that leaves. So a device that convolves can run the whole network.
#[derive(Debug, Clone)]
pub struct Block {
    pub name: String,
    /// The geometry, on every device. Its activation is not used: see `relu`.
    pub convolution: DirectConvolution,
    /// `[out_channels, in_channels / groups, kernel…]`
    pub weight: Vec<f32>,
    /// `[out_channels]`
    pub bias: Option<Vec<f32>>,
    /// Gone once it is folded.
    pub batch_norm: Option<BatchNorm>,
    /// The block whose output is added.
    pub residual: Option<usize>,
    pub relu: bool,
    /// Rows and columns of the input.
    pub input: [usize; 2],
}

/// A `BatchNorm`; its arrays are `[out_channels]`.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    pub name: String,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub running_mean: Vec<f32>,
    pub running_var: Vec<f32>,
    /// Batches that the running statistics have seen.
    pub num_batches_tracked: i64,
    pub eps: f64,
}

impl Block {
    /// Rows and columns of the output.
    pub fn output(&self) -> [usize; 2] {
        self.convolution.output_size(self.input)
    }

    /// Elements of the input of one image.
    pub fn input_len(&self) -> usize {
        self.convolution.in_channels * self.input[0] * self.input[1]
    }

    /// Elements of the output of one image.
    pub fn output_len(&self) -> usize {
        let [height, width] = self.output();
        self.convolution.out_channels * height * width
    }

    /// How often the block writes a tensor of its output's size: each of convolution, `BatchNorm` and what follows it
    /// is a pass over memory, until the convolution takes it all into its epilogue.
    pub fn passes(&self) -> usize {
        if self.batch_norm.is_some() { 3 } else { 1 }
    }
}

impl Network {
    /// Elements of an image.
    pub fn input_len(&self) -> usize {
        self.blocks.first().map_or(0, Block::input_len)
    }

    /// Elements of an image's logits.
    pub fn classes(&self) -> usize {
        self.blocks.last().map_or(0, Block::output_len)
    }

    /// Makes the `BatchNorm`s forget their data, as PyTorch's `reset_running_stats` does.
    pub fn reset_running_statistics(&mut self) {
        for norm in self.blocks.iter_mut().filter_map(|block| block.batch_norm.as_mut()) {
            norm.running_mean.fill(0.0);
            norm.running_var.fill(1.0);
            norm.num_batches_tracked = 0;
        }
    }

    /// The network without its `BatchNorm`s, and what folding them did to the numbers: a report for each block.
    pub fn fold(&self) -> std::result::Result<(Self, Vec<Option<FoldReport>>), FoldError> {
        let folded: Vec<_> = self.blocks.iter().map(fold).collect::<std::result::Result<_, _>>()?;
        let (blocks, reports) = folded.into_iter().unzip();
        Ok((Self { blocks }, reports))
    }
}

fn fold(block: &Block) -> std::result::Result<(Block, Option<FoldReport>), FoldError> {
    let Some(norm) = &block.batch_norm else {
        return Ok((block.clone(), None));
    };
    let affine = BatchNormParams::new(&norm.running_mean, &norm.running_var, norm.eps)
        .weight(&norm.weight)
        .bias(&norm.bias)
        .affine()?;
    let convolution = &block.convolution;
    let [rows, columns] = convolution.kernel;
    let shape = [convolution.out_channels, convolution.in_channels / convolution.groups, rows, columns];
    let mut layer = LinearOp::new(Layer::Conv { groups: convolution.groups }, &block.weight, &shape);
    if let Some(bias) = &block.bias {
        layer = layer.bias(bias);
    }
    let Folded { weight, bias, report } = layer.fold_after(&affine)?;
    Ok((Block { weight, bias: Some(bias), batch_norm: None, ..block.clone() }, Some(report)))
}
