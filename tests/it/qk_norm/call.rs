//! One call of QkNorm, described as a value: run on a backend, held against the oracle, and against LayerNorm or RMSNorm.

use std::ops::Range;

use warpnorm::{Activation, Args, DType, LayerNorm, QkNorm, Result, RmsNorm, Signature};

use crate::call::Coefficient;
use crate::data::{bits, exact, normal, stored};
use crate::oracle::{self, Expected, assert_within};
use crate::place::{Place, Real};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    Rms { weight_plus_one: bool },
    Layer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout {
    /// `[tokens, q + k + v, head_dim]`, in place.
    PackedInPlace,
    /// The same to another such tensor.
    Packed,
    /// Two tensors to two others.
    Separate,
    /// Two tensors, each in place.
    SeparateInPlace,
    /// Two views of one packed tensor to two tensors.
    FromPacked,
}

pub const LAYOUTS: [Layout; 5] =
    [Layout::PackedInPlace, Layout::Packed, Layout::Separate, Layout::SeparateInPlace, Layout::FromPacked];

impl Layout {
    fn reads_packed(self) -> bool {
        matches!(self, Self::PackedInPlace | Self::Packed | Self::FromPacked)
    }

    fn writes_packed(self) -> bool {
        matches!(self, Self::PackedInPlace | Self::Packed)
    }

    fn is_in_place(self) -> bool {
        matches!(self, Self::PackedInPlace | Self::SeparateInPlace)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub norm: Norm,
    /// Of queries, keys and values.
    pub heads: [usize; 3],
    pub head_dim: usize,
    pub tokens: usize,
    pub layout: Layout,
    pub eps: f64,
    /// Of queries and keys.
    pub weights: [Coefficient; 2],
    pub biases: [Coefficient; 2],
    /// Elements before a tensor, each of another number of them, so that it starts off an aligned address; 0 for none.
    pub offset: usize,
    /// Elements between tokens, likewise: of what is read, and of what is written elsewhere.
    pub gaps: [usize; 2],
}

impl Call {
    pub fn new(norm: Norm, heads: [usize; 3], head_dim: usize, tokens: usize) -> Self {
        Self {
            norm,
            heads,
            head_dim,
            tokens,
            layout: Layout::PackedInPlace,
            eps: 1e-6,
            weights: [Coefficient::Own; 2],
            biases: [Coefficient::Absent; 2],
            offset: 0,
            gaps: [0; 2],
        }
    }

    pub fn elements(&self) -> usize {
        self.tokens * self.heads.iter().sum::<usize>() * self.head_dim
    }

    fn width(&self, kind: usize) -> usize {
        self.heads[kind] * self.head_dim
    }

    pub fn layer(&self) -> Result<QkNorm> {
        let [q_heads, k_heads, _] = self.heads;
        match self.norm {
            Norm::Rms { weight_plus_one } => {
                Ok(QkNorm::rms([q_heads, k_heads], self.head_dim, self.eps)?.weight_plus_one(weight_plus_one))
            }
            Norm::Layer => QkNorm::layer([q_heads, k_heads], self.head_dim)?.eps(self.eps),
        }
    }

    pub fn shape(&self) -> [usize; 3] {
        let [q_heads, k_heads, v_heads] = self.heads;
        let heads = if self.layout.writes_packed() { q_heads + k_heads + v_heads } else { q_heads };
        [self.tokens, heads, self.head_dim]
    }

    /// The tensor of that number, of such parts of a token.
    fn tensor(&self, number: usize, kinds: Range<usize>) -> Tensor {
        let apart = |of: usize| if of == 0 { 0 } else { (of + 3 * number) % 9 };
        let widths = kinds.clone().map(|kind| self.width(kind)).collect();
        Tensor {
            first_kind: kinds.start,
            widths,
            tokens: self.tokens,
            offset: apart(self.offset),
            gap: apart(self.gaps[number / 2]),
        }
    }

