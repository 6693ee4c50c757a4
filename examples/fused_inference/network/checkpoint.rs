//! The network and its held-out images from the file that `train.py` writes.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use warpnorm::{Activation, DirectConvolution};

use super::{BatchNorm, Block, Network, Result};

/// What a trained network comes with.
#[derive(Debug)]
pub struct Checkpoint {
    pub network: Network,
    pub images: Vec<Image>,
    /// What PyTorch computed for the images, in f64: `[images, classes]`.
    pub logits: Vec<f32>,
    /// How many of the images PyTorch classified rightly.
    pub correct: usize,
}

/// A held-out image: rows of pixels from 0 to [`WHITE`], and the digit that was meant.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    pub pixels: [u8; SIDE * SIDE],
    pub label: u8,
}

pub const SIDE: usize = 8;
pub const WHITE: u8 = 16;

impl Image {
    /// The image as the network takes it.
    pub fn input(&self) -> impl Iterator<Item = f32> {
        self.pixels.into_iter().map(|pixel| f32::from(pixel) / f32::from(WHITE))
    }
}

/// An entry of the metadata's list of layers.
#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Kind {
    Conv2d(Conv2d),
    GlobalAveragePool,
    Linear { in_features: usize, out_features: usize, bias: bool },
}

#[derive(Deserialize)]
struct Conv2d {
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    stride: usize,
    padding: usize,
    groups: usize,
    bias: bool,
    bn: Option<String>,
    residual: Option<String>,
    relu: bool,
}

impl Checkpoint {
    /// Reads the bytes of a file, and checks that its tensors have the shapes that its list of layers asks for.
    pub fn read(file: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(file)?;
        let pairs = header.metadata().iter().flatten();
        let metadata = pairs.map(|(key, value)| (key.clone(), value.clone())).collect();
        let tensors = SafeTensors::deserialize(file)?;
        let reader = Reader { tensors, metadata };
        let network = reader.network()?;
        let labels = reader.bytes("heldout.labels", &[None])?;
        let pixels = reader.bytes("heldout.images", &[Some(labels.len()), Some(SIDE), Some(SIDE)])?;
        let (pixels, _) = pixels.as_chunks();
        let images: Vec<_> = pixels.iter().zip(labels).map(|(&pixels, &label)| Image { pixels, label }).collect();
        let logits = reader.floats("heldout.logits", &[images.len(), network.classes()])?;
        let correct = reader.number("heldout_correct")?;
        if images.is_empty() || network.input_len() != SIDE * SIDE {
            return Err("the file has no held-out images, or its network takes others".into());
        }
        Ok(Self { network, images, logits, correct })
    }
}

