use super::{DEFAULT_EPS, Layer, checked_eps, coefficient, entry_points, eps, refuse_conversion};
use crate::error::{Error, Result};
use crate::plan::params::WN_CHUNK;
use crate::problem::{HeadRows, Heads, Moments, Problem};
use crate::shape::{Shape, product};
use crate::signature::Signature;

/// Normalization of the query and key heads of attention, each by its own moments, in one launch: RMSNorm as in Qwen3, Gemma 3,
/// OLMo 2 and Stable Diffusion 3 ([`rms`](Self::rms)), or LayerNorm as in ViT-22B (Dehghani et al., 2023) and Chameleon
/// ([`layer`](Self::layer)).
///
/// `y = weight · x / sqrt(mean(x²) + eps) + bias` and `y = weight · (x − mean(x)) / sqrt(var(x) + eps) + bias`
///
/// over the `head_dim` elements of each head. All heads of queries share `weight` and `bias`, those of keys `key_weight` and
/// `key_bias`, `[head_dim]` each: weights are there for both or for none, and so are biases. A head has the bits that
/// [`RmsNorm`](crate::RmsNorm) or [`LayerNorm`](crate::LayerNorm) gives it.
///
/// Where the heads lie is said by the shape, in one of two ways; in both, the heads of a token follow each other, and
/// [row strides](crate::Args::input_row_stride) are those between tokens. Leading axes may be several.
///
/// - **One tensor**, as the GEMM of attention writes it: the shape is `[tokens…, heads, head_dim]`, of which the first
///   `q_heads` are queries, the next `k_heads` keys, and what is behind (values) is neither read nor written.
/// - **Two tensors**, if there is a [`key_output`](crate::Args::key_output): the shape is that of the queries,
///   `[tokens…, q_heads, head_dim]`, and that of the keys is `[tokens…, k_heads, head_dim]`. Each is in place if it has no
///   input of its own. Inputs may be views of one tensor.
///
/// ```
/// use warpnorm::{Args, Cpu, QkNorm};
///
/// // Two tokens of 4 query heads, 2 key heads and 2 value heads, in place.
/// let layer = QkNorm::rms([4, 2], 16, 1e-6)?;
/// let (q_weight, k_weight) = ([1.0_f32; 16], [0.5_f32; 16]);
/// let mut qkv = [3.0_f32; 2 * 8 * 16];
/// layer.forward(Args::new(&Cpu, [2, 8, 16]).weight(&q_weight).key_weight(&k_weight).output(&mut qkv))?;
/// assert!((qkv[0] - 1.0).abs() < 1e-6 && (qkv[4 * 16] - 0.5).abs() < 1e-6 && qkv[6 * 16] == 3.0);
///
/// // The same from one tensor into two.
/// let qkv = [3.0_f32; 2 * 8 * 16];
/// let (mut q, mut k) = ([0.0_f32; 2 * 4 * 16], [0.0_f32; 2 * 2 * 16]);
/// layer.forward(
///     Args::new(&Cpu, [2, 4, 16])
///         .input(&qkv[..12 * 16])
///         .input_row_stride(8 * 16)
///         .weight(&q_weight)
///         .output(&mut q)
///         .key_input(&qkv[4 * 16..14 * 16])
///         .key_input_row_stride(8 * 16)
///         .key_weight(&k_weight)
///         .key_output(&mut k),
/// )?;
/// assert!((q[0] - 1.0).abs() < 1e-6 && (k[0] - 0.5).abs() < 1e-6);
/// # Ok::<(), warpnorm::Error>(())
/// ```
///
/// Other layouts are one of these by another name. `[batch, heads, seq, head_dim]` is a batch of tokens with `heads · seq`
/// heads each. Where each key head lies behind its own queries, `[tokens, k_heads, q_per_k + 2, head_dim]`, as in Megatron-LM, a
/// token is one of its groups: `[q_per_k, 1]` heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkNorm {
    q_heads: usize,
    k_heads: usize,
    head_dim: usize,
    moments: Moments,
    eps: f32,
    weight_plus_one: bool,
}

/// A head is a row of one chunk.
const MOST_OF_HEAD: usize = WN_CHUNK as usize;

impl QkNorm {
    /// RMSNorm of so many query and key heads, `[q_heads, k_heads]`, of at most 1,024 elements. `eps` has no default: models
    /// differ.
    ///
    /// # Errors
    /// [`Error::Empty`] if there are no heads of a kind or no elements, [`Error::TooLarge`] for longer heads,
    /// [`Error::ShapeOverflow`] beyond the address space, [`Error::Eps`] if `eps` is negative or not finite.
    pub fn rms(heads: [usize; 2], head_dim: usize, eps: f64) -> Result<Self> {
        Self::new(heads, head_dim, Moments::MeanSquare, eps)
    }

    /// LayerNorm of so many query and key heads, `[q_heads, k_heads]`, of at most 1,024 elements, with PyTorch's `eps` of 1e-5.
    ///
    /// # Errors
    /// As of [`rms`](Self::rms).
    pub fn layer(heads: [usize; 2], head_dim: usize) -> Result<Self> {
        Self::new(heads, head_dim, Moments::MeanAndVariance, DEFAULT_EPS)
    }

