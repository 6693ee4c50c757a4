//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use warpnorm::{
    DType,
    fold::{
        checkpoint::{self, Pair, preset, presets},
        onnx::{Forward, Options},
    },
};

/// Folds the BatchNorms of a model file into its convolutions and linear layers, and says what this machine can do.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what can be folded in a model and why the rest cannot; with -o, write the folded model
    #[command(long_about = FOLD, after_help = EXAMPLES)]
    Fold(Box<Fold>),
    /// Show what this build and this machine can do: devices, driver, kernels, CPU
    Info,
}

const FOLD: &str = "\
Show what can be folded in a model and why the rest cannot; with -o, write the folded model.

A BatchNorm in inference multiplies each channel and adds to it, and so do a Mul, Add, Sub or Div by a constant of each \
channel. A Conv, ConvTranspose, Gemm or MatMul beside them can do the same with its weights, and the network then does \
without the pass over memory. All is computed in f64 and rounded once to the type that the weights are stored in. What \
would not be exact is not folded, and the table says why.

The table has a line for each BatchNorm: the layer that absorbs it, its kind and channels, the largest scale, the \
smallest variance with epsilon added, how many weights become 0 or subnormal in their type, and the verdict. A weight \
that would overflow its type is a refusal.

A safetensors file holds tensors by name, and neither the order of layers nor eps. Pairs are found by the names that \
torchvision, timm and ultralytics use, or given by --pairs; eps must be given. Such a file is only written with --yes or \
--pairs.

Nothing is written without -o. The model's file is edited and not rewritten: whatever is not folded stays as it is, byte \
for byte.";

const EXAMPLES: &str = "\
Examples:
  warpnorm fold model.onnx                            what would be folded, and why the rest is not
  warpnorm fold model.onnx -o folded.onnx --verify    fold, and prove it
  warpnorm fold model.onnx --skip 'head.*' --strict   fail if anything else cannot be folded
  warpnorm fold model.safetensors --eps 1e-5          the pairs that are found by the names of modules
  warpnorm fold model.safetensors --pairs pairs.json -o folded.safetensors

Exit codes:
  0  done
  1  the verification failed, or could not cover the whole model
  2  the input cannot be read or is not valid, or the output cannot be written
  3  something cannot be folded, and --strict was given";

#[derive(Debug, Args)]
pub struct Fold {
    /// The model: an ONNX file, or a state dict in a .safetensors file
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Write the folded model here; tensors that were in files of their own go to OUT.data
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Let OUT be the same file as IN
    #[arg(long, requires = "output")]
    pub in_place: bool,
    /// Fail, and write nothing, if a BatchNorm cannot be folded
    #[arg(long)]
    pub strict: bool,
    /// Fold only nodes whose names match ('*' is any text, '?' any character); may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub only: Vec<String>,
    /// Do not fold nodes whose names match; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub skip: Vec<String>,
    /// What to do with a BatchNorm that only the layer behind it could absorb
    #[arg(long, value_enum, default_value_t = Before::Exact, value_name = "HOW")]
    pub forward: Before,
    /// Merge parallel convolutions and BatchNorms whose outputs are added into one convolution (RepVGG, MobileOne)
    #[arg(long)]
    pub merge_branches: bool,
    /// Give a BatchNorm a copy of a layer whose output others read too; the layer is then computed twice
    #[arg(long)]
    pub duplicate_shared: bool,
    /// Take initializers that are also inputs of the model for constants
    #[arg(long)]
    pub freeze_inputs: bool,
    /// Also take out of an ONNX model what computes nothing: Identity, Dropout at inference, arithmetic on known shapes
    #[arg(long)]
    pub tidy: bool,
    /// Evaluate the model before and after in f64, each changed layer alone and then the whole, on N random inputs
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub verify: Option<usize>,
    /// How far the whole may be off in --verify, as a part of the largest output [default: by the weights' type]
    #[arg(long, value_name = "T", requires = "verify")]
    pub tol: Option<f64>,
    /// Fold, and then convert the model to this type; an ONNX model's inputs and outputs keep theirs
    #[arg(long, value_enum, default_value_t = Type::Keep, value_name = "TYPE")]
    pub dtype: Type,
    /// The pairs of a safetensors file and their eps, in a file as scripts/export_pairs.py writes it
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// The eps of the BatchNorms in a safetensors file, or of those whose names match; may be given several times
    #[arg(long, value_name = "[PATTERN=]EPS", value_parser = eps)]
    pub eps: Vec<(String, f64)>,
    /// The eps of a family of models, by its name, as in torchvision:mobilenet_v3
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    pub preset: Option<f64>,
    /// Write a safetensors file whose pairs were found by names; look at the table first
    #[arg(long)]
    pub yes: bool,
    /// Write all that the table says, and more, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// As [`Forward`], with words for the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Before {
    /// leave it
    Off,
    /// fold it where that is exact
    Exact,
    /// also fold the scale before a convolution padded with zeros, and leave the shift there as an Add
    Scale,
}

