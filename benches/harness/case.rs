//! One cell of a benchmark.

use warpnorm::{Activation, DType, Layout, Scaling};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    LayerNorm,
    RmsNorm,
    /// Query and key heads in one tensor: rows whose weight is that of their kind.
    QkRmsNorm {
        heads: [usize; 2],
    },
    GroupNorm {
        groups: usize,
    },
    InstanceNorm,
    BatchNormInference,
    /// By the statistics of the batch, which move the running ones.
    BatchNormTraining,
    /// What that takes for the statistics: the difference between it and normalization by given ones. On a CPU.
    BatchNormStatistics,
}

/// What surrounds a norm of rows, beside a residual and an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    Nothing,
    /// The input has a norm of its own before the residual is added.
    PostNorm,
    /// As adaptive LayerNorm has it: the input is gated before the residual is added, and scale and shift, which with the
    /// gate are those of a sample, stand in place of weight and bias.
    Modulated {
        samples: usize,
    },
    /// The output is of e4m3, and its scales are written.
    Quantized(Scaling),
}

/// A layer over a tensor. `Debug` is for messages; `Display` is its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub op: Op,
    /// `[rows, columns]`, or `[N, C, spatial…]` whatever the layout.
    pub extents: Vec<usize>,
    pub layout: Layout,
    pub dtype: DType,
    /// Of weight and bias.
    pub weight: DType,
    /// A residual is added and the sum written out, to a tensor of its own.
    pub residual: bool,
    pub around: Around,
    pub activation: Activation,
    /// One set of buffers, used again and again: what fits a cache stays there.
    pub warm: bool,
}

impl Case {
    pub fn new(op: Op, extents: &[usize], dtype: DType) -> Self {
        Self {
            op,
            extents: extents.to_vec(),
            layout: Layout::Nchw,
            dtype,
            weight: dtype,
            residual: false,
            around: Around::Nothing,
            activation: Activation::None,
            warm: false,
        }
    }

    pub fn has_rows(&self) -> bool {
        matches!(self.op, Op::LayerNorm | Op::RmsNorm | Op::QkRmsNorm { .. })
    }

    /// Positions of a sample: the product of the spatial axes.
    pub fn spatial(&self) -> usize {
        if self.has_rows() { 1 } else { self.extents[2..].iter().product() }
    }

    pub fn elements(&self) -> usize {
        self.extents.iter().product()
    }

    /// Elements of a row, or of weight and bias.
    pub fn channels(&self) -> usize {
        self.extents[1]
    }

    /// Elements of weight, bias, the post-norm's weight, gate, scale and shift; 0 of what there is not.
    pub fn coefficients(&self) -> [usize; 6] {
        let channels = self.channels();
        // RMSNorm has no bias where it is used.
        let [weight, bias] = [channels, if self.subtracts_mean() { channels } else { 0 }];
        match self.around {
            Around::Nothing | Around::Quantized(_) => [weight, bias, 0, 0, 0, 0],
            Around::PostNorm => [weight, bias, channels, 0, 0, 0],
            Around::Modulated { samples } => [0, 0, 0, samples * channels, samples * channels, samples * channels],
        }
    }

    /// Whether the statistics are the batch's.
    pub fn has_batch_statistics(&self) -> bool {
        matches!(self.op, Op::BatchNormTraining | Op::BatchNormStatistics)
    }

    pub fn subtracts_mean(&self) -> bool {
        !matches!(self.op, Op::RmsNorm | Op::QkRmsNorm { .. })
    }

    /// The shape as the layer takes it.
    pub fn shape(&self) -> Vec<usize> {
        if let Op::QkRmsNorm { heads: [q_heads, k_heads] } = self.op {
            let heads = q_heads + k_heads;
            return vec![self.extents[0] / heads, heads, self.extents[1]];
        }
        if let Around::Modulated { samples } = self.around {
            return vec![samples, self.extents[0] / samples, self.extents[1]];
        }
        if self.has_rows() || self.layout == Layout::Nchw {
            return self.extents.clone();
        }
        let [batch, channels, spatial @ ..] = self.extents.as_slice() else { unreachable!("at least two axes") };
        [&[*batch], spatial, &[*channels]].concat()
    }

