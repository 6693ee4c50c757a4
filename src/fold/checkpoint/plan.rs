//! The decision how to fold a state dict, and the folded one.

use std::{
    io::{self, Write},
    ops::Range,
    path::Path,
};

use rayon::prelude::*;

use super::{
    file::{Checkpoint, Entry},
    names,
    pairs::{Kind, Pair},
};
use crate::{
    element::DType,
    fold::{
        Affine, BatchNormParams, FoldError, FoldReport, Layer, LinearOp, Refusal, Side, Values,
        absorb::Absorption,
        models::{ModelError, Report, Row, Summary, Unfinished, Verdict, selects},
    },
};

/// Bytes of a weight that are computed at a time.
const CHUNK: usize = 4 << 20;

/// What to fold of a state dict.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The pairs, where they are not to be found by names.
    pub pairs: Option<Vec<Pair>>,
    /// `eps` by patterns of the `BatchNorm`s' names, with `*` for any text and `?` for any character; the first that fits
    /// counts. What a pair says counts before it.
    pub eps: Vec<(String, f64)>,
    /// Patterns of the `BatchNorm`s to fold; all, where there are none.
    pub only: Vec<String>,
    /// Patterns of the `BatchNorm`s not to fold.
    pub skip: Vec<String>,
    /// The type that all floating-point tensors are rounded to, after the fold; their own, where it is `None`.
    pub dtype: Option<DType>,
}

/// A pair that is folded.
#[derive(Debug)]
pub(super) struct Folded<'c> {
    pub(super) pair: Pair,
    pub(super) layer: Layer,
    pub(super) weight: &'c Entry,
    pub(super) bias: Option<&'c Entry>,
    pub(super) map: Affine,
    pub(super) eps: f64,
    pub(super) weight_type: DType,
    pub(super) bias_type: DType,
    report: FoldReport,
}

/// The decision how to fold a state dict. The weights are computed when the folded one is written.
#[derive(Debug)]
pub struct Plan<'c> {
    checkpoint: &'c Checkpoint,
    pub(super) folded: Vec<Folded<'c>>,
    dtype: Option<DType>,
    report: Report,
}

