//! A call's tensors, and the prologue of every pattern: residual in, sum out.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::{ptr, slice};

use half::{bf16, f16};

use super::BLOCK;
use super::convert::{Convert, round};
use super::modulation::Added;
use super::stretch::Inputs;
use crate::element::DType;
use crate::problem::{Buffers, Coefficient};

/// The address of a tensor, or of a part of it; 0 where it is absent. An address may be handed between threads; that
/// whoever accesses it may do so is argued where it is accessed.
#[derive(Clone, Copy)]
pub(super) struct Tensor<T> {
    address: u64,
    element: PhantomData<fn() -> T>,
}

impl<T: Convert> Tensor<T> {
    pub(super) fn new(address: u64) -> Self {
        Self { address, element: PhantomData }
    }

    pub(super) fn is_absent(self) -> bool {
        self.address == 0
    }

    /// # Safety
    /// The element at `elements` belongs to the tensor, which is not absent.
    #[inline(always)]
    pub(super) unsafe fn at(self, elements: usize) -> *mut T {
        #[expect(clippy::cast_possible_truncation, reason = "an address of this machine")]
        let start = ptr::with_exposed_provenance_mut::<T>(self.address as usize);
        // SAFETY: stays within the tensor.
        unsafe { start.add(elements) }
    }

    /// Where an element would be, which need not belong to the tensor.
    #[inline(always)]
    pub(super) fn wrapping_at(self, elements: usize) -> *const T {
        #[expect(clippy::cast_possible_truncation, reason = "an address of this machine")]
        ptr::with_exposed_provenance::<T>(self.address as usize).wrapping_add(elements)
    }

    /// The part from the element at `elements` on.
    ///
    /// # Safety
    /// The tensor is absent, or that element belongs to it.
    #[inline(always)]
    pub(super) unsafe fn offset(self, elements: usize) -> Self {
        if self.is_absent() {
            return self;
        }
        // SAFETY: by the caller.
        Self::new(unsafe { self.at(elements) }.expose_provenance() as u64)
    }

    /// `into.len()` elements from the one at `first` on, widened.
    ///
    /// # Safety
    /// The tensor is not absent, those elements belong to it, may be read, and nobody writes them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn load(self, first: usize, into: &mut [f32]) {
        // SAFETY: by the caller; the slice is gone before anything is written.
        T::widen(unsafe { slice::from_raw_parts(self.at(first), into.len()) }, into);
    }

    /// Rounds `from` into the elements from the one at `first` on.
    ///
    /// # Safety
    /// The tensor is not absent, those elements belong to it, may be written, and nobody else accesses them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn store(self, first: usize, from: &[f32]) {
        // SAFETY: by the caller.
        T::narrow(from, unsafe { slice::from_raw_parts_mut(self.at(first), from.len()) });
    }
}

/// The three tensors of the prologue.
#[derive(Clone, Copy)]
pub(super) struct Input<T> {
    pub x: Tensor<T>,
    pub residual: Tensor<T>,
    pub second_residual: Tensor<T>,
    pub sum: Tensor<T>,
    /// Added to `x`, from the first element on. As the two that follow, it belongs to one place.
    pub bias: Coefficients,
    /// A sample's own factor of that.
    pub gate: Coefficients,
    /// A sample's own bias. It belongs to one place: what is moved elsewhere has none until it is given another.
    pub added: Added,
    /// Whether each step is rounded to the type.
    pub rounds: bool,
}

impl<T: Convert> Input<T> {
    pub(super) fn new(buffers: &Buffers) -> Self {
        let tensors = [buffers.x, buffers.residual, buffers.second_residual, buffers.sum];
        let [x, residual, second_residual, sum] = tensors.map(Tensor::new);
        Self {
            x,
            residual,
            second_residual,
            sum,
            bias: Coefficients::NONE,
            gate: Coefficients::NONE,
            added: Added::NONE,
            rounds: false,
        }
    }

