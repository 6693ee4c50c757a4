//! A model switches by changing an import.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};

use crate::tensors::{assert_near, normal};

/// The same source with the modules of one library or the other.
macro_rules! model {
    ($name:ident, $library:ident) => {
        mod $name {
            use candle_core::{Result, Tensor};
            use candle_nn::{Conv2d, Conv2dConfig, Linear, VarBuilder, conv2d, linear};

            use $library::{
                BatchNorm, GroupNorm, LayerNorm, LayerNormConfig, Module, ModuleT, RmsNorm, batch_norm, group_norm,
                layer_norm, rms_norm,
            };

            /// A convolution and its norms, and a block of a transformer on the pixels.
            pub struct Model {
                convolution: Conv2d,
                batch_norm: BatchNorm,
                group_norm: GroupNorm,
                layer_norm: LayerNorm,
                linear: Linear,
                rms_norm: RmsNorm,
            }

            impl Model {
                pub fn new(vb: VarBuilder) -> Result<Self> {
                    let config = LayerNormConfig { eps: 1e-6, ..Default::default() };
                    Ok(Self {
                        convolution: conv2d(3, 16, 3, Conv2dConfig::default(), vb.pp("conv"))?,
                        batch_norm: batch_norm(16, 1e-5, vb.pp("bn"))?,
                        group_norm: group_norm(4, 16, 1e-5, vb.pp("gn"))?,
                        layer_norm: layer_norm(16, config, vb.pp("ln"))?,
                        linear: linear(16, 16, vb.pp("linear"))?,
                        rms_norm: rms_norm(16, 1e-6, vb.pp("rms"))?,
                    })
                }

                pub fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
                    let x = self.batch_norm.forward_t(&self.convolution.forward(images)?, train)?.relu()?;
                    let x = self.group_norm.forward(&x)?.silu()?;
                    let x = x.flatten_from(2)?.transpose(1, 2)?;
                    let x = (&x + self.linear.forward(&self.layer_norm.forward(&x)?)?)?;
                    self.rms_norm.forward(&x)
                }
            }
        }
    };
}

model!(candles, candle_nn);
model!(ours, warpnorm_candle);

#[test]
fn one_source_two_libraries() -> Result<()> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let (candles, ours) = (candles::Model::new(vb.clone())?, ours::Model::new(vb.clone())?);
    let count = variables.all_vars().len();
    assert_eq!(count, 2 + 4 + 2 + 2 + 2 + 1, "both are made of the same variables");
    let images: Vec<Tensor> = (0..3).map(|seed| normal(&[2, 3, 8, 8], DType::F32, seed)).collect::<Result<_>>()?;

    // Variables of their own, so that training one does not move the other.
    let separate = |from: &VarMap| -> Result<VarBuilder<'static>> {
        let data = from.data().lock().expect("the only thread");
        let copies = data.iter().map(|(name, var)| Ok((name.clone(), var.as_tensor().copy()?)));
        Ok(VarBuilder::from_tensors(copies.collect::<Result<_>>()?, DType::F32, &Device::Cpu))
    };
    assert_near(&ours.forward(&images[0], false)?, &candles.forward(&images[0], false)?, "evaluation")?;
    let (candles, ours) = (candles::Model::new(separate(&variables)?)?, ours::Model::new(separate(&variables)?)?);
    for images in &images {
        assert_near(&ours.forward(images, true)?, &candles.forward(images, true)?, "training")?;
    }
    assert_near(&ours.forward(&images[0], false)?, &candles.forward(&images[0], false)?, "evaluation afterwards")
}