/// A type of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Type {
    /// each tensor's own
    Keep,
    F32,
    F16,
    Bf16,
}

impl Type {
    pub const fn dtype(self) -> Option<DType> {
        match self {
            Self::Keep => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
        }
    }
}

/// `EPS`, or `PATTERN=EPS`.
fn eps(text: &str) -> Result<(String, f64), String> {
    let (pattern, eps) = text.rsplit_once('=').unwrap_or(("*", text));
    let eps = eps.parse().map_err(|_| format!("{eps:?} is not a number"))?;
    Ok((pattern.to_owned(), eps))
}

fn family(name: &str) -> Result<f64, String> {
    preset(name).ok_or_else(|| {
        let known: Vec<_> = presets().iter().map(|&(name, eps)| format!("{name} ({eps:e})")).collect();
        format!("the families are {}", known.join(", "))
    })
}

impl Fold {
    /// What is given and means nothing to a state dict.
    pub fn only_for_onnx(&self) -> Option<&'static str> {
        let given = [
            (!matches!(self.forward, Before::Exact), "--forward"),
            (self.merge_branches, "--merge-branches"),
            (self.duplicate_shared, "--duplicate-shared"),
            (self.freeze_inputs, "--freeze-inputs"),
            (self.tidy, "--tidy"),
            (self.tol.is_some(), "--tol"),
        ];
        given.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }

    /// What is given and means nothing to an ONNX model.
    pub fn only_for_state_dicts(&self) -> Option<&'static str> {
        let given = [
            (self.pairs.is_some(), "--pairs"),
            (!self.eps.is_empty(), "--eps"),
            (self.preset.is_some(), "--preset"),
            (self.yes, "--yes"),
        ];
        given.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }

    /// What is wished of a state dict.
    pub fn checkpoint_options(&self, pairs: Option<Vec<Pair>>) -> checkpoint::Options {
        // What is said of some comes before what is said of all.
        let (all, mut some): (Vec<_>, Vec<_>) = self.eps.iter().cloned().partition(|(pattern, _)| pattern == "*");
        some.extend(all);
        some.extend(self.preset.map(|eps| ("*".to_owned(), eps)));
        let (only, skip) = (self.only.clone(), self.skip.clone());
        checkpoint::Options { pairs, eps: some, only, skip, dtype: self.dtype.dtype() }
    }

    pub fn options(&self) -> Options {
        let forward = match self.forward {
            Before::Off => Forward::Off,
            Before::Exact => Forward::Exact,
            Before::Scale => Forward::Scale,
        };
        Options {
            only: self.only.clone(),
            skip: self.skip.clone(),
            forward,
            merge_branches: self.merge_branches,
            duplicate_shared: self.duplicate_shared,
            freeze_inputs: self.freeze_inputs,
            tidy: self.tidy,
            dtype: self.dtype.dtype(),
        }
    }
}