    fn new([q_heads, k_heads]: [usize; 2], head_dim: usize, moments: Moments, eps: f64) -> Result<Self> {
        for (parameter, value) in [("q_heads", q_heads), ("k_heads", k_heads), ("head_dim", head_dim)] {
            if value == 0 {
                return Err(Error::Empty { layer: Self::NAME, parameter });
            }
        }
        if head_dim > MOST_OF_HEAD {
            return Err(Error::TooLarge { what: "head_dim", found: head_dim as u64, limit: MOST_OF_HEAD as u64 });
        }
        // Either kind may be a tensor of its own, and both are rows of one launch.
        let both = Shape::from([q_heads.saturating_add(k_heads), head_dim]);
        both.elements()?;
        Ok(Self { q_heads, k_heads, head_dim, moments, eps: checked_eps(eps)?, weight_plus_one: false })
    }

    /// Whether the stored weights are offsets from 1, as in Gemma.
    #[must_use]
    pub const fn weight_plus_one(self, weight_plus_one: bool) -> Self {
        Self { weight_plus_one, ..self }
    }

    /// The shape of weights and biases: `[head_dim]`.
    #[must_use]
    pub fn weight_shape(&self) -> Shape {
        Shape::from([self.head_dim])
    }

    /// Tokens, and in one tensor the elements of one.
    fn layout(&self, signature: &Signature) -> Result<(usize, Option<usize>)> {
        let Self { q_heads, k_heads, head_dim, .. } = *self;
        let shape = signature.shape;
        let (tokens, heads) = match shape.extents() {
            [tokens @ .., heads, found] if *found == head_dim => (tokens, *heads),
            _ => (&[][..], 0),
        };
        let fits = if signature.key_output { heads == q_heads } else { heads >= q_heads + k_heads };
        if !fits {
            let expected = match signature.key_output {
                true => format!("one of queries, which ends in [{q_heads}, {head_dim}]"),
                false => format!("one of queries and keys, which ends in [{} or more, {head_dim}]", q_heads + k_heads),
            };
            return Err(Error::Shape { layer: Self::NAME, found: shape, expected });
        }
        shape.elements()?;
        // There may be more keys than queries.
        let tokens = product(tokens).ok_or(Error::ShapeOverflow { shape })?;
        product(&[tokens, q_heads + k_heads, head_dim]).ok_or(Error::ShapeOverflow { shape })?;
        let of_token = product(&[heads, head_dim]).ok_or(Error::ShapeOverflow { shape })?;
        Ok((tokens, (!signature.key_output).then_some(of_token)))
    }
}

eps!(QkNorm);
entry_points!(QkNorm);

impl Layer for QkNorm {
    const NAME: &'static str = "QkNorm";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        let Self { q_heads, k_heads, head_dim, moments, eps, weight_plus_one } = *self;
        let dtype = signature.dtype;
        refuse_conversion(Self::NAME, signature)?;
        let (tokens, packed) = self.layout(signature)?;
        self.refuse_one_sided(signature)?;
        let strides = signature.strides();
        let heads = |count, weight, bias, [x, y]: [Option<usize>; 2]| {
            let row = packed.unwrap_or(count * head_dim);
            Heads { count, weight, bias, x_stride: x.unwrap_or(row), y_stride: y.unwrap_or(row) }
        };
        let of_type = |argument, found| coefficient(argument, found, dtype);
        let (weight, bias) = (of_type("weight", signature.weight)?, of_type("bias", signature.bias)?);
        let key_weight = of_type("key_weight", signature.key_weight)?;
        let key_bias = of_type("key_bias", signature.key_bias)?;
        let (queries, keys) = ([strides.input, strides.output], [strides.key_input, strides.key_output]);
        Ok(Problem::HeadRows(HeadRows {
            dtype,
            tokens,
            length: head_dim,
            moments,
            query: heads(q_heads, weight, bias, queries),
            key: heads(k_heads, key_weight, key_bias, if packed.is_some() { queries } else { keys }),
            packed,
            weight_plus_one,
            eps,
        }))
    }
}

impl QkNorm {
    /// What one kind has the other must have: else a forgotten weight would be one of ones, in silence.
    fn refuse_one_sided(&self, signature: &Signature) -> Result<()> {
        let weights = [("weight", signature.weight), ("key_weight", signature.key_weight)];
        let biases = [("bias", signature.bias), ("key_bias", signature.key_bias)];
        let is_needed = |pair: [(_, Option<_>); 2]| pair.iter().any(|(_, found)| found.is_some());
        for (pair, is_needed) in [(weights, is_needed(weights) || self.weight_plus_one), (biases, is_needed(biases))] {
            if let Some((argument, _)) = pair.into_iter().find(|(_, found)| is_needed && found.is_none()) {
                return Err(Error::Missing { layer: Self::NAME, argument });
            }
        }
        Ok(())
    }
}
