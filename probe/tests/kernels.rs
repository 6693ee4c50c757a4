//! The probe's kernels do what their names say: every copier copies all of it, at every size, on a GPU or the emulator.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr};
use emulator::Variant;
use probe::{Attributes, Probe};

fn device() -> (Arc<CudaStream>, Probe) {
    if !emulator::real_gpu() {
        emulator::preload(Variant::Checked);
    }
    let context = CudaContext::new(0).expect("a device, real or emulated");
    let probe = Probe::load(&context).expect("the probe's kernels");
    (context.new_stream().expect("a stream"), probe)
}

fn assert_no_report() {
    assert_eq!(emulator::loaded().map(|emulator| emulator.take_report()).unwrap_or_default(), "");
}

/// Less than a word, a word, around a tile of each kernel, and more tiles than one block.
const BYTES: [usize; 8] = [4, 16, 4096, 4112, 16_384, 32_752, 32_768, 100_000];

#[test]
fn copiers_copy_and_readers_leave_everything_as_it_is() {
    let (stream, probe) = device();
    for bytes in BYTES {
        let words = bytes.div_ceil(16) * 4;
        let values: Vec<u32> = (0..words as u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
        let source = stream.clone_htod(&values).expect("upload");
        for mover in probe.copiers().iter().chain(probe.readers()) {
            let target = stream.clone_htod(&vec![7_u32; words + 4]).expect("upload");
            let (from, to) = (source.device_ptr(&stream).0, target.device_ptr(&stream).0);
            // SAFETY: both hold so many bytes, and live until the download.
            unsafe { mover.launch(&stream, from, to, bytes as u64) }.expect("a launch");
            let found = stream.clone_dtoh(&target).expect("download");
            let is_copier = mover.name().contains("copy");
            let expected = if is_copier { &values } else { &vec![7; words] };
            assert_eq!(&found[..words], expected, "{} of {bytes} bytes", mover.name());
            assert_eq!(found[words..], [7; 4], "{} of {bytes} bytes wrote beyond", mover.name());
        }
    }
    assert_no_report();
}

#[test]
fn a_block_knows_its_place_in_the_cluster() {
    let (stream, probe) = device();
    let largest =
        [16, 8, 4, 2].into_iter().find(|&blocks| probe.resident_clusters(blocks, 256, 0).expect("occupancy") > 0);
    for cluster in [1, 2, 4, 8, 16].into_iter().filter(|&cluster| cluster <= largest.unwrap_or(1)) {
        let expected: Vec<_> = (0..3 * cluster).map(|block| (cluster, block % cluster)).collect();
        assert_eq!(probe.places(&stream, cluster, 3, (64, 1024)).expect("a launch"), expected);
    }
    assert_no_report();
}

#[test]
fn nothing_can_be_launched_in_every_way() {
    let (stream, probe) = device();
    let programmatic = stream.context().compute_capability().expect("a capability").0 >= 9;
    probe.launch_nothing(&stream, Attributes::default()).expect("a launch");
    probe.launch_nothing(&stream, Attributes { cluster: 1, programmatic }).expect("a launch");
    let mut bare = probe.bare_launch(&stream);
    (0..3).for_each(|_| bare());
    stream.synchronize().expect("the end of it");
    assert_no_report();
}
