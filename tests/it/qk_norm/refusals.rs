//! What QkNorm refuses, and what the other layers refuse of it.

use warpnorm::half::f16;
use warpnorm::raw::Addresses;
use warpnorm::{Args, BatchNorm, Cpu, DType, Error, LayerNorm, QkNorm, RmsNorm, Signature};

use crate::device;
use crate::place::Place;

const NAME: &str = "QkNorm";

#[test]
fn descriptors() {
    let rms = QkNorm::rms;
    assert_eq!(rms([0, 1], 64, 1e-6), Err(Error::Empty { layer: NAME, parameter: "q_heads" }));
    assert_eq!(rms([1, 0], 64, 1e-6), Err(Error::Empty { layer: NAME, parameter: "k_heads" }));
    assert_eq!(QkNorm::layer([1, 1], 0), Err(Error::Empty { layer: NAME, parameter: "head_dim" }));
    assert_eq!(rms([1, 1], 1025, 1e-6), Err(Error::TooLarge { what: "head_dim", found: 1025, limit: 1024 }));
    assert!(rms([1, 1], 1024, 0.0).is_ok());
    for heads in [[usize::MAX, usize::MAX], [usize::MAX / 2, 1]] {
        assert!(matches!(QkNorm::layer(heads, 64), Err(Error::ShapeOverflow { .. })), "{heads:?}");
    }
    for eps in [-1e-6, f64::NAN, f64::INFINITY] {
        assert!(matches!(rms([1, 1], 64, eps), Err(Error::Eps { .. })), "{eps}");
        assert!(matches!(QkNorm::layer([1, 1], 64).and_then(|layer| layer.eps(eps)), Err(Error::Eps { .. })), "{eps}");
    }
}