    /// What a prepared call must know.
    pub fn signature(&self, dtype: DType) -> Signature {
        let stored = |coefficient| match coefficient {
            Coefficient::Absent => None,
            Coefficient::Own => Some(dtype),
            Coefficient::F32 => Some(DType::F32),
        };
        let mut signature = Signature::new(self.shape(), dtype);
        signature = stored(self.weights[0]).map_or(signature, |dtype| signature.weight(dtype));
        signature = stored(self.biases[0]).map_or(signature, |dtype| signature.bias(dtype));
        signature = stored(self.weights[1]).map_or(signature, |dtype| signature.key_weight(dtype));
        signature = stored(self.biases[1]).map_or(signature, |dtype| signature.key_bias(dtype));
        if self.layout.is_in_place() {
            signature = signature.in_place();
        }
        match self.layout {
            Layout::PackedInPlace | Layout::Packed => signature,
            Layout::SeparateInPlace => signature.key_in_place(),
            Layout::Separate | Layout::FromPacked => signature.key_output(),
        }
    }
}

/// A tensor `[tokens, …]` in memory: parts of a token behind each other, then a gap.
#[derive(Debug)]
struct Tensor {
    first_kind: usize,
    widths: Vec<usize>,
    tokens: usize,
    offset: usize,
    gap: usize,
}

impl Tensor {
    fn width(&self) -> usize {
        self.widths.iter().sum()
    }

    fn stride(&self) -> usize {
        self.width() + self.gap
    }

    fn span(&self) -> usize {
        if self.tokens == 0 { 0 } else { (self.tokens - 1) * self.stride() + self.width() }
    }

    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.span()
    }

    /// A part of one token.
    fn part(&self, kind: usize, token: usize) -> Range<usize> {
        let part = kind - self.first_kind;
        let start = self.offset + token * self.stride() + self.widths[..part].iter().sum::<usize>();
        start..start + self.widths[part]
    }

    /// From the first token's part to the last one's.
    fn span_of(&self, kind: usize) -> Range<usize> {
        match self.tokens {
            0 => 0..0,
            tokens => self.part(kind, 0).start..self.part(kind, tokens - 1).end,
        }
    }

    fn kinds(&self) -> Range<usize> {
        self.first_kind..self.first_kind + self.widths.len()
    }

    /// Memory with the parts in it, and around them what belongs to nobody.
    fn spread<T: Real>(&self, values: Option<&[Vec<T>; 3]>) -> Vec<T> {
        let mut memory = vec![T::from_f64(GUARD); self.offset + self.span() + 9];
        for (kind, token) in self.kinds().flat_map(|kind| (0..self.tokens).map(move |token| (kind, token))) {
            let width = self.widths[kind - self.first_kind];
            if let Some(values) = values {
                memory[self.part(kind, token)].copy_from_slice(&values[kind][token * width..][..width]);
            }
        }
        memory
    }

    fn gather<T: Real>(&self, memory: &[T], kind: usize) -> Vec<T> {
        (0..self.tokens).flat_map(|token| memory[self.part(kind, token)].to_vec()).collect()
    }

    /// Memory without the queries and keys in it: what no call may change.
    fn rest<T: Real>(&self, memory: &[T]) -> Vec<u64> {
        let mut rest = memory.to_vec();
        for (kind, token) in self.kinds().flat_map(|kind| (0..self.tokens).map(move |token| (kind, token))) {
            if kind < 2 {
                rest[self.part(kind, token)].fill(T::from_f64(GUARD));
            }
        }
        bits(&rest)
    }
}

/// What fills memory that belongs to nobody.
const GUARD: f64 = 0.4375;

#[derive(Debug, Clone)]
pub struct Inputs<T> {
    /// Queries, keys and values, `[tokens, heads · head_dim]`.
    pub x: [Vec<T>; 3],
    /// Of queries and keys; exact in every type.
    pub weights: [Vec<f64>; 2],
    pub biases: [Vec<f64>; 2],
}

impl<T: Real> Inputs<T> {
    pub fn normal(call: &Call, seed: u64) -> Self {
        let eighths = |seed, middle: f64| {
            normal(call.head_dim, seed).map(|v| middle + (v.clamp(-3.0, 3.0) * 8.0).round() / 8.0).collect()
        };
        let x = |kind: usize| stored(normal(call.tokens * call.width(kind), seed + kind as u64));
        Self {
            x: [x(0), x(1), x(2)],
            weights: [eighths(seed + 3, 1.0), eighths(seed + 4, 0.5)],
            biases: [eighths(seed + 5, 0.0), eighths(seed + 6, -1.0)],
        }
    }
}

