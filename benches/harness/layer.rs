//! A cell's layer.

use warpnorm::{Backend, BatchNorm, GroupNorm, InstanceNorm, LayerNorm, Prepared, QkNorm, RmsNorm, Shape, Signature};

use super::Result;
use super::case::{Case, Op};

/// PyTorch's default for all layers, and here RMSNorm's too.
pub const EPS: f64 = 1e-5;

/// Whatever a layer decides before a call.
pub fn prepare<B: Backend>(on: &B, case: &Case) -> Result<Prepared<B>> {
    let (channels, activation, layout) = (case.channels(), case.activation, case.layout);
    let mut signature = Signature::new(Shape::new(&case.shape())?, case.dtype).weight(case.weight);
    if case.has_bias() {
        signature = signature.bias(case.weight);
    }
    if case.residual {
        signature = signature.residual().sum();
    }
    Ok(match case.op {
        Op::LayerNorm => LayerNorm::new([channels])?.activation(activation).prepare(on, &signature)?,
        Op::RmsNorm => RmsNorm::new([channels], EPS)?.activation(activation).prepare(on, &signature)?,
        Op::QkRmsNorm { heads } => {
            QkNorm::rms(heads, channels, EPS)?.prepare(on, &signature.key_weight(case.weight))?
        }
        Op::GroupNorm { groups } => {
            GroupNorm::new(groups, channels)?.layout(layout).activation(activation).prepare(on, &signature)?
        }
        Op::InstanceNorm => {
            InstanceNorm::new(channels)?.layout(layout).activation(activation).prepare(on, &signature)?
        }
        Op::BatchNormInference => {
            BatchNorm::new(channels)?.layout(layout).activation(activation).prepare(on, &signature)?
        }
        Op::BatchNormTraining => {
            let layer = BatchNorm::new(channels)?.layout(layout).activation(activation).batch_statistics(true);
            layer.prepare(on, &signature.update_running_statistics())?
        }
    })
}
