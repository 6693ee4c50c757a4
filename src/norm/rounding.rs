/// Where LayerNorm and RMSNorm round on the way, which frameworks do differently. It makes no difference with inputs of f32.
///
/// | as | option |
/// | --- | --- |
/// | FlashInfer, Liger's and Hugging Face's Gemma for a norm alone | [`Once`](Self::Once) |
/// | a norm behind other operations of PyTorch: Gemma's residual stream in Hugging Face | [`Steps`](Self::Steps) |
/// | `LlamaRMSNorm`, `T5LayerNorm` and their like in Hugging Face; vLLM's `rms_norm`, `fused_add_rms_norm` | [`Normalized`](Self::Normalized) |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// Nowhere but at the last store; `sum` is the number that the norm is of, rounded to its type.
    #[default]
    Once,
    /// Each step before the norm is rounded to the input's type: the sums, the product with a gate, the result of a
    /// [`post_norm`](crate::RmsNorm::post_norm). What is normalized is then what `sum` holds.
    Steps,
    /// As [`Steps`](Self::Steps), and so is the normalized value before the weight multiplies it.
    Normalized,
}