/// Two tokens of 2 query heads, 1 key head and 1 value head of 4.
fn refusals<P: Place>(place: &P) {
    let layer = QkNorm::rms([2, 1], 4, 1e-6).unwrap();
    let x = place.put(&[1.0_f32; 48]);
    let halves = place.put(&[f16::ONE; 48]);
    let (mut y, mut k) = (place.put(&[7.0_f32; 48]), place.put(&[7.0_f32; 48]));
    let missing = |argument| Err(Error::Missing { layer: NAME, argument });
    {
        let x = |range| place.view(&x, range);
        let (qkv, q_in, k_in, four) = (x(0..32), x(0..16), x(0..8), x(0..4));
        let halves = |range| place.view(&halves, range);
        let (half_keys, half_weight) = (halves(0..8), halves(0..4));
        // Each with a lifetime of its own, which a closure cannot give.
        macro_rules! packed {
            () => {
                Args::new(place, [2, 4, 4])
            };
        }
        macro_rules! of_queries {
            () => {
                Args::new(place, [2, 2, 4])
            };
        }
        let unexpected = |result| match result {
            Err(Error::Unexpected { layer: NAME, argument, .. }) => argument,
            other => panic!("{other:?}"),
        };
        assert_eq!(layer.forward(packed!().input(&qkv)), missing("output"));
        let mut q_out = place.view_mut(&mut y, 0..32);
        let mut k_out = place.view_mut(&mut k, 0..8);
        for (shape, separate, expected) in [
            (
                &[2, 2, 4][..],
                false,
                "QkNorm: the shape [2, 2, 4] does not fit, expected one of queries and keys, which ends in [3 or more, 4]",
            ),
            (
                &[2, 4, 5],
                false,
                "QkNorm: the shape [2, 4, 5] does not fit, expected one of queries and keys, which ends in [3 or more, 4]",
            ),
            (
                &[4],
                false,
                "QkNorm: the shape [4] does not fit, expected one of queries and keys, which ends in [3 or more, 4]",
            ),
            (
                &[2, 4, 4],
                true,
                "QkNorm: the shape [2, 4, 4] does not fit, expected one of queries, which ends in [2, 4]",
            ),
        ] {
            let args = Args::new(place, warpnorm::Shape::new(shape).unwrap()).output(&mut q_out);
            let refused = layer.forward(if separate { args.key_output(&mut k_out) } else { args });
            assert_eq!(refused.expect_err("a refusal").to_string(), expected);
        }
        assert_eq!(layer.forward(packed!().weight(&four).output(&mut q_out)), missing("key_weight"));
        assert_eq!(layer.forward(packed!().key_weight(&four).output(&mut q_out)), missing("weight"));
        assert_eq!(layer.forward(packed!().bias(&four).output(&mut q_out)), missing("key_bias"));
        assert_eq!(layer.forward(packed!().key_bias(&four).output(&mut q_out)), missing("bias"));
        assert_eq!(layer.weight_plus_one(true).forward(packed!().output(&mut q_out)), missing("weight"));

        let both = layer.forward(packed!().weight(&four).key_weight(&half_weight).output(&mut q_out));
        assert!(matches!(both, Err(Error::ElementType { argument: "key_weight", .. })), "{both:?}");
        let long = layer.forward(packed!().weight(&four).key_weight(&k_in).output(&mut q_out));
        assert_eq!(long, Err(Error::Length { argument: "key_weight", found: 8, expected: 4 }));
        let long = layer.forward(packed!().bias(&four).key_bias(&k_in).output(&mut q_out));
        assert_eq!(long, Err(Error::Length { argument: "key_bias", found: 8, expected: 4 }));
        let short = layer.forward(packed!().input(&q_in).output(&mut q_out));
        assert_eq!(short, Err(Error::Length { argument: "input", found: 16, expected: 32 }));
        let stride = layer.forward(packed!().input(&qkv).input_row_stride(15).output(&mut q_out));
        assert_eq!(stride, Err(Error::RowStride { argument: "input", found: 15, length: 16 }));

        // One tensor has no keys of its own.
        let keys = packed!().key_input(&k_in).output(&mut q_out);
        assert_eq!(unexpected(layer.forward(keys)), "key_input");
        let keys = packed!().key_output_row_stride(16).output(&mut q_out);
        assert_eq!(unexpected(layer.forward(keys)), "key_output_row_stride");

        let long = layer.forward(of_queries!().input(&q_in).output(&mut q_out).key_output(&mut k_out));
        assert_eq!(long, Err(Error::Length { argument: "output", found: 32, expected: 16 }));
        drop(q_out);
        let mut q_out = place.view_mut(&mut y, 0..16);
        let short = layer.forward(of_queries!().output(&mut q_out).key_input(&four).key_output(&mut k_out));
        assert_eq!(short, Err(Error::Length { argument: "key_input", found: 4, expected: 8 }));
        let types = layer.forward(of_queries!().output(&mut q_out).key_input(&half_keys).key_output(&mut k_out));
        assert_eq!(types, Err(Error::ElementType { argument: "key_input", found: DType::F16, expected: "f32" }));
        let strided = of_queries!().output(&mut q_out).key_output(&mut k_out).key_output_row_stride(3);
        assert_eq!(layer.forward(strided), Err(Error::RowStride { argument: "key_output", found: 3, length: 4 }));
        let types = layer.forward(of_queries!().input(&halves(0..16)).output(&mut q_out).key_output(&mut k_out));
        assert_eq!(types, Err(Error::ElementType { argument: "output", found: DType::F32, expected: "f16" }));

        // What surrounds other layers, and what is not theirs.
        macro_rules! refused {
            ($layer:expr, $shape:expr; $($argument:ident($value:expr);)*) => {$({
                let refused = $layer.forward(Args::new(place, $shape).$argument($value).output(&mut q_out));
                let is_it = |found| found == stringify!($argument);
                assert!(matches!(refused, Err(Error::Unexpected { argument, .. }) if is_it(argument)), "{refused:?}");
            })*};
        }
        refused! {
            layer, [1, 4, 4];
            residual(&q_in);
            scale(&four);
            shift(&four);
            gate(&four);
            input_bias(&four);
            channel_bias(&four);
            second_residual(&q_in);
            running_mean(&four);
            running_var(&four);
            channel_table(&four);
        }
        refused! {
            LayerNorm::new([4]).unwrap(), [4, 4];
            key_input(&k_in);
            key_output(&mut k_out);
            key_weight(&four);
            key_bias(&four);
            key_input_row_stride(4);
            key_output_row_stride(4);
        }
        refused! { BatchNorm::new(4).unwrap(), [4, 4]; key_weight(&four); }
    }
    assert_eq!((place.get(&y), place.get(&k)), (vec![7.0; 48], vec![7.0; 48]), "a refused call has written");
    let (mut q_out, mut k_out) = (place.view_mut(&mut y, 0..16), place.view_mut(&mut k, 0..8));
    layer.forward(Args::new(place, [2, 2, 4]).output(&mut q_out).key_output(&mut k_out)).expect("a good call");
    drop((q_out, k_out));
    assert!(place.get(&y)[..16].iter().chain(&place.get(&k)[..8]).all(|y| (y - 1.0).abs() < 1e-6));
}

#[test]
fn refusals_on_cpu() {
    refusals(&Cpu);
}

#[test]
fn refusals_on_cuda() {
    refusals(&device::cuda().cuda);
}

