//! The benchmark's own machinery: its cells run and are right on both backends, its check sees what is wrong, its figures
//! are what they say. What it measures is another matter.

#[path = "../../benches/harness/mod.rs"]
mod harness;

use std::collections::HashSet;

use harness::case::{Around, Case, Op};
use harness::cell::{Cell, Work};
use harness::check::max_err;
use harness::cuda::Gpu;
use harness::measure::{measure, quantile};
use harness::record::{Scene, Status, Writer, slug};
use harness::tensors::{Numbers, Output};
use harness::{Result, cpu, cuda, suites};
use warpnorm::half::bf16;
use warpnorm::{Activation, Cpu, DType, F8E4M3, Layout, Scaling};

/// The columns of the record, which whoever reads it relies on.
const COLUMNS: &str = "op,case,variant,dtype,weight_dtype,layout,n_bytes,n_read_bytes,impl,version,kernel,mode,samples,\
                       median_us,p5_us,p95_us,copy_us,copy_fraction,read_us,read_fraction,max_err,status,threads,commit,\
                       device,driver,toolkit,date";

/// The first of each kind of cell, shrunk. (Those of a GPU's suites are all run by the bundle's dry run, scripts/gpu-bundle.)
fn assert_right(cases: Vec<Case>, make: &dyn Fn(&Case) -> f64) {
    let mut kinds = HashSet::new();
    for case in suites::shrunk(cases) {
        if !kinds.insert((case.op_name(), case.layout_name(), case.dtype)) {
            continue;
        }
        let error = make(&case);
        // An error of exactly nothing would mean that nothing was compared.
        assert!(error > 0.0 && error <= 1.0, "{case}: {error} of the bound");
    }
}

#[test]
fn its_cells_are_right_on_the_cpu() {
    let everything = [suites::cpu(), suites::rows_on_gpu(), suites::images_on_gpu(), suites::decode()].concat();
    assert_right(everything, &|case| {
        let mut cell = cpu::cell(&Case { warm: true, ..case.clone() }).expect("a cell");
        cell.max_err().expect("a call")
    });
}

#[test]
fn its_cells_are_right_on_a_device() {
    let _device = crate::device::cuda();
    // A thousandth of a real cache: every way of rotating buffers occurs.
    let gpu = Gpu::open(Some(50_000)).expect("a device");
    assert_right([suites::images_on_gpu(), suites::decode()].concat(), &|case| {
        cuda::cell(&gpu, case).expect("a cell").max_err().expect("a launch")
    });
}

#[test]
fn windows_are_times() {
    let _device = crate::device::cuda();
    let gpu = Gpu::open(Some(50_000)).expect("a device");
    let case = Case::new(Op::LayerNorm, &[2, 600], DType::Bf16);
    let mut cell = cuda::cell(&gpu, &case).expect("a cell");
    assert_eq!(cell.kernel(), "rows_group_32_bf16");
    let figures = measure(cell.as_mut(), 1).expect("figures");
    assert_eq!(figures.samples, 1);
    assert!(figures.median_us > 0.0 && figures.copy_us > 0.0 && figures.read_us > 0.0, "{figures:?}");
}

/// One element, whichever, that is off by a unit in the last place, or was not written.
#[test]
fn its_check_sees_a_wrong_element() {
    let cases = [
        Case { residual: true, ..Case::new(Op::LayerNorm, &[5, 700], DType::Bf16) },
        Case::new(Op::RmsNorm, &[5, 700], DType::Bf16),
        Case { residual: true, around: Around::PostNorm, ..Case::new(Op::RmsNorm, &[5, 700], DType::Bf16) },
        Case {
            residual: true,
            around: Around::Modulated { samples: 3 },
            ..Case::new(Op::LayerNorm, &[6, 700], DType::Bf16)
        },
        Case::new(Op::QkRmsNorm { heads: [3, 2] }, &[10, 80], DType::Bf16),
        Case::new(Op::GroupNorm { groups: 2 }, &[2, 6, 5, 5], DType::Bf16),
        Case::new(Op::InstanceNorm, &[2, 3, 9, 9], DType::Bf16),
        Case { layout: Layout::Nhwc, ..Case::new(Op::BatchNormInference, &[2, 24, 15, 14], DType::Bf16) },
        Case { layout: Layout::Nhwc, ..Case::new(Op::GroupNorm { groups: 2 }, &[2, 6, 5, 5], DType::Bf16) },
        Case { layout: Layout::Nhwc, ..Case::new(Op::BatchNormTraining, &[2, 6, 5, 5], DType::Bf16) },
        Case::new(Op::BatchNormTraining, &[2, 6, 5, 5], DType::Bf16),
    ];
    for case in cases {
        let numbers = Numbers::<bf16>::new(&case);
        let (y, sum) = right_outputs(&case, &numbers);
        let Output::Elements(y) = y else { panic!("{case} is quantized") };
        let verdict = |y: &[bf16], sum: Option<&[bf16]>| max_err(&case, &numbers, &Output::Elements(y.to_vec()), sum);
        let right = verdict(&y, sum.as_deref());
        assert!(right > 0.0 && right <= 1.0, "{case}: {right}");
        for position in [0, y.len() / 2, y.len() - 1] {
            let mut wrong = y.clone();
            wrong[position] = bf16::from_bits(wrong[position].to_bits() + 2);
            assert!(verdict(&wrong, sum.as_deref()) > 1.0, "{case}: element {position}");
            wrong[position] = bf16::NAN;
            assert_eq!(verdict(&wrong, sum.as_deref()), f64::INFINITY, "{case}: element {position}");
        }
        if let Some(sum) = sum {
            let mut wrong = sum.clone();
            wrong[17] = bf16::from_bits(wrong[17].to_bits() + 2);
            assert!(verdict(&y, Some(&wrong)) > 1.0, "{case}: the sum");
        }
    }
}

