//! A network on a device, for batches of one size: everything is allocated and decided before the first pass.

use warpnorm::{Backend, DirectConvolution, Sink, Source};

use super::batch_norm::{Normalization, Statistics};
use super::{Block, Network, Result};

/// A backend that convolves.
///
/// `BatchNorm` is not among the methods: by the library it is the same call on every backend, see [`Normalization::run`].
pub trait Device: Backend {
    /// f32 in the device's memory.
    type Buffer: Source<Self, f32> + Sink<Self, f32>;
    /// One i64 there.
    type Counter: Sink<Self, i64>;
    /// What convolutions need beside their tensors.
    type Workspace;

    fn upload(&self, values: &[f32]) -> Result<Self::Buffer>;
    /// Replaces the contents of a buffer by as many values.
    fn overwrite(&self, buffer: &mut Self::Buffer, values: &[f32]) -> Result<()>;
    fn download(&self, buffer: &Self::Buffer) -> Result<Vec<f32>>;
    fn upload_counter(&self, count: i64) -> Result<Self::Counter>;
    fn download_counter(&self, counter: &Self::Counter) -> Result<i64>;
    fn workspace(&self, network: &Network, batch: usize) -> Result<Self::Workspace>;

    /// `y = relu(convolution(x) + bias + residual)`
    fn convolve(
        &self,
        workspace: &mut Self::Workspace,
        call: &Convolve<'_, Self::Buffer>,
        x: &Self::Buffer,
        y: &mut Self::Buffer,
    ) -> Result<()>;

    /// `y = relu(x + residual)`
    fn add_relu(
        &self,
        workspace: &mut Self::Workspace,
        x: &Self::Buffer,
        residual: Option<&Self::Buffer>,
        relu: bool,
        y: &mut Self::Buffer,
    ) -> Result<()>;

    /// Waits until everything is computed.
    fn synchronize(&self) -> Result<()>;
}

/// A convolution of a batch, and what is done with its results before they go to memory.
#[derive(Debug, Clone, Copy)]
pub struct Convolve<'a, T> {
    pub geometry: DirectConvolution,
    pub batch: usize,
    /// Rows and columns of the input.
    pub size: [usize; 2],
    pub weight: &'a T,
    pub bias: Option<&'a T>,
    pub residual: Option<&'a T>,
    pub relu: bool,
}

/// A network on a device.
pub struct Runner<'d, D: Device> {
    device: &'d D,
    batch: usize,
    stages: Vec<Stage<D>>,
    /// The images, then every block's output.
    tensors: Vec<D::Buffer>,
    workspace: D::Workspace,
    /// Of all `BatchNorm`s, which follow upon each other.
    norm_workspace: warpnorm::Workspace<D>,
}

/// A block on a device.
struct Stage<D: Device> {
    geometry: DirectConvolution,
    size: [usize; 2],
    weight: D::Buffer,
    bias: Option<D::Buffer>,
    batch_norm: Option<Normalization<D>>,
    residual: Option<usize>,
    relu: bool,
}

impl<'d, D: Device> Runner<'d, D> {
    /// The network as it infers: `BatchNorm` by running statistics.
    pub fn new(device: &'d D, network: &Network, batch: usize) -> Result<Self> {
        Self::with(device, network, batch, Statistics::Running)
    }

    /// The network as it learns about its data: `BatchNorm` by the batch's statistics, each pass moving the running ones.
    pub fn reestimating(device: &'d D, network: &Network, batch: usize) -> Result<Self> {
        Self::with(device, network, batch, Statistics::Batch)
    }

    fn with(device: &'d D, network: &Network, batch: usize, by: Statistics) -> Result<Self> {
        let zeros = |len: usize| device.upload(&vec![0.0; batch * len]);
        let mut tensors = vec![zeros(network.input_len())?];
        for block in &network.blocks {
            tensors.push(zeros(block.output_len())?);
        }
        let stage = |block| Stage::new(device, block, batch, by);
        let stages: Vec<_> = network.blocks.iter().map(stage).collect::<Result<_>>()?;
        let norms = stages.iter().filter_map(|stage| stage.batch_norm.as_ref());
        let bytes = norms.map(Normalization::workspace_bytes).max().unwrap_or(0);
        let norm_workspace = warpnorm::Workspace::init(device, bytes)?;
        Ok(Self { device, batch, stages, tensors, workspace: device.workspace(network, batch)?, norm_workspace })
    }

    /// The images of the passes that follow.
    pub fn set_images(&mut self, images: &[f32]) -> Result<()> {
        self.device.overwrite(&mut self.tensors[0], images)
    }

    /// One pass of the network, which a GPU may still be at when this returns.
    pub fn run(&mut self) -> Result<()> {
        let Self { device, batch, stages, tensors, workspace, norm_workspace } = self;
        for (index, stage) in stages.iter_mut().enumerate() {
            let (inputs, outputs) = tensors.split_at_mut(index + 1);
            let (x, y) = (&inputs[index], &mut outputs[0]);
            // Tensor 0 is the images.
            let residual = stage.residual.map(|block| &inputs[block + 1]);
            let mut call = Convolve {
                geometry: stage.geometry,
                batch: *batch,
                size: stage.size,
                weight: &stage.weight,
                bias: stage.bias.as_ref(),
                residual,
                relu: stage.relu,
            };
            let Some(norm) = &mut stage.batch_norm else {
                device.convolve(workspace, &call, x, y)?;
                continue;
            };
            (call.residual, call.relu) = (None, false);
            device.convolve(workspace, &call, x, &mut norm.convolved)?;
            norm.run(device, norm_workspace)?;
            device.add_relu(workspace, &norm.convolved, residual, stage.relu, y)?;
        }
        Ok(())
    }

    /// Waits for the passes that were begun.
    pub fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    /// Writes the running statistics, as they are after all passes, into the network that is being run.
    pub fn read_statistics(&self, network: &mut Network) -> Result<()> {
        for (stage, block) in self.stages.iter().zip(&mut network.blocks) {
            if let (Some(norm), Some(read)) = (&stage.batch_norm, &mut block.batch_norm) {
                norm.read_statistics(self.device, read)?;
            }
        }
        Ok(())
    }

    /// What the last pass computed: `[batch, classes]`.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let logits = self.tensors.last().ok_or("a network without blocks")?;
        self.device.download(logits)
    }
}

impl<D: Device> Stage<D> {
    fn new(device: &D, block: &Block, batch: usize, by: Statistics) -> Result<Self> {
        let normalization = |norm| Normalization::new(device, block, norm, batch, by);
        Ok(Self {
            geometry: block.convolution,
            size: block.input,
            weight: device.upload(&block.weight)?,
            bias: block.bias.as_deref().map(|bias| device.upload(bias)).transpose()?,
            batch_norm: block.batch_norm.as_ref().map(normalization).transpose()?,
            residual: block.residual,
            relu: block.relu,
        })
    }
}
