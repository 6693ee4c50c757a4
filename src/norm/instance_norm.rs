use super::batch_norm::channel_map;
use super::group_norm::groups;
use super::{Activation, DEFAULT_EPS, Layer, checked_eps, entry_points, eps, with_activation};
use crate::error::Result;
use crate::problem::Problem;
use crate::shape::{Layout, Shape};
use crate::signature::Signature;

/// Instance normalization (Ulyanov, Vedaldi and Lempitsky, 2016): the moments of each sample and channel run over the
/// spatial axes.
///
/// `y = weight[c] · (x − mean) / sqrt(var + eps) + bias[c]`
///
/// The tensor is `[N, C, spatial…]` or, with [`Layout::Nhwc`], `[N, spatial…, C]`, with 0 to 3 spatial axes; weight and bias
/// are `[C]`; each may be absent. In NHWC a sample that does not fit into a cluster's shared memory takes a GPU two launches and
/// a [`Workspace`](crate::Workspace). With
/// [`track_running_stats`](Self::track_running_stats) mean and variance are the running statistics, `[C]` in f32, as in
/// PyTorch's evaluation of such a layer.
///
/// ```
/// use warpnorm::{Args, Cpu, InstanceNorm};
///
/// let mut x = vec![1.0_f32; 2 * 3 * 4];
/// InstanceNorm::new(3)?.forward(Args::new(&Cpu, [2, 3, 4]).bias(&[0.5_f32; 3]).output(&mut x))?;
/// assert_eq!(x, [0.5_f32; 24]); // constant planes give exactly the bias
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InstanceNorm {
    num_features: usize,
    layout: Layout,
    eps: f32,
    track_running_stats: bool,
    scale_plus_one: bool,
    activation: Activation,
}

impl InstanceNorm {
    /// A layer over `num_features` channels, with PyTorch's `eps` of 1e-5.
    ///
    /// # Errors
    /// None today; a `Result` as of every other layer.
    pub fn new(num_features: usize) -> Result<Self> {
        let eps = checked_eps(DEFAULT_EPS)?;
        let (layout, activation) = (Layout::Nchw, Activation::None);
        Ok(Self { num_features, layout, eps, track_running_stats: false, scale_plus_one: false, activation })
    }

    /// Whether the [`scale`](crate::Args::scale) of a sample is stored as an offset from 1. Adaptive instance normalization
    /// stores it as it is.
    #[must_use]
    pub const fn scale_plus_one(self, scale_plus_one: bool) -> Self {
        Self { scale_plus_one, ..self }
    }

    /// Where the channels lie.
    #[must_use]
    pub const fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Whether mean and variance are running statistics, given with each call, instead of the input's own.
    #[must_use]
    pub const fn track_running_stats(self, track_running_stats: bool) -> Self {
        Self { track_running_stats, ..self }
    }

    /// The shape of weight, bias and running statistics: `[C]`.
    #[must_use]
    pub fn weight_shape(&self) -> Shape {
        [self.num_features].into()
    }
}

eps!(InstanceNorm);
with_activation!(InstanceNorm);
entry_points!(InstanceNorm);

impl Layer for InstanceNorm {
    const NAME: &'static str = "InstanceNorm";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        if self.track_running_stats {
            let map = channel_map(Self::NAME, signature, self.num_features, self.layout, self.eps, self.activation)?;
            return Ok(Problem::Pointwise(map));
        }
        // A group of one channel each. Without channels there is nothing to do, and no division by their number.
        let channels = [self.num_features.max(1), self.num_features];
        groups(Self::NAME, signature, channels, self.layout, self.scale_plus_one, self.eps, self.activation)
    }
}
