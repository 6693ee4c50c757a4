//! The activation that may follow a layer, in the same pass over memory.

/// Applied to a layer's output, in f32, before it is rounded to its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Activation {
    /// The output as it is.
    #[default]
    None,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// `x · Φ(x)` by the error function: PyTorch's `gelu` with `approximate="none"`.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`: PyTorch's `gelu` with `approximate="tanh"`.
    GeluTanh,
}