struct Reader<'a> {
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl Reader<'_> {
    fn network(&self) -> Result<Network> {
        let eps = self.number("eps")?;
        let entries: Vec<Entry> = serde_json::from_str(self.text("layers")?)?;
        let mut blocks: Vec<Block> = Vec::with_capacity(entries.len());
        let (mut channels, mut size) = (1, [SIDE, SIDE]);
        for Entry { name, kind } in entries {
            let block = match kind {
                Kind::Conv2d(layer) => self.convolution(name, &layer, size, eps, &blocks)?,
                Kind::GlobalAveragePool => pool(name, channels, size),
                Kind::Linear { in_features, out_features, bias } => Block {
                    convolution: convolution([in_features, out_features], [1, 1]),
                    weight: self.floats(&format!("{name}.weight"), &[out_features, in_features])?,
                    bias: bias.then(|| self.floats(&format!("{name}.bias"), &[out_features])).transpose()?,
                    batch_norm: None,
                    residual: None,
                    relu: false,
                    input: size,
                    name,
                },
            };
            if block.convolution.in_channels != channels || block.output_len() == 0 {
                return Err(format!("{} does not fit {channels} channels of {size:?} pixels", block.name).into());
            }
            (channels, size) = (block.convolution.out_channels, block.output());
            blocks.push(block);
        }
        Ok(Network { blocks })
    }

    fn convolution(
        &self,
        name: String,
        layer: &Conv2d,
        input: [usize; 2],
        eps: f64,
        before: &[Block],
    ) -> Result<Block> {
        let &Conv2d { in_channels, out_channels, kernel_size, stride, padding, groups, .. } = layer;
        if groups == 0 || !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
            return Err(format!("{name}: {groups} groups of {in_channels} and {out_channels} channels").into());
        }
        let kernel = [kernel_size, kernel_size];
        let geometry = convolution([in_channels, out_channels], kernel);
        let block = Block {
            convolution: DirectConvolution { stride, padding, groups, ..geometry },
            weight: self
                .floats(&format!("{name}.weight"), &[out_channels, in_channels / groups, kernel_size, kernel_size])?,
            bias: layer.bias.then(|| self.floats(&format!("{name}.bias"), &[out_channels])).transpose()?,
            batch_norm: layer.bn.as_deref().map(|norm| self.batch_norm(norm, out_channels, eps)).transpose()?,
            residual: layer.residual.as_deref().map(|residual| position(residual, before)).transpose()?,
            relu: layer.relu,
            input,
            name,
        };
        if let Some(residual) = block.residual.map(|residual| &before[residual])
            && (residual.convolution.out_channels, residual.output()) != (out_channels, block.output())
        {
            return Err(format!("{}: the output of {} has another shape", block.name, residual.name).into());
        }
        Ok(block)
    }

    fn batch_norm(&self, name: &str, channels: usize, eps: f64) -> Result<BatchNorm> {
        let array = |array: &str| self.floats(&format!("{name}.{array}"), &[channels]);
        Ok(BatchNorm {
            name: name.to_owned(),
            weight: array("weight")?,
            bias: array("bias")?,
            running_mean: array("running_mean")?,
            running_var: array("running_var")?,
            num_batches_tracked: self.integer(&format!("{name}.num_batches_tracked"))?,
            eps,
        })
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let expected: Vec<_> = shape.iter().copied().map(Some).collect();
        let (bytes, _) = self.elements(name, Dtype::F32, &expected)?.as_chunks();
        Ok(bytes.iter().copied().map(f32::from_le_bytes).collect())
    }

    fn integer(&self, name: &str) -> Result<i64> {
        let bytes = self.elements(name, Dtype::I64, &[])?;
        Ok(i64::from_le_bytes(bytes.try_into()?))
    }

    fn bytes(&self, name: &str, shape: &[Option<usize>]) -> Result<&[u8]> {
        self.elements(name, Dtype::U8, shape)
    }

    /// A tensor's bytes, if it has this type and these extents; `None` is an extent of any size.
    fn elements(&self, name: &str, dtype: Dtype, shape: &[Option<usize>]) -> Result<&[u8]> {
        let tensor = self.tensors.tensor(name).map_err(|error| format!("{name}: {error}"))?;
        let fits = tensor.shape().len() == shape.len()
            && tensor
                .shape()
                .iter()
                .zip(shape)
                .all(|(&found, &expected)| expected.is_none_or(|extent| extent == found));
        if tensor.dtype() != dtype || !fits {
            return Err(
                format!("{name} is {:?} {:?}, expected {dtype:?} {shape:?}", tensor.dtype(), tensor.shape()).into()
            );
        }
        Ok(tensor.data())
    }

    fn text(&self, key: &str) -> Result<&str> {
        let text = self.metadata.get(key).ok_or_else(|| format!("the file's metadata has no `{key}`"))?;
        Ok(text)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("`{key}` of the file's metadata is no number: {text}").into())
    }
}

/// A dense convolution of stride 1 without padding.
const fn convolution([in_channels, out_channels]: [usize; 2], kernel: [usize; 2]) -> DirectConvolution {
    DirectConvolution {
        in_channels,
        out_channels,
        kernel,
        stride: 1,
        padding: 0,
        groups: 1,
        activation: Activation::None,
    }
}

/// The mean of each channel: each has its own kernel, as large as the image.
fn pool(name: String, channels: usize, size: [usize; 2]) -> Block {
    let area = size[0] * size[1];
    Block {
        name,
        convolution: DirectConvolution { groups: channels, ..convolution([channels, channels], size) },
        weight: vec![1.0 / area as f32; channels * area],
        bias: None,
        batch_norm: None,
        residual: None,
        relu: false,
        input: size,
    }
}

fn position(name: &str, blocks: &[Block]) -> Result<usize> {
    let position = blocks.iter().position(|block| block.name == name);
    Ok(position.ok_or_else(|| format!("the residual {name} is no earlier layer"))?)
}