    pub fn op_name(&self) -> &'static str {
        match (self.op, self.residual) {
            _ if self.around != Around::Nothing => self.fused_name(),
            (Op::LayerNorm, false) => "layer_norm",
            (Op::LayerNorm, true) => "add_layer_norm",
            (Op::RmsNorm, false) => "rms_norm",
            (Op::RmsNorm, true) => "add_rms_norm",
            (Op::QkRmsNorm { .. }, _) => "qk_rms_norm",
            (Op::GroupNorm { .. }, _) => "group_norm",
            (Op::InstanceNorm, _) => "instance_norm",
            (Op::BatchNormInference, _) => "batch_norm_inference",
            (Op::BatchNormTraining, _) => "batch_norm_training",
            (Op::BatchNormStatistics, _) => "batch_norm_statistics",
        }
    }

    fn fused_name(&self) -> &'static str {
        match (self.op, self.residual, self.around) {
            (Op::RmsNorm, true, Around::PostNorm) => "post_add_rms_norm",
            (Op::LayerNorm, true, Around::Modulated { .. }) => "ada_layer_norm",
            (Op::RmsNorm, false, Around::Quantized(Scaling::Rows)) => "rms_norm_f8_rows",
            (Op::RmsNorm, false, Around::Quantized(Scaling::Groups)) => "rms_norm_f8_groups",
            _ => panic!("{self:?} has no name"),
        }
    }

    /// `ROWSxCOLUMNS` or `NxCxHxW`.
    pub fn extents_name(&self) -> String {
        self.extents.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
    }

    /// Everything that op, extents, types and layout do not say; words joined by `+`.
    pub fn variant(&self) -> String {
        let mut words = Vec::new();
        if let Op::GroupNorm { groups } = self.op {
            words.push(format!("g{groups}"));
        }
        if let Op::QkRmsNorm { heads: [q_heads, k_heads] } = self.op {
            words.push(format!("q{q_heads}k{k_heads}"));
        }
        if let Around::Modulated { samples } = self.around {
            words.push(format!("n{samples}"));
        }
        if self.residual && !self.has_rows() {
            words.push("residual".to_owned());
        }
        match self.activation {
            Activation::None => {}
            activation => words.push(format!("{activation:?}").to_lowercase()),
        }
        if self.warm {
            words.push("warm".to_owned());
        }
        words.join("+")
    }

    pub fn layout_name(&self) -> &'static str {
        match self.layout {
            _ if self.has_rows() => "rows",
            Layout::Nhwc => "nhwc",
            Layout::Nchw => "nchw",
        }
    }

    /// Bytes of the inputs, each read once.
    pub fn read_bytes(&self) -> usize {
        let tensors = if self.residual { 2 } else { 1 };
        let has_statistics = self.op == Op::BatchNormInference || self.has_batch_statistics();
        let statistics = if has_statistics { 2 * self.channels() * DType::F32.size() } else { 0 };
        let coefficients = self.coefficients().iter().sum::<usize>() * self.weight.size();
        tensors * self.elements() * self.dtype.size() + coefficients + statistics
    }

    /// Bytes of the outputs, each written once.
    pub fn written_bytes(&self) -> usize {
        let sum = if self.residual { self.elements() * self.dtype.size() } else { 0 };
        let statistics = if self.has_batch_statistics() { 2 * self.channels() * DType::F32.size() } else { 0 };
        let output = match self.around {
            _ if self.op == Op::BatchNormStatistics => 0,
            Around::Quantized(scaling) => self.elements() + self.scales(scaling) * DType::F32.size(),
            _ => self.elements() * self.dtype.size(),
        };
        output + sum + statistics
    }

    pub fn scales(&self, scaling: Scaling) -> usize {
        scaling.scales(self.extents[0], self.channels())
    }

    pub fn bytes(&self) -> usize {
        self.read_bytes() + self.written_bytes()
    }

    /// The same cell with few elements, by which everything but speed can be tried. Rows keep their length as long as
    /// kernels are chosen by it.
    pub fn shrunk(mut self) -> Self {
        const MOST_ELEMENTS: usize = 40_000;
        let mut left = MOST_ELEMENTS;
        // Rows and samples first, then space, then channels: a group stays whole.
        for extent in self.extents.iter_mut().rev() {
            *extent = (*extent).min(left);
            left = (left / *extent).max(1);
        }
        if self.has_rows() {
            self.extents[0] = match self.op {
                Op::QkRmsNorm { heads } => heads.iter().sum(),
                _ => self.extents[0].min(3),
            };
            if let Around::Modulated { samples } = &mut self.around {
                *samples = 2;
                self.extents[0] = 2 * *samples;
            }
            return self;
        }
        if let Op::GroupNorm { groups } = self.op {
            self.extents[1] = self.extents[1].next_multiple_of(groups);
        }
        self
    }
}

/// As in `rms_norm/8192x8192/bf16`, with what is not plain behind.
impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.op_name(), self.extents_name(), self.dtype)?;
        if self.weight != self.dtype {
            write!(f, "/weight-{}", self.weight)?;
        }
        if !self.has_rows() {
            write!(f, "/{}", self.layout_name())?;
        }
        match self.variant().as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}
