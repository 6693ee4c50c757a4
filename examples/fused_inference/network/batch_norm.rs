//! A `BatchNorm` on a device, by either kind of statistics.

use warpnorm::{Args, DType, Prepared, Shape, Signature, Workspace};

use super::runner::Device;
use super::{BatchNorm, Block, Result};

/// By what a network's `BatchNorm`s normalize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// By what they know: inference.
    Running,
    /// By the batch at hand; the running statistics become the average over all batches.
    Batch,
}

/// A `BatchNorm` on a device, and the convolution's output, on which it works in place.
pub struct Normalization<D: Device> {
    call: Prepared<D>,
    shape: Shape,
    weight: D::Buffer,
    bias: D::Buffer,
    running_mean: D::Buffer,
    running_var: D::Buffer,
    /// Where the running statistics move.
    num_batches_tracked: Option<D::Counter>,
    pub convolved: D::Buffer,
}

impl<D: Device> Normalization<D> {
    pub fn new(device: &D, block: &Block, norm: &BatchNorm, batch: usize, by: Statistics) -> Result<Self> {
        let channels = block.convolution.out_channels;
        let [height, width] = block.output();
        let shape = Shape::from([batch, channels, height, width]);
        let signature = Signature::new(shape, DType::F32).weight(DType::F32).bias(DType::F32);
        let layer = warpnorm::BatchNorm::new(channels)?.eps(norm.eps)?;
        let (call, num_batches_tracked) = match by {
            Statistics::Running => (layer.prepare(device, &signature)?, None),
            Statistics::Batch => {
                let signature = signature.update_running_statistics().num_batches_tracked();
                let call = layer.batch_statistics(true).momentum(None)?.prepare(device, &signature)?;
                (call, Some(device.upload_counter(norm.num_batches_tracked)?))
            }
        };
        Ok(Self {
            call,
            shape,
            weight: device.upload(&norm.weight)?,
            bias: device.upload(&norm.bias)?,
            running_mean: device.upload(&norm.running_mean)?,
            running_var: device.upload(&norm.running_var)?,
            num_batches_tracked,
            convolved: device.upload(&vec![0.0; batch * block.output_len()])?,
        })
    }

    /// Of the workspace that a call needs.
    pub fn workspace_bytes(&self) -> usize {
        self.call.workspace_bytes()
    }

    /// Normalizes `convolved`, and moves the running statistics if it is by the batch's.
    pub fn run(&mut self, device: &D, workspace: &mut Workspace<D>) -> Result<()> {
        let args = Args::new(device, self.shape)
            .weight(&self.weight)
            .bias(&self.bias)
            .output(&mut self.convolved)
            .workspace(workspace);
        let args = match &mut self.num_batches_tracked {
            None => args.running_mean(&self.running_mean).running_var(&self.running_var),
            Some(batches) => args
                .update_running_statistics(&mut self.running_mean, &mut self.running_var)
                .num_batches_tracked(batches),
        };
        Ok(self.call.forward(args)?)
    }

    /// The running statistics as they are on the device.
    pub fn read_statistics(&self, device: &D, norm: &mut BatchNorm) -> Result<()> {
        norm.running_mean = device.download(&self.running_mean)?;
        norm.running_var = device.download(&self.running_var)?;
        if let Some(batches) = &self.num_batches_tracked {
            norm.num_batches_tracked = device.download_counter(batches)?;
        }
        Ok(())
    }
}
