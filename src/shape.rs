//! Shapes and layouts of tensors.

use crate::error::{Error, Result};

/// The extents of a tensor's axes, in the order in which they lie in memory (the last one is contiguous).
///
/// A plain value without allocation: a service may make one per call. Made from an array, or from a slice by
/// [`Shape::new`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; Self::MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The most axes that a tensor can have here.
    pub const MAX_RANK: usize = 8;

    /// A shape from a slice of extents.
    ///
    /// # Errors
    /// [`Error::Rank`] if there are more than [`Shape::MAX_RANK`].
    pub fn new(extents: &[usize]) -> Result<Self> {
        let mut shape = Self { extents: [0; Self::MAX_RANK], rank: extents.len() };
        shape
            .extents
            .get_mut(..extents.len())
            .ok_or(Error::Rank { found: extents.len(), limit: Self::MAX_RANK })?
            .copy_from_slice(extents);
        Ok(shape)
    }

    /// The extents.
    #[must_use]
    pub fn extents(&self) -> &[usize] {
        &self.extents[..self.rank]
    }

    /// How many axes there are.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// The number of elements: the product of the extents.
    ///
    /// # Errors
    /// [`Error::ShapeOverflow`] if a tensor of 4-byte elements of this shape could not be addressed.
    pub fn elements(&self) -> Result<usize> {
        product(self.extents()).ok_or(Error::ShapeOverflow { shape: *self })
    }
}

/// The product, unless it exceeds what can be addressed as 4-byte elements. An extent of zero makes it zero, however
/// large the others.
pub(crate) fn product(extents: &[usize]) -> Option<usize> {
    if extents.contains(&0) {
        return Some(0);
    }
    let elements = extents.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent))?;
    (elements <= isize::MAX as usize / 4).then_some(elements)
}

impl<const RANK: usize> From<[usize; RANK]> for Shape {
    fn from(extents: [usize; RANK]) -> Self {
        const { assert!(RANK <= Self::MAX_RANK, "more axes than Shape::MAX_RANK") };
        let mut shape = Self { extents: [0; Self::MAX_RANK], rank: RANK };
        shape.extents[..RANK].copy_from_slice(&extents);
        shape
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.extents())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.extents())
    }
}

/// Where the channel axis lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[N, C, spatial…]`: channels second.
    #[default]
    Nchw,
    /// `[N, spatial…, C]`: channels last.
    Nhwc,
}
