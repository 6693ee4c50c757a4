//! Arrays of f64, and how they are broadcast.

use std::borrow::Cow;

/// A row-major array in f64; integers and truth values of a model are such numbers too.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The lengths of the axes.
    pub dims: Vec<usize>,
    /// The elements.
    pub data: Vec<f64>,
}

/// The elements that an array may have: half a GiB of them. Where models are made of random bytes, little is enough.
pub(super) const MOST: usize = if cfg!(fuzzing) { 1 << 16 } else { 1 << 26 };

/// The elements of a shape, if an array may have that many.
pub(super) fn room(dims: &[usize]) -> Option<usize> {
    super::super::tensor::count(dims).filter(|&len| len <= MOST)
}

impl Array {
    /// An array of zeros. `None` where it would have too many elements.
    pub(in crate::fold::onnx) fn zeros(dims: Vec<usize>) -> Option<Self> {
        let len = room(&dims)?;
        Some(Self { dims, data: vec![0.0; len] })
    }

    pub(super) fn list(data: Vec<f64>) -> Self {
        Self { dims: vec![data.len()], data }
    }

    /// The same elements in another shape, which must hold as many.
    pub(super) fn shaped(&self, dims: Vec<usize>) -> Option<Self> {
        let fits = super::super::tensor::count(&dims) == Some(self.data.len());
        fits.then(|| Self { dims, data: self.data.clone() })
    }

    pub(in crate::fold::onnx) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { dims: self.dims.clone(), data: self.data.iter().map(|&value| f(value)).collect() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "they were integers")]
    pub(super) fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|&value| value as i64).collect()
    }

    /// The elements as `[outer, axis, inner]`.
    pub(super) fn around(&self, axis: usize) -> (usize, usize, usize) {
        let outer = self.dims[..axis].iter().product();
        let inner = self.dims[axis + 1..].iter().product();
        (outer, self.dims[axis], inner)
    }

    /// The array repeated along axes of length 1 until it has this shape. `None` where it cannot have it.
    fn broadcast(&self, dims: &[usize]) -> Option<Cow<'_, [f64]>> {
        if self.dims == dims {
            return Some(Cow::Borrowed(&self.data));
        }
        // The other one may be large of nothing.
        room(dims)?;
        let added = dims.len().checked_sub(self.dims.len())?;
        let own = |axis: usize| axis.checked_sub(added).map_or(1, |axis| self.dims[axis]);
        let strides = strides(&self.dims);
        let stride = |axis: usize| {
            let is_repeated = own(axis) == 1;
            axis.checked_sub(added).filter(|_| !is_repeated).map_or(0, |axis| strides[axis])
        };
        if !(0..dims.len()).all(|axis| own(axis) == 1 || own(axis) == dims[axis]) {
            return None;
        }
        let strides: Vec<_> = (0..dims.len()).map(stride).collect();
        Some(Cow::Owned(walk(dims, &strides, 0).map(|from| self.data[from]).collect()))
    }
}

/// Elements from one step of an axis to the next.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// The places that one comes by, walking over the axes in order with these strides.
pub(super) fn walk(dims: &[usize], strides: &[usize], start: usize) -> impl Iterator<Item = usize> {
    let (dims, strides) = (dims.to_vec(), strides.to_vec());
    let len: usize = dims.iter().product();
    let mut at = vec![0; dims.len()];
    let mut place = start;
    (0..len).map(move |_| {
        let here = place;
        for axis in (0..dims.len()).rev() {
            at[axis] += 1;
            place += strides[axis];
            if at[axis] < dims[axis] {
                break;
            }
            place -= strides[axis] * dims[axis];
            at[axis] = 0;
        }
        here
    })
}

/// An operation of two, element by element, each repeated as the standard has it.
pub(super) fn zip(left: &Array, right: &Array, f: impl Fn(f64, f64) -> f64) -> Option<Array> {
    let some = |array: &Array| array.dims.iter().map(|&dim| Some(dim)).collect();
    let dims = super::super::shapes::broadcast(&some(left), &some(right))?.into_iter().collect::<Option<Vec<_>>>()?;
    room(&dims)?;
    let (left, right) = (left.broadcast(&dims)?, right.broadcast(&dims)?);
    let data = left.iter().zip(right.iter()).map(|(&left, &right)| f(left, right)).collect();
    Some(Array { dims, data })
}

/// Matrix products, of all matrices of a batch.
pub(super) fn matmul(left: &Array, right: &Array) -> Option<Array> {
    let ([left_batch @ .., rows, depth], [right_batch @ .., depth_too, columns]) = (&left.dims[..], &right.dims[..])
    else {
        return None;
    };
    let (rows, depth, columns) = (*rows, *depth, *columns);
    let some = |dims: &[usize]| dims.iter().map(|&dim| Some(dim)).collect();
    let batch = super::super::shapes::broadcast(&some(left_batch), &some(right_batch))?;
    let batch = batch.into_iter().collect::<Option<Vec<_>>>()?;
    if depth != *depth_too {
        return None;
    }
    let whole = |rows: usize, columns: usize| [&batch[..], &[rows, columns]].concat();
    let (left, right) = (left.broadcast(&whole(rows, depth))?, right.broadcast(&whole(depth, columns))?);
    let mut product = Array::zeros(whole(rows, columns))?;
    if product.data.is_empty() {
        return Some(product);
    }
    for (index, row) in product.data.chunks_exact_mut(columns).enumerate() {
        let matrix = &right[index / rows * depth * columns..][..depth * columns];
        let factors = &left[index * depth..][..depth];
        for (factor, from) in factors.iter().zip(matrix.chunks_exact(columns)) {
            row.iter_mut().zip(from).for_each(|(sum, value)| *sum += factor * value);
        }
    }
    Some(product)
}