    /// The parts from the element at `elements` on.
    ///
    /// # Safety
    /// As [`Tensor::offset`], for each of them.
    #[inline(always)]
    pub(super) unsafe fn offset(self, elements: usize) -> Self {
        // SAFETY: by the caller.
        unsafe {
            Self {
                x: self.x.offset(elements),
                residual: self.residual.offset(elements),
                second_residual: self.second_residual.offset(elements),
                sum: self.sum.offset(elements),
                bias: Coefficients::NONE,
                gate: Coefficients::NONE,
                added: Added::NONE,
                rounds: self.rounds,
            }
        }
    }

    /// `x` and the residual, if they are all that there is.
    #[inline(always)]
    pub(super) fn plain(self) -> Option<Inputs<T>> {
        let Self { x, residual, second_residual, sum: _, bias, gate, added, rounds } = self;
        let is_plain =
            second_residual.is_absent() && bias.is_absent() && gate.is_absent() && added.is_absent() && !rounds;
        is_plain.then(|| Inputs::new(x, residual))
    }

    /// `(x + bias) * gate`, the residuals and a sample's bias, of `into.len()` elements, each step rounded to f32.
    ///
    /// # Safety
    /// As [`Tensor::load`], for each of them that is there; `x` is.
    #[inline(always)]
    pub(super) unsafe fn load(self, first: usize, into: &mut [f32]) {
        // SAFETY: by the caller.
        unsafe {
            self.load_own(first, into);
            self.complete(first, into);
        }
    }

    /// `x + bias`.
    ///
    /// # Safety
    /// As [`load`](Self::load).
    #[inline(always)]
    pub(super) unsafe fn load_own(self, first: usize, into: &mut [f32]) {
        // SAFETY: by the caller.
        unsafe { self.x.load(first, into) };
        if !self.bias.is_absent() {
            // SAFETY: by the caller.
            combine(into, |at, bias| unsafe { self.bias.load(first + at, 0.0, bias) }, |value, add| value + add);
            self.round(into);
        }
    }

    /// What follows upon that, or upon a norm of it.
    ///
    /// # Safety
    /// As [`load`](Self::load).
    #[inline(always)]
    pub(super) unsafe fn complete(self, first: usize, into: &mut [f32]) {
        if !self.gate.is_absent() {
            // SAFETY: by the caller.
            combine(into, |at, gate| unsafe { self.gate.load(first + at, 1.0, gate) }, |value, gate| value * gate);
            self.round(into);
        }
        for residual in [self.residual, self.second_residual] {
            if !residual.is_absent() {
                // SAFETY: by the caller.
                combine(into, |at, added| unsafe { residual.load(first + at, added) }, |value, add| value + add);
                self.round(into);
            }
        }
        if !self.added.is_absent() {
            // SAFETY: by the caller.
            unsafe { self.added.add(first, into) };
        }
    }

    #[inline(always)]
    fn round(self, values: &mut [f32]) {
        if self.rounds {
            round::<T>(values);
        }
    }

    /// # Safety
    /// As [`Tensor::store`], if `sum` is there.
    #[inline(always)]
    pub(super) unsafe fn write_sum(self, first: usize, values: &[f32]) {
        if !self.sum.is_absent() {
            // SAFETY: by the caller.
            unsafe { self.sum.store(first, values) };
        }
    }
}

/// `values` with those of another tensor, which `load` reads from some element on.
#[inline(always)]
pub(super) fn combine(values: &mut [f32], load: impl Fn(usize, &mut [f32]), operation: impl Fn(f32, f32) -> f32) {
    // A short buffer, for it is cleared at every call.
    const CHUNK: usize = 128;
    let mut buffer = [0.0; CHUNK];
    for (index, values) in values.chunks_mut(CHUNK).enumerate() {
        let (others, _) = buffer.split_at_mut(values.len());
        load(index * CHUNK, others);
        for (value, other) in values.iter_mut().zip(others) {
            *value = operation(*value, *other);
        }
    }
}

