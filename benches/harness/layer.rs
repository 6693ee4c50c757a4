//! A cell's layer.

use warpnorm::{
    Backend, BatchNorm, DType, GroupNorm, InstanceNorm, LayerNorm, Prepared, QkNorm, QuantizedType, RmsNorm, Shape,
    Signature,
};

use super::Result;
use super::case::{Around, Case, Op};

/// PyTorch's default for all layers, and here RMSNorm's too.
pub const EPS: f64 = 1e-5;

fn signature(case: &Case) -> Result<Signature> {
    let mut signature = Signature::new(Shape::new(&case.shape())?, case.dtype);
    let setters: [fn(Signature, DType) -> Signature; 6] = [
        Signature::weight,
        Signature::bias,
        Signature::post_norm_weight,
        Signature::gate,
        Signature::scale,
        Signature::shift,
    ];
    for (set, _) in setters.into_iter().zip(case.coefficients()).filter(|(_, elements)| *elements > 0) {
        signature = set(signature, case.weight);
    }
    if case.residual {
        signature = signature.residual().sum();
    }
    if let Around::Quantized(scaling) = case.around {
        signature = signature.quantized_output(QuantizedType::F8E4M3, scaling);
    }
    Ok(signature)
}

/// Whatever a layer decides before a call.
pub fn prepare<B: Backend>(on: &B, case: &Case) -> Result<Prepared<B>> {
    let (channels, activation, layout) = (case.channels(), case.activation, case.layout);
    let signature = signature(case)?;
    let has_post_norm = case.around == Around::PostNorm;
    Ok(match case.op {
        Op::LayerNorm => {
            let layer = LayerNorm::new([channels])?.activation(activation).post_norm(has_post_norm);
            layer.scale_plus_one(matches!(case.around, Around::Modulated { .. })).prepare(on, &signature)?
        }
        Op::RmsNorm => {
            let layer = RmsNorm::new([channels], EPS)?.activation(activation).post_norm(has_post_norm);
            layer.prepare(on, &signature)?
        }
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
        Op::BatchNormTraining | Op::BatchNormStatistics => {
            let layer = BatchNorm::new(channels)?.layout(layout).activation(activation).batch_statistics(true);
            layer.prepare(on, &signature.update_running_statistics())?
        }
    })
}