/// Addresses can overlap where safe slices cannot. Parts of one tensor that lie side by side are no overlap.
fn overlaps<P: Place>(place: &P) {
    let (device, stream) = place.raw();
    let mut memory = place.put(&[1.0_f32; 96]);
    let start = place.address(&mut memory);
    let at = |element: u64| start + 4 * element;
    let (q, k) = (at(0), at(48));
    let launch = |signature: Signature, addresses: Addresses| {
        let call = QkNorm::rms([2, 2], 4, 1e-6).unwrap().prepare_raw(&device, &signature).unwrap();
        // SAFETY: memory of this place, as far as it is touched.
        unsafe { call.launch(&addresses, stream) }
    };
    let separate = Signature::new([2, 2, 4], DType::F32).key_output();
    let weighted = separate.weight(DType::F32).key_weight(DType::F32);
    let good = Addresses { output: q, key_output: k, ..Addresses::default() };
    let overlap = |written, other| Err(Error::Overlap { written, other });
    assert_eq!(launch(separate, Addresses { key_output: at(8), ..good }), overlap("output", "key_output"));
    // The same elements, but of the other kind: read by one row and written by another.
    assert_eq!(launch(separate, Addresses { key_input: q, ..good }), overlap("output", "key_input"));
    assert_eq!(launch(separate, Addresses { input: k, ..good }), overlap("key_output", "input"));
    assert_eq!(launch(separate, Addresses { key_input: at(50), ..good }), overlap("key_output", "key_input"));
    let weights = Addresses { weight: at(80), key_weight: at(50), ..good };
    assert_eq!(launch(weighted, weights), overlap("key_output", "key_weight"));
    let unexpected = launch(separate, Addresses { weight: at(80), ..good });
    assert!(matches!(unexpected, Err(Error::Unexpected { argument: "weight", .. })), "{unexpected:?}");
    let packed = Signature::new([2, 5, 4], DType::F32);
    let unexpected = launch(packed, good);
    assert!(matches!(unexpected, Err(Error::Unexpected { argument: "key_output", .. })), "{unexpected:?}");
    let missing = launch(separate, Addresses { key_output: 0, ..good });
    assert_eq!(missing, Err(Error::Missing { layer: NAME, argument: "key_output" }));
    let odd = Error::Misaligned { argument: "key_output", address: k + 2, size: 4 };
    assert_eq!(launch(separate, Addresses { key_output: k + 2, ..good }), Err(odd));
    // Both written in place, as parts of one tensor of [2, 5, 4]: safe Rust has no two such views, addresses do.
    let parts = separate.in_place().key_in_place().output_row_stride(20).key_output_row_stride(20);
    assert_eq!(launch(parts, Addresses { key_output: at(4), ..good }), overlap("output", "key_output"));
    assert_eq!(place.get(&memory), [1.0; 96], "a refused call has written");
    launch(parts, Addresses { key_output: at(8), ..good }).expect("side by side");
    launch(packed, Addresses { output: q, ..Addresses::default() }).expect("in place");
    launch(separate, good).expect("in place");
    let empty = Signature::new([0, 2, 4], DType::F32).key_output();
    launch(empty, Addresses::default()).expect("nothing to do");
}

#[test]
fn overlaps_on_cpu() {
    overlaps(&Cpu);
}

#[test]
fn overlaps_on_cuda() {
    overlaps(&device::cuda().cuda);
}

/// What is one-sided, or belongs to other layers, is refused before there are buffers.
#[test]
fn preparing() {
    let layer = QkNorm::rms([2, 1], 4, 1e-6).unwrap();
    let signature = Signature::new([2, 4, 4], DType::F16);
    let prepared = |signature| layer.prepare(&Cpu, &signature).map(|_| ());
    assert_eq!(prepared(signature), Ok(()));
    assert_eq!(prepared(signature.weight(DType::F32)), Err(Error::Missing { layer: NAME, argument: "key_weight" }));
    assert!(matches!(prepared(signature.output(DType::F32)), Err(Error::ElementType { argument: "output", .. })));
    let bf16 = prepared(signature.weight(DType::Bf16).key_weight(DType::F16));
    assert!(matches!(bf16, Err(Error::ElementType { argument: "weight", .. })), "{bf16:?}");
    assert!(matches!(prepared(signature.key_output()), Err(Error::Shape { .. })));
    let vast = QkNorm::rms([1, 1 << 40], 4, 1e-6).unwrap();
    let vast = vast.prepare(&Cpu, &Signature::new([1 << 30, 1, 4], DType::F16).key_output()).map(|_| ());
    assert!(matches!(vast, Err(Error::ShapeOverflow { .. })), "{vast:?}");
    // RMSNorm takes the keys' options no more than it takes keys.
    let rows = RmsNorm::new([4], 1e-6).unwrap().prepare(&Cpu, &signature.key_weight(DType::F16)).unwrap();
    let mut y = [f16::ONE; 32];
    let refused = rows.forward(Args::new(&Cpu, [2, 4, 4]).key_weight(&[f16::ONE; 4]).output(&mut y));
    assert!(matches!(refused, Err(Error::Unexpected { argument: "key_weight", .. })), "{refused:?}");
}