/// A tensor that is written, of a type that is known at run time only.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub dtype: DType,
    pub address: u64,
}

impl Output {
    /// From the element at `elements` on.
    #[inline(always)]
    pub(super) fn offset(self, elements: usize) -> Self {
        Self { address: self.address + (elements * self.dtype.size()) as u64, ..self }
    }

    /// # Safety
    /// As [`Tensor::store`].
    #[inline(always)]
    pub(super) unsafe fn store(self, first: usize, from: &[f32]) {
        // SAFETY: by the caller.
        unsafe {
            match self.dtype {
                DType::F32 => Tensor::<f32>::new(self.address).store(first, from),
                DType::F16 => Tensor::<f16>::new(self.address).store(first, from),
                DType::Bf16 => Tensor::<bf16>::new(self.address).store(first, from),
            }
        }
    }
}

/// One weight or bias tensor: its type is known at run time only, and it may be absent.
#[derive(Clone, Copy)]
pub(super) struct Coefficients {
    dtype: Coefficient,
    address: u64,
}

impl Coefficients {
    pub(super) const NONE: Self = Self { dtype: None, address: 0 };

    /// From the element at `elements` on.
    #[inline(always)]
    pub(super) fn offset(self, elements: usize) -> Self {
        let bytes = self.dtype.map_or(0, |dtype| elements * dtype.size());
        Self { address: self.address + bytes as u64, ..self }
    }

    pub(super) fn new(dtype: Coefficient, address: u64) -> Self {
        Self { dtype: dtype.filter(|_| address != 0), address }
    }

    pub(super) fn is_absent(self) -> bool {
        self.dtype.is_none()
    }

    /// Where they are, if they are f32.
    pub(super) fn as_f32(self) -> Option<*const f32> {
        (self.dtype == Some(DType::F32)).then(|| Tensor::new(self.address).wrapping_at(0))
    }

    /// `into.len()` elements from the one at `first` on; `absent` in place of each if there are none.
    ///
    /// # Safety
    /// As [`Tensor::load`], if it is there.
    #[inline(always)]
    pub(super) unsafe fn load(self, first: usize, absent: f32, into: &mut [f32]) {
        // SAFETY: by the caller.
        unsafe {
            match self.dtype {
                None => into.fill(absent),
                Some(DType::F32) => Tensor::<f32>::new(self.address).load(first, into),
                Some(DType::F16) => Tensor::<f16>::new(self.address).load(first, into),
                Some(DType::Bf16) => Tensor::<bf16>::new(self.address).load(first, into),
            }
        }
    }
}

/// A block of numbers, which begins with a line of the caches: vectors that lie across two take twice as long to load.
#[repr(align(64))]
pub(super) struct Block([f32; BLOCK]);

impl Block {
    #[inline(always)]
    pub(super) fn zeros() -> Self {
        Self([0.0; BLOCK])
    }
}

impl Deref for Block {
    type Target = [f32; BLOCK];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Block {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// The first `count` of a block.
#[inline(always)]
pub(super) fn part(block: &mut [f32; BLOCK], count: usize) -> &mut [f32] {
    within(block, 0, count)
}

/// `count` places of a block from the one at `first` on. They are there; were they not, it would be none and no panic.
#[inline(always)]
pub(super) fn within(block: &mut [f32; BLOCK], first: usize, count: usize) -> &mut [f32] {
    block.get_mut(first..).and_then(|rest| rest.get_mut(..count)).unwrap_or_default()
}

/// Cuts the elements `[first, first + count)` where the consecutive stretches of `stretch` elements end: which stretch,
/// and how many elements of it.
#[inline(always)]
pub(super) fn stretches(first: usize, count: usize, stretch: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut index = first / stretch;
    let mut room = stretch - first % stretch;
    let mut left = count;
    std::iter::from_fn(move || {
        let taken = room.min(left);
        let item = (index, taken);
        index += 1;
        room = stretch;
        left -= taken;
        (taken > 0).then_some(item)
    })
}