/// The same of quantized outputs, and of their scales.
#[test]
fn its_check_sees_a_wrong_element_of_eight_bits() {
    for scaling in [Scaling::Rows, Scaling::Groups] {
        let case = Case { around: Around::Quantized(scaling), ..Case::new(Op::RmsNorm, &[5, 700], DType::Bf16) };
        let numbers = Numbers::<bf16>::new(&case);
        let Output::Quantized { q, scales, .. } = right_outputs(&case, &numbers).0 else { panic!("{case}") };
        let verdict = |q: &[F8E4M3], scales: &[f32]| {
            let found = Output::Quantized { scaling, q: q.to_vec(), scales: scales.to_vec() };
            max_err(&case, &numbers, &found, None)
        };
        let right = verdict(&q, &scales);
        assert!(right > 0.0 && right <= 1.0, "{case}: {right}");
        for position in [0, q.len() / 2, q.len() - 1] {
            let mut wrong = q.clone();
            // Two steps towards zero, or from it.
            wrong[position] = F8E4M3::from_bits(q[position].to_bits() ^ 2);
            assert!(verdict(&wrong, &scales) > 1.0, "{case}: element {position}");
            wrong[position] = F8E4M3::from_bits(0xff);
            assert_eq!(verdict(&wrong, &scales), f64::INFINITY, "{case}: element {position}");
        }
        for position in [0, scales.len() - 1] {
            let mut wrong = scales.clone();
            wrong[position] *= 1.001;
            assert!(verdict(&q, &wrong) > 1.0, "{case}: scale {position}");
        }
    }
}

/// By the layers themselves, on the CPU: other tests say that they are right.
fn right_outputs(case: &Case, numbers: &Numbers<bf16>) -> (Output<Cpu, bf16>, Option<Vec<bf16>>) {
    use harness::layer::prepare;
    use harness::tensors::{Constants, Tensors, call};
    let mut tensors = Tensors {
        x: numbers.x.clone(),
        residual: case.residual.then(|| numbers.residual.clone()),
        sum: case.residual.then(|| vec![bf16::ZERO; case.elements()]),
        y: Output::zeros(case),
    };
    let prepared = prepare(&Cpu, case).expect("a layer");
    let mut constants = Constants::new(&Cpu, case, &prepared, numbers).expect("constants");
    call(&Cpu, case, &prepared, &mut constants, &mut tensors).expect("a call");
    (tensors.y, tensors.sum)
}

/// A cell whose windows are known.
struct Clockwork {
    round: f64,
}

impl Cell for Clockwork {
    fn kernel(&self) -> String {
        String::new()
    }

    fn movers(&self) -> [String; 2] {
        Default::default()
    }

    fn max_err(&mut self) -> Result<f64> {
        Ok(0.0)
    }

    /// A machine that slows down by the round: the ratios stay.
    fn window(&mut self, work: Work) -> Result<f64> {
        self.round += 1.0 / 3.0;
        let slowness = 1.0 + self.round.floor();
        Ok(slowness * if work == Work::Call { 4e-6 } else { 1e-6 })
    }
}

#[test]
fn ratios_are_taken_within_a_round() {
    let figures = measure(&mut Clockwork { round: 0.01 }, 15).expect("figures");
    assert_eq!(figures.samples, 15);
    approx::assert_relative_eq!(figures.copy_fraction, 0.25, epsilon = 1e-12);
    approx::assert_relative_eq!(figures.read_fraction, 0.25, epsilon = 1e-12);
    assert!(figures.p5_us < figures.median_us && figures.median_us < figures.p95_us);
}

#[test]
fn quantiles_lie_between_samples() {
    let samples = [4.0, 1.0, 3.0, 2.0];
    approx::assert_relative_eq!(quantile(&samples, 0.0), 1.0);
    approx::assert_relative_eq!(quantile(&samples, 0.5), 2.5);
    approx::assert_relative_eq!(quantile(&samples, 0.95), 3.85);
    approx::assert_relative_eq!(quantile(&samples, 1.0), 4.0);
    assert!(quantile(&[], 0.5).is_nan());
}

#[test]
fn a_line_says_what_was_measured() {
    let case = Case {
        weight: DType::F32,
        residual: true,
        activation: Activation::GeluTanh,
        warm: true,
        ..Case::new(Op::RmsNorm, &[8, 4096], DType::Bf16)
    };
    let scene = Scene { mode: "graph", commit: "abc".to_owned(), device: "Some, GPU".to_owned(), ..Scene::default() };
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file);
    writer.write(&scene.line(&case).with_status(Status::Failed)).expect("a line");
    drop(writer);
    let text = String::from_utf8(file).expect("UTF-8");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(COLUMNS));
    // x, residual, sum, y, and a weight.
    let n_read_bytes = 2 * 8 * 4096 * 2 + 4096 * 4;
    let n_bytes = n_read_bytes + 2 * 8 * 4096 * 2;
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "add_rms_norm,8x4096,gelutanh+warm,bf16,f32,rows,{n_bytes},{n_read_bytes},warpnorm,{version},,graph,,,,,,,,,,failed,,\
         abc,\"Some, GPU\",,,"
    );
    assert_eq!(lines.next(), Some(expected.as_str()));
    assert_eq!(slug("NVIDIA H100 80GB HBM3 (sm_90)"), "nvidia-h100-80gb-hbm3-sm-90");
}

#[test]
fn every_cell_of_a_suite_has_a_name_of_its_own() {
    for suite in [suites::cpu(), suites::rows_on_gpu(), suites::images_on_gpu(), suites::decode()] {
        let mut names: Vec<String> = suite.iter().map(ToString::to_string).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a cell occurs twice");
    }
}