/// One of weight and bias in both types that it may have.
struct Both<'v, P: Place + 'v, T: Real> {
    own: P::View<'v, T>,
    single: P::View<'v, f32>,
}

macro_rules! with {
    ($args:expr, $which:expr, $setter:ident, $both:expr) => {{
        let args = $args;
        match $which {
            Coefficient::Absent => args,
            Coefficient::Own => args.$setter(&$both.own),
            Coefficient::F32 => args.$setter(&$both.single),
        }
    }};
}

/// How a call is made.
pub type Forward<'f, P> = dyn Fn(Args<'_, P>) -> Result<()> + 'f;

/// Queries and keys after the call, of which nothing around them has changed.
pub fn run<P: Place, T: Real>(
    place: &P,
    call: &Call,
    inputs: &Inputs<T>,
    forward: &Forward<'_, P>,
) -> Result<[Vec<T>; 2]> {
    let layout = call.layout;
    let sources = if layout.reads_packed() {
        vec![call.tensor(0, 0..3)]
    } else {
        vec![call.tensor(0, 0..1), call.tensor(1, 1..2)]
    };
    let targets = match layout {
        Layout::PackedInPlace | Layout::SeparateInPlace => None,
        Layout::Packed => Some(vec![call.tensor(2, 0..3)]),
        Layout::Separate | Layout::FromPacked => Some(vec![call.tensor(2, 0..1), call.tensor(3, 1..2)]),
    };
    let before: Vec<Vec<T>> = sources.iter().map(|tensor| tensor.spread(Some(&inputs.x))).collect();
    let written = targets.as_ref().unwrap_or(&sources);
    let written_before = match &targets {
        None => before.clone(),
        Some(targets) => targets.iter().map(|tensor| tensor.spread(None)).collect(),
    };
    let read: Vec<_> = before.iter().map(|memory| place.put(memory)).collect();
    let mut out: Vec<_> = written_before.iter().map(|memory| place.put(memory)).collect();

    let shift = call.offset.min(1);
    let at = shift..shift + call.head_dim;
    let shifted = |values: &[f64]| std::iter::repeat_n(GUARD, shift).chain(values.iter().copied()).collect::<Vec<_>>();
    let coefficients: Vec<_> = [&inputs.weights[0], &inputs.weights[1], &inputs.biases[0], &inputs.biases[1]]
        .into_iter()
        .map(|values| {
            let values = shifted(values);
            (place.put(&stored::<T>(values.iter().copied())), place.put(&stored::<f32>(values.into_iter())))
        })
        .collect();
    {
        let both: Vec<Both<'_, P, T>> = coefficients
            .iter()
            .map(|(own, single)| Both { own: place.view(own, at.clone()), single: place.view(single, at.clone()) })
            .collect();
        let [w, kw, b, kb] = &both[..] else { unreachable!("four") };
        let mut outs: Vec<_> =
            out.iter_mut().zip(written).map(|(memory, tensor)| place.view_mut(memory, tensor.range())).collect();
        let mut outs = outs.iter_mut();
        // In place, what is read is what is written.
        let reads: Vec<_> = match layout {
            _ if layout.is_in_place() => Vec::new(),
            Layout::FromPacked => (0..2).map(|kind| place.view(&read[0], sources[0].span_of(kind))).collect(),
            _ => read.iter().zip(&sources).map(|(memory, tensor)| place.view(memory, tensor.range())).collect(),
        };
        let stride_of_source = |number: usize| sources[number.min(sources.len() - 1)].stride();
        let mut args = Args::new(place, call.shape()).output(outs.next().expect("an output"));
        args = args.output_row_stride(written[0].stride());
        if let Some(x) = reads.first() {
            args = args.input(x).input_row_stride(stride_of_source(0));
        }
        if let Some(keys) = outs.next() {
            args = args.key_output(keys).key_output_row_stride(written[1].stride());
            if let Some(x) = reads.get(1) {
                args = args.key_input(x).key_input_row_stride(stride_of_source(1));
            }
        }
        args = with!(args, call.weights[0], weight, w);
        args = with!(args, call.weights[1], key_weight, kw);
        args = with!(args, call.biases[0], bias, b);
        args = with!(args, call.biases[1], key_bias, kb);
        forward(args)?;
    }
    let after: Vec<Vec<T>> = out.iter().map(|memory| place.get(memory)).collect();
    for ((tensor, before), after) in written.iter().zip(&written_before).zip(&after) {
        assert_eq!(tensor.rest(before), tensor.rest(after), "{call:?}: something beside queries and keys was changed");
    }
    for (before, read) in before.iter().zip(&read) {
        assert_eq!(bits(before), bits(&place.get(read)), "{call:?}: an input was changed");
    }
    let of_kind = |kind: usize| {
        let number = if layout.writes_packed() { 0 } else { kind };
        written[number].gather(&after[number], kind)
    };
    Ok([of_kind(0), of_kind(1)])
}

