//! Chips of other generations: the same answers, bit for bit, whatever the plan makes of the device's limits.

use emulator::{Profile, Settings};
use warpnorm::half::bf16;
use warpnorm::{Cuda, Layout};

use crate::call::{Call, Inputs, Layer, Residual, expected, verify};
use crate::data::bits;
use crate::device;

const CHIPS: [(Profile, &str); 6] = [
    (Profile::Sm75, "(sm_75)"),
    (Profile::Sm80, "(sm_80)"),
    (Profile::Sm86, "(sm_86)"),
    (Profile::Sm86WithoutPools, "(sm_86)"),
    (Profile::Sm90, "(sm_90)"),
    (Profile::Sm110ByOldPtx, "(sm_110)"),
];

fn calls() -> [Call; 16] {
    [
        Call::new(Layer::LayerNorm, &[5, 100]),
        Call::new(Layer::LayerNorm, &[3, 2048]),
        Call::new(Layer::LayerNorm, &[3, 5000]),
        Call::new(Layer::RmsNorm { weight_plus_one: false }, &[2, 40_000]),
        Call::new(Layer::LayerNorm, &[2, 150_000]),
        Call { residual: Residual::SumWritten, ..Call::new(Layer::LayerNorm, &[2, 70_000]) },
        Call::new(Layer::group_norm(2), &[2, 6, 9, 9]),
        Call::new(Layer::BatchNorm { layout: Layout::Nchw, table: false }, &[2, 40, 31, 31]),
        Call::new(Layer::BatchNorm { layout: Layout::Nhwc, table: true }, &[2, 31, 31, 40]),
        Call::new(Layer::GroupNorm { groups: 4, layout: Layout::Nhwc }, &[2, 9, 9, 40]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[3, 7, 20, 21]),
        // For clusters, where there are any.
        Call::new(Layer::GroupNorm { groups: 4, layout: Layout::Nhwc }, &[2, 40, 50, 40]),
        Call {
            residual: Residual::SumWritten,
            ..Call::new(Layer::InstanceNorm { layout: Layout::Nhwc }, &[1, 70, 90, 24])
        },
        Call::new(Layer::BatchStatistics { layout: Layout::Nhwc, momentum: Some(0.1) }, &[3, 40, 50, 24]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: None }, &[4, 12, 120, 128]),
        // For nobody.
        Call::new(Layer::GroupNorm { groups: 2, layout: Layout::Nhwc }, &[1, 520, 400, 8]),
    ]
}

/// Asked for on every chip, programmatic dependent launch is used where the kernels know it, and changes no bits.
#[test]
fn programmatic_launch_where_the_kernels_know_it() {
    let device = device::cuda();
    let Some(emulator) = device.emulator else { return println!("a GPU's driver does not count its launches") };
    for (profile, _) in CHIPS {
        emulator.configure(&Settings { profile, ..Settings::default() });
        let plain = Cuda::open(0).expect("an emulated device");
        let cuda = plain.clone().programmatic_launch(true);
        for call in calls() {
            let inputs = Inputs::<bf16>::normal(&call, 48);
            let expected = expected(&call, &inputs);
            let before = device::launches(emulator);
            let found = verify(&plain, &call, &inputs, &expected);
            let between = device::launches(emulator);
            assert_eq!(between[1], before[1], "{call:?} on {profile:?}: nobody has asked for it");
            let programmatic = verify(&cuda, &call, &inputs, &expected);
            let after = device::launches(emulator);
            assert_eq!(bits(&found.y), bits(&programmatic.y), "{call:?} on {profile:?}");
            assert_eq!(after[0] - between[0], between[0] - before[0], "{call:?} on {profile:?}");
            let expected = if profile == Profile::Sm90 { after[0] - between[0] } else { 0 };
            assert_eq!(after[1] - between[1], expected, "{call:?} on {profile:?}");
        }
    }
}

#[test]
fn every_chip_agrees() {
    let device = device::cuda();
    let Some(emulator) = device.emulator else { return println!("a GPU is of one kind") };
    for call in calls() {
        let inputs = Inputs::<bf16>::normal(&call, 47);
        let mut first: Option<Vec<u64>> = None;
        for (profile, chip) in CHIPS {
            emulator.configure(&Settings { profile, ..Settings::default() });
            let cuda = Cuda::open(0).expect("an emulated device");
            let name = cuda.device_name().expect("a name");
            assert!(name.ends_with(chip), "{name} for {profile:?}");
            let found = bits(&verify(&cuda, &call, &inputs, &expected(&call, &inputs)).y);
            assert_eq!(first.get_or_insert(found.clone()), &found, "{call:?} on {profile:?}");
        }
    }
}
