//! Convolutions that a BatchNorm follows: every shape of ResNet-50 and MobileNetV2 once, for images of 224 × 224. Named as in
//! benches/rivals/layers.py.

use warpnorm::{Activation, DirectConvolution};

/// What follows the BatchNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Nothing,
    Relu,
    Relu6,
}

/// Square images and kernels, padded by half a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    pub network: &'static str,
    pub in_channels: usize,
    pub channels: usize,
    pub size: usize,
    pub kernel: usize,
    pub stride: usize,
    pub groups: usize,
    pub behind: Behind,
}

impl Convolution {
    pub fn geometry(&self) -> DirectConvolution {
        DirectConvolution {
            in_channels: self.in_channels,
            out_channels: self.channels,
            kernel: [self.kernel; 2],
            stride: self.stride,
            padding: self.kernel / 2,
            groups: self.groups,
            activation: Activation::None,
        }
    }

    /// Elements of the input, of the output and of the weight.
    pub fn elements(&self) -> [usize; 3] {
        let [height, width] = self.geometry().output_size([self.size; 2]);
        let taps = self.in_channels / self.groups * self.kernel * self.kernel;
        [self.in_channels * self.size * self.size, self.channels * height * width, self.channels * taps]
    }

    pub fn case(&self) -> String {
        format!("1x{}x{size}x{size}", self.in_channels, size = self.size)
    }

    pub fn variant(&self) -> String {
        let mut words = vec![
            self.network.to_owned(),
            format!("c{}", self.channels),
            format!("k{}", self.kernel),
            format!("s{}", self.stride),
        ];
        if self.groups > 1 {
            words.push("depthwise".to_owned());
        }
        match self.behind {
            Behind::Nothing => {}
            behind => words.push(format!("{behind:?}").to_lowercase()),
        }
        words.join("+")
    }
}

pub fn resnet50() -> Vec<Convolution> {
    let layer = |in_channels, channels, size, kernel, stride, behind| Convolution {
        network: "resnet50",
        in_channels,
        channels,
        size,
        kernel,
        stride,
        groups: 1,
        behind,
    };
    let mut layers = vec![layer(3, 64, 224, 7, 2, Behind::Relu)];
    let (mut in_channels, mut size) = (64, 56);
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let width = 64 << stage;
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            layers.push(layer(in_channels, width, size, 1, 1, Behind::Relu));
            layers.push(layer(width, width, size, 3, stride, Behind::Relu));
            // Its activation comes behind the sum.
            layers.push(layer(width, 4 * width, size / stride, 1, 1, Behind::Nothing));
            if block == 0 {
                layers.push(layer(in_channels, 4 * width, size, 1, stride, Behind::Nothing));
            }
            (in_channels, size) = (4 * width, size / stride);
        }
    }
    once(layers)
}

pub fn mobilenetv2() -> Vec<Convolution> {
    let layer = |in_channels, channels, size, kernel, stride, groups, behind| Convolution {
        network: "mobilenetv2",
        in_channels,
        channels,
        size,
        kernel,
        stride,
        groups,
        behind,
    };
    let mut layers = vec![layer(3, 32, 224, 3, 2, 1, Behind::Relu6)];
    let (mut in_channels, mut size) = (32, 112);
    // Expansion, channels, repetitions, stride of the first: table 2 of arXiv:1801.04381.
    let table =
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    for (expansion, channels, repetitions, first_stride) in table {
        for repetition in 0..repetitions {
            let stride = if repetition == 0 { first_stride } else { 1 };
            let inner = expansion * in_channels;
            if expansion > 1 {
                layers.push(layer(in_channels, inner, size, 1, 1, 1, Behind::Relu6));
            }
            layers.push(layer(inner, inner, size, 3, stride, inner, Behind::Relu6));
            size /= stride;
            layers.push(layer(inner, channels, size, 1, 1, 1, Behind::Nothing));
            in_channels = channels;
        }
    }
    layers.push(layer(in_channels, 1280, size, 1, 1, 1, Behind::Relu6));
    once(layers)
}

fn once(layers: Vec<Convolution>) -> Vec<Convolution> {
    let mut all = Vec::new();
    for layer in layers {
        if !all.contains(&layer) {
            all.push(layer);
        }
    }
    all
}
