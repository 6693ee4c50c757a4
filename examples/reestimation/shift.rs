//! Images as a camera sees them that is not the one of the training.

use super::network::checkpoint::Image;

/// `contrast · pixel + brightness + noise · (a random number of mean 0 and deviation 1)`, of pixels from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Shift {
    pub name: &'static str,
    pub contrast: f32,
    pub brightness: f32,
    pub noise: f32,
}

pub const SHIFTS: [Shift; 4] = [
    Shift { name: "none", contrast: 1.0, brightness: 0.0, noise: 0.0 },
    Shift { name: "contrast", contrast: 0.35, brightness: 0.4, noise: 0.0 },
    Shift { name: "noise", contrast: 1.0, brightness: 0.0, noise: 0.35 },
    Shift { name: "both", contrast: 0.35, brightness: 0.4, noise: 0.05 },
];

impl Shift {
    /// The images as the network gets them. The noise of an image does not depend on those behind it.
    pub fn of(&self, images: &[Image]) -> Vec<f32> {
        let mut noise = Noise { state: 0 };
        let shifted = |pixel| self.contrast * pixel + self.brightness + self.noise * noise.next();
        images.iter().flat_map(Image::input).map(shifted).collect()
    }
}

/// Numbers that are nearly normal, of mean 0 and deviation 1: twelve uniform ones added up. Their bits are the same on
/// every machine, which logarithm and cosine would not promise.
struct Noise {
    state: u64,
}

impl Noise {
    fn next(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| self.uniform()).sum();
        (sum - 6.0) as f32
    }

    /// From 0 to 1, by `SplitMix64` (Steele, Lea and Flood, 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}