/// What the oracle says of queries (0) or keys (1).
pub fn expected<T: Real>(call: &Call, inputs: &Inputs<T>, kind: usize) -> Vec<Expected> {
    let plus = if call.norm == (Norm::Rms { weight_plus_one: true }) { 1.0 } else { 0.0 };
    let affine = |i: usize| {
        let weight = if call.weights[kind] == Coefficient::Absent { 1.0 } else { inputs.weights[kind][i] + plus };
        (weight, if call.biases[kind] == Coefficient::Absent { 0.0 } else { inputs.biases[kind][i] })
    };
    let eps = f64::from(call.eps as f32);
    let row = |s: &[f64]| oracle::row(s, eps, call.norm == Norm::Layer, &affine, Activation::None);
    exact(&inputs.x[kind]).chunks(call.head_dim).flat_map(row).collect()
}

/// The same heads as rows of LayerNorm or RMSNorm.
pub fn as_rows<P: Place, T: Real>(place: &P, call: &Call, inputs: &Inputs<T>, kind: usize) -> Result<Vec<T>> {
    let x = place.put(&inputs.x[kind]);
    let mut y = place.put(&inputs.x[kind]);
    let all = 0..inputs.x[kind].len();
    let (weights, biases) = (&inputs.weights[kind], &inputs.biases[kind]);
    let put = |values: &Vec<f64>| {
        (place.put(&stored::<T>(values.iter().copied())), place.put(&stored::<f32>(values.iter().copied())))
    };
    let ((own_weight, weight), (own_bias, bias)) = (put(weights), put(biases));
    {
        let all_of = 0..call.head_dim;
        let w =
            Both::<P, T> { own: place.view(&own_weight, all_of.clone()), single: place.view(&weight, all_of.clone()) };
        let b = Both::<P, T> { own: place.view(&own_bias, all_of.clone()), single: place.view(&bias, all_of) };
        let x = place.view(&x, all.clone());
        let mut y = place.view_mut(&mut y, all);
        let args = Args::new(place, [call.tokens * call.heads[kind], call.head_dim]).input(&x).output(&mut y);
        let args = with!(with!(args, call.weights[kind], weight, w), call.biases[kind], bias, b);
        match call.norm {
            Norm::Rms { weight_plus_one } => {
                RmsNorm::new([call.head_dim], call.eps)?.weight_plus_one(weight_plus_one).forward(args)?;
            }
            Norm::Layer => LayerNorm::new([call.head_dim])?.eps(call.eps)?.forward(args)?,
        }
    }
    let mut y = place.get(&y);
    y.truncate(inputs.x[kind].len()); // no memory of a GPU is empty
    Ok(y)
}

/// Runs the call and holds it against the oracle, and every bit of it against LayerNorm or RMSNorm.
pub fn verify<P: Place, T: Real>(place: &P, call: &Call, inputs: &Inputs<T>) -> [Vec<T>; 2] {
    let about = format!("{} {} {call:?}", P::NAME, T::DTYPE);
    let layer = call.layer().unwrap_or_else(|error| panic!("{about}: {error}"));
    let outputs =
        run(place, call, inputs, &|args| layer.forward(args)).unwrap_or_else(|error| panic!("{about}: {error}"));
    for (kind, found) in outputs.iter().enumerate() {
        assert_within(found, &expected(call, inputs, kind), &about);
        let rows = as_rows(place, call, inputs, kind).unwrap_or_else(|error| panic!("{about}: {error}"));
        assert_eq!(bits(found), bits(&rows), "{about}: kind {kind} has other bits than the same rows");
    }
    outputs
}