/// What is written under a name.
enum Output<'p> {
    Copied(&'p Entry),
    Cast(&'p Entry, DType),
    Weight(&'p Folded<'p>),
    Bias(&'p Folded<'p>),
}

impl<'c> Plan<'c> {
    /// Decides what is folded. What cannot be is a row of the report.
    #[must_use]
    pub fn new(checkpoint: &'c Checkpoint, options: &Options) -> Self {
        let mut plan = Self { checkpoint, folded: Vec::new(), dtype: options.dtype, report: Report::default() };
        let decided = candidates(checkpoint, options).into_par_iter().map(|(norm, pair)| {
            let pair = if selects(&options.only, &options.skip, &norm) { pair } else { Err(Refusal::LeftOut) };
            let decided = pair.and_then(|pair| decide(checkpoint, pair, options));
            (row(&norm, &decided, checkpoint), decided)
        });
        for (row, decided) in decided.collect::<Vec<_>>() {
            plan.folded.extend(decided.ok());
            plan.report.rows.push(row);
        }
        plan.report.summary = Summary::of(&plan.report.rows);
        plan.report.summary.file_before = checkpoint.bytes().len() as u64;
        let (header, len) = plan.header(&plan.outputs());
        let is_same = plan.folded.is_empty() && plan.dtype.is_none();
        plan.report.summary.file_after = if is_same { checkpoint.bytes().len() } else { header.len() + len } as u64;
        plan
    }

    /// What is folded, and why the rest is not.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// The folded state dict in memory.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] where there is no memory for it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let mut bytes = Vec::new();
        self.write(&mut bytes, &|_| ()).map_err(ModelError::io(""))?;
        Ok(bytes)
    }

    /// Writes the folded state dict, under another name until it is whole.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        self.save_if(path, &|_| (), |_| Ok(true)).map(|_| ())
    }

    /// As [`Plan::save`], where `accept` agrees to what has been written; else nothing is left of it. `wrote` is told of
    /// the bytes as they are written. Returns what `accept` did.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`], and those of `accept`.
    pub fn save_if(
        &self,
        path: impl AsRef<Path>,
        wrote: &dyn Fn(usize),
        accept: impl FnOnce(&Checkpoint) -> Result<bool, ModelError>,
    ) -> Result<bool, ModelError> {
        let written = Unfinished::write(path.as_ref(), |to| self.write(to, wrote))?;
        let accepted = Checkpoint::open(&written.at).and_then(|folded| accept(&folded));
        if matches!(accepted, Ok(true)) {
            written.keep()?;
        }
        accepted
    }

    pub(super) const fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// The tensors of the folded state dict, in the order of the file; a new bias follows its weight.
    fn outputs(&self) -> Vec<(String, Output<'_>)> {
        let mut outputs = Vec::new();
        for name in self.checkpoint.names() {
            let Some(entry) = self.checkpoint.entry(name) else { continue };
            let (module, part) = name.rsplit_once('.').unwrap_or(("", name));
            if self.folded.iter().any(|folded| folded.pair.batch_norm == module) {
                continue;
            }
            match (self.folded.iter().find(|folded| folded.pair.layer == module), part) {
                (Some(folded), "weight") => {
                    outputs.push((name.to_owned(), Output::Weight(folded)));
                    if folded.bias.is_none() {
                        outputs.push((format!("{module}.bias"), Output::Bias(folded)));
                    }
                }
                (Some(folded), "bias") => outputs.push((name.to_owned(), Output::Bias(folded))),
                _ => {
                    let is_float = self.checkpoint.values(entry).is_some();
                    let other = self.dtype.filter(|&dtype| is_float && entry.element() != Some(dtype));
                    outputs.push((
                        name.to_owned(),
                        other.map_or(Output::Copied(entry), |dtype| Output::Cast(entry, dtype)),
                    ));
                }
            }
        }
        outputs
    }

    /// The file's head, and the length of what follows it.
    fn header(&self, outputs: &[(String, Output<'_>)]) -> (Vec<u8>, usize) {
        let mut tensors = serde_json::Map::new();
        if !self.checkpoint.metadata().is_empty() {
            tensors.insert("__metadata__".to_owned(), serde_json::json!(self.checkpoint.metadata()));
        }
        let mut start = 0;
        for (name, output) in outputs {
            let (dtype, shape, len) = self.described(output);
            let offsets = [start, start + len];
            tensors
                .insert(name.clone(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
            start += len;
        }
        let mut text = serde_json::Value::Object(tensors).to_string();
        // Data begins where eight bytes would be aligned.
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let header = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        (header, start)
    }

    fn described(&self, output: &Output<'_>) -> (String, Vec<usize>, usize) {
        let of = |dtype: DType, shape: &[usize]| {
            let name = match dtype {
                DType::F32 => "F32",
                DType::F16 => "F16",
                DType::Bf16 => "BF16",
            };
            (name.to_owned(), shape.to_vec(), shape.iter().product::<usize>() * dtype.size())
        };
        match output {
            Output::Copied(entry) => {
                (format!("{:?}", entry.dtype), entry.shape.clone(), self.checkpoint.data(entry).len())
            }
            Output::Cast(entry, dtype) => of(*dtype, &entry.shape),
            Output::Weight(folded) => of(folded.weight_type, &folded.weight.shape),
            Output::Bias(folded) => of(folded.bias_type, &[folded.channels()]),
        }
    }

    fn write(&self, to: &mut impl Write, wrote: &dyn Fn(usize)) -> io::Result<()> {
        if self.folded.is_empty() && self.dtype.is_none() {
            return to.write_all(self.checkpoint.bytes());
        }
        let outputs = self.outputs();
        to.write_all(&self.header(&outputs).0)?;
        for (_, output) in &outputs {
            match output {
                Output::Copied(entry) => to.write_all(self.checkpoint.data(entry))?,
                Output::Cast(entry, dtype) => self.write_cast(entry, *dtype, to)?,
                Output::Weight(folded) => folded.write_weight(self.checkpoint, to)?,
                Output::Bias(folded) => folded.write_bias(self.checkpoint, to)?,
            }
            wrote(self.described(output).2);
        }
        Ok(())
    }

    /// A tensor in another type: a layer that absorbs nothing.
    fn write_cast(&self, entry: &Entry, dtype: DType, to: &mut impl Write) -> io::Result<()> {
        let Some(values) = self.checkpoint.values(entry) else { return Ok(()) };
        let shape = [values.len(), 1];
        let op = LinearOp::new(Layer::Linear, values, &shape);
        match Absorption::new(&op, None, None) {
            Ok(absorption) => write_rows(&absorption, dtype, to),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn write_rows(absorption: &Absorption<'_>, dtype: DType, to: &mut impl Write) -> io::Result<()> {
    let step = (CHUNK / (absorption.row_len() * dtype.size())).max(1);
    let mut bytes = Vec::new();
    for row in (0..absorption.rows()).step_by(step) {
        let rows: Range<usize> = row..absorption.rows().min(row + step);
        absorption.put_rows(rows, dtype, &mut bytes);
        to.write_all(&bytes)?;
    }
    Ok(())
}

impl<'c> Folded<'c> {
    pub(super) fn channels(&self) -> usize {
        match (self.pair.side, self.layer) {
            (Side::After, _) => self.map.channels(),
            (Side::Before, Layer::ConvTranspose { groups }) => self.weight.shape[1] * groups,
            (Side::Before, _) => self.weight.shape[0],
        }
    }

    /// Calls `f` with the fold.
    fn with<T>(&self, checkpoint: &'c Checkpoint, f: impl FnOnce(&Absorption<'_>) -> T) -> Result<T, FoldError> {
        let none = Values::F64(&[]);
        let weight = checkpoint.values(self.weight).unwrap_or(none);
        let mut op = LinearOp::new(self.layer, weight, &self.weight.shape);
        if let Some(bias) = self.bias.and_then(|bias| checkpoint.values(bias)) {
            op = op.bias(bias);
        }
        let (before, after) = match self.pair.side {
            Side::After => (None, Some(&self.map)),
            Side::Before => (Some((&self.map, self.pair.padding)), None),
        };
        Ok(f(&Absorption::new(&op, before, after)?))
    }

    fn write_weight(&self, checkpoint: &'c Checkpoint, to: &mut impl Write) -> io::Result<()> {
        let written = self.with(checkpoint, |absorption| write_rows(absorption, self.weight_type, to));
        written.map_err(io::Error::other)?
    }

    fn write_bias(&self, checkpoint: &'c Checkpoint, to: &mut impl Write) -> io::Result<()> {
        let biases: Vec<f64> =
            self.with(checkpoint, |absorption| absorption.biases().collect()).map_err(io::Error::other)?;
        let (op, shape) = (Layer::Linear, [biases.len(), 1]);
        let op = LinearOp::new(op, &biases, &shape);
        let absorption = Absorption::new(&op, None, None).map_err(io::Error::other)?;
        write_rows(&absorption, self.bias_type, to)
    }
}

/// The `BatchNorm`s with their pairs: those that were given, or those by names.
fn candidates(checkpoint: &Checkpoint, options: &Options) -> Vec<(String, Result<Pair, Refusal>)> {
    let Some(pairs) = &options.pairs else {
        let found = names::pairs(checkpoint).into_iter();
        return found.map(|(norm, layer)| (norm.to_owned(), layer.map(|layer| Pair::new(layer, norm)))).collect();
    };
    let count = |of: &dyn Fn(&Pair) -> &str, name: &str| pairs.iter().filter(|pair| of(pair) == name).count();
    let given = pairs.iter().map(|pair| {
        let is_once =
            count(&|pair| &pair.layer, &pair.layer) == 1 && count(&|pair| &pair.batch_norm, &pair.batch_norm) == 1;
        let why = || format!("{} or {} is in several pairs", pair.layer, pair.batch_norm);
        let checked = if is_once { Ok(pair.clone()) } else { Err(Refusal::Ambiguous { why: why() }) };
        (pair.batch_norm.clone(), checked)
    });
    let others = names::batch_norms(checkpoint).into_iter();
    let others = others.filter(|norm| !pairs.iter().any(|pair| pair.batch_norm == *norm));
    given.chain(others.map(|norm| (norm.to_owned(), Err(Refusal::NotListed)))).collect()
}

fn decide<'c>(checkpoint: &'c Checkpoint, pair: Pair, options: &Options) -> Result<Folded<'c>, Refusal> {
    let tensor = |module: &str, part: &str| checkpoint.entry(&format!("{module}.{part}"));
    let missing = |name: String| Refusal::Unreadable { value: name, reason: "it is not there".to_owned() };
    let needed = |module: &str, part: &str| tensor(module, part).ok_or_else(|| missing(format!("{module}.{part}")));
    let values = |entry: &'c Entry, name: &str| {
        let found = format!("{:?}", entry.dtype);
        checkpoint.values(entry).ok_or_else(|| Refusal::ElementType { value: name.to_owned(), found })
    };
    let (mean, var) = (needed(&pair.batch_norm, "running_mean")?, needed(&pair.batch_norm, "running_var")?);
    let by_pattern =
        || options.eps.iter().find(|(pattern, _)| selects(std::slice::from_ref(pattern), &[], &pair.batch_norm));
    let eps = pair.eps.or_else(|| by_pattern().map(|&(_, eps)| eps)).ok_or(Refusal::UnknownEps)?;
    let (mean, var) = (values(mean, "running_mean")?, values(var, "running_var")?);
    let mut params = BatchNormParams::new(mean, var, eps);
    if let Some(weight) = tensor(&pair.batch_norm, "weight") {
        params = params.weight(values(weight, "bn.weight")?);
    }
    if let Some(bias) = tensor(&pair.batch_norm, "bias") {
        params = params.bias(values(bias, "bn.bias")?);
    }
    let map = params.affine()?;
    let weight = needed(&pair.layer, "weight")?;
    let bias = tensor(&pair.layer, "bias");
    let stored = |entry: &Entry, part: &str| {
        let (value, found) = (format!("{}.{part}", pair.layer), format!("{:?}", entry.dtype));
        entry.element().ok_or(Refusal::ElementType { value, found })
    };
    let weight_type = options.dtype.map_or_else(|| stored(weight, "weight"), Ok)?;
    let bias_type = match (options.dtype, bias) {
        (Some(dtype), _) => dtype,
        (None, Some(bias)) => stored(bias, "bias")?,
        (None, None) => weight_type,
    };
    let layer = layer(&pair, &weight.shape, map.channels());
    let mut folded =
        Folded { pair, layer, weight, bias, map, eps, weight_type, bias_type, report: FoldReport::default() };
    let surveyed = folded.with(checkpoint, |absorption| absorption.survey_as(weight_type, bias_type, &|_| ()));
    let at_layer = |error| Refusal::Arrays { layer: Some(folded.pair.layer.clone()), error };
    folded.report = surveyed.and_then(|report| report).map_err(at_layer)?;
    Ok(folded)
}

/// What a layer is, by the pair or else by its weight's shape.
fn layer(pair: &Pair, shape: &[usize], channels: usize) -> Layer {
    let kind = pair.kind.unwrap_or(if shape.len() == 2 { Kind::Linear } else { Kind::Conv });
    match kind {
        Kind::Linear => Layer::Linear,
        Kind::Conv => Layer::Conv { groups: pair.groups.unwrap_or(1) },
        // The outputs of all groups are the channels of what follows.
        Kind::ConvTranspose => {
            let per_group = shape.get(1).copied().filter(|&per_group| per_group > 0 && pair.side == Side::After);
            Layer::ConvTranspose { groups: pair.groups.or_else(|| Some(channels / per_group?)).unwrap_or(1) }
        }
    }
}

fn row(norm: &str, decided: &Result<Folded<'_>, Refusal>, checkpoint: &Checkpoint) -> Row {
    let channels = checkpoint.entry(&format!("{norm}.running_mean")).and_then(|entry| entry.shape.first().copied());
    let mut row = Row {
        node: norm.to_owned(),
        op: "BatchNorm".to_owned(),
        kind: String::new(),
        channels,
        max_abs_scale: None,
        min_var_plus_eps: None,
        warnings: Vec::new(),
        weight: None,
        verdict: Verdict::Refused(Refusal::LeftOut),
        bytes_per_image: None,
    };
    match decided {
        Ok(folded) => {
            let report = folded.map.report();
            row.kind = folded.layer.kind(folded.weight.shape.len());
            row.max_abs_scale = Some(report.max_abs_scale);
            row.min_var_plus_eps = report.min_var_plus_eps;
            row.warnings = report.warnings;
            row.weight = Some(folded.report.weight);
            row.verdict = Verdict::Folded { layers: vec![folded.pair.layer.clone()], side: folded.pair.side };
        }
        Err(refusal) => row.verdict = Verdict::Refused(refusal.clone()),
    }
    row
}
