//! The last step of every pattern, over consecutive elements: a map of each, by constants that stand still or come along.
//!
//! Elements stay in registers from their tensors into the output. Where the tensors together exceed the caches, the output
//! goes past them: a store then moves a line once, where an ordinary one loads it before.

use super::activation;
use super::constants::Constants;
use super::convert::Convert;
use super::input::{Tensor, stretches};
use super::moments::{CHUNK, Normalization, Values};
use super::simd::{LANES, LINE, Vector, each, mul_add, prefetch, prefetch_far, prefetch_once};
use super::vectors::{self, Task};
use crate::norm::Activation;

/// Vectors of a turn of the loop.
pub(super) const TURN: usize = 4;

/// Elements of a turn.
pub(super) const TURN_LANES: usize = TURN * LANES;

/// Elements from which on stores are aligned even if they need not be.
const LEAST_ALIGNED: usize = 4 * TURN_LANES;

/// Elements from which on a stretch is streamed even if it begins or ends within a line (measured: rows of 128 take twice as
/// long with it as without).
const LEAST_STREAMED: usize = 8 * TURN_LANES;

/// Of rows whose columns are done in turn.
const TILE_BYTES: usize = 16 * 1024;

/// Tensors of one type, elementwise beside each other.
#[derive(Clone, Copy)]
pub(super) struct Stretch<T> {
    pub x: Tensor<T>,
    pub residual: Tensor<T>,
    pub sum: Tensor<T>,
    pub y: Tensor<T>,
    pub activation: Activation,
    /// Whether the outputs go past the caches.
    pub streams: bool,
    pub ahead: Ahead,
}

/// How many elements ahead of what is worked at the inputs are prefetched; 0 for not at all.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// What this call will not read again.
    pub last: usize,
    /// What it will take next.
    pub next: usize,
}

impl Ahead {
    pub(super) const NONE: Self = Self { last: 0, next: 0 };
}

/// What an element becomes, but for the activation.
pub(super) trait Map<V: Vector> {
    /// Of the vectors from the element at `first` on.
    ///
    /// # Safety
    /// The constants of these elements may be read.
    unsafe fn of_turn<const TURN: usize>(&self, values: [V; TURN], first: usize) -> [V; TURN];
    /// Of the first `count` lanes, at most [`LANES`].
    ///
    /// # Safety
    /// As above.
    unsafe fn of_some(&self, value: V, first: usize, count: usize) -> V;
}

/// `x`, and the residual where it is not null.
#[derive(Clone, Copy)]
pub(super) struct Inputs<T> {
    pub x: *const T,
    pub residual: *const T,
}

impl<T: Convert> Inputs<T> {
    #[inline(always)]
    pub(super) fn new(x: Tensor<T>, residual: Tensor<T>) -> Self {
        let residual = if residual.is_absent() { std::ptr::null() } else { residual.wrapping_at(0) };
        Self { x: x.wrapping_at(0), residual }
    }

    /// So many elements behind, where these may be none any more.
    #[inline(always)]
    pub(super) fn behind(self, [x, residual]: [usize; 2]) -> Self {
        let residual = if self.residual.is_null() { self.residual } else { self.residual.wrapping_add(residual) };
        Self { x: self.x.wrapping_add(x), residual }
    }
}

impl<V: Vector, T: Convert> Values<V> for Inputs<T> {
    #[inline(always)]
    unsafe fn load<const COUNT: usize>(self, first: usize) -> [V; COUNT] {
        // SAFETY: by the caller.
        unsafe {
            let mut values: [V; COUNT] = self.x.load(first);
            if !self.residual.is_null() {
                let residuals: [V; COUNT] = self.residual.load(first);
                for (value, residual) in values.iter_mut().zip(residuals) {
                    *value = value.add(residual);
                }
            }
            values
        }
    }
    #[inline(always)]
    unsafe fn load_some(self, first: usize, count: usize) -> V {
        // SAFETY: by the caller.
        unsafe {
            let value: V = self.x.load_some(first, count);
            if self.residual.is_null() { value } else { value.add(self.residual.load_some(first, count)) }
        }
    }
    #[inline(always)]
    fn prefetch<const COUNT: usize>(self, first: usize) {
        Values::<V>::prefetch::<COUNT>(self.x, first);
        if !self.residual.is_null() {
            Values::<V>::prefetch::<COUNT>(self.residual, first);
        }
    }
}

impl<T: Convert> Stretch<T> {
    #[inline(always)]
    pub(super) fn inputs(self) -> Inputs<T> {
        Inputs::new(self.x, self.residual)
    }

    /// From an element on.
    ///
    /// # Safety
    /// It belongs to the tensors that are there.
    #[inline(always)]
    pub(super) unsafe fn from(self, first: usize) -> Self {
        // SAFETY: by the caller.
        unsafe { self.behind([first; 4]) }
    }

    /// So many elements behind, of x, residual, sum and y.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn behind(self, [x, residual, sum, y]: [usize; 4]) -> Self {
        // SAFETY: by the caller.
        unsafe {
            Self {
                x: self.x.offset(x),
                residual: self.residual.offset(residual),
                sum: self.sum.offset(sum),
                y: self.y.offset(y),
                ..self
            }
        }
    }

    /// Maps the elements `[first, first + count)`. The map is told their indices less `origin`. With `IS_SILU`, which is true only
    /// if that is the activation, it stands in the loop; else it is called.
    ///
    /// # Safety
    /// They belong to the tensors that are there, and no other thread has them; an output may be an input only exactly.
    #[inline(always)]
    unsafe fn write<V: Vector, const IS_SILU: bool>(
        self,
        first: usize,
        count: usize,
        origin: usize,
        map: &impl Map<V>,
    ) {
        // SAFETY: by the caller.
        unsafe {
            let streams = self.streams_of(first, count);
            self.write_by::<V, IS_SILU>(first, count, origin, map, streams);
        }
    }

    /// Whether the whole lines of so many elements go past the caches: what is short and not made of whole lines is better left
    /// to them.
    #[inline(always)]
    pub(super) fn streams_of(self, first: usize, count: usize) -> bool {
        let is_of_lines = || T::to_line(self.y.wrapping_at(first)) == 0 && count.is_multiple_of(T::OF_LINE);
        self.streams && (count >= LEAST_STREAMED || is_of_lines())
    }

    /// Maps the elements `[first, first + count)`, those of whole lines past the caches if it `streams`.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    pub(super) unsafe fn write_by<V: Vector, const IS_SILU: bool>(
        self,
        first: usize,
        count: usize,
        origin: usize,
        map: &impl Map<V>,
        streams: bool,
    ) {
        let (mut next, end) = (first, first + count);
        // SAFETY: by the caller; each turn is read before any of it is written.
        unsafe {
            let head = T::to_line(self.y.at(next));
            // Up to where a line of the output begins, if that is worth it, for a store into two lines takes longer; then
            // turns, and what is left. What is streamed are whole lines: a part of one would wait for the rest, or for memory.
            let mut stop = next + if streams || count >= LEAST_ALIGNED { head } else { 0 };
            let mut whole_lines_end = next;
            loop {
                while next + LANES <= stop {
                    let streams = streams && next < whole_lines_end;
                    self.write_vectors::<V, 1, false>(next, origin, map, [streams, false]);
                    next += LANES;
                }
                if next < stop {
                    self.write_some(next, stop - next, origin, map);
                    next = stop;
                }
                if next == end {
                    return;
                }
                // Not asked in every turn: what both answers have in common the compiler would do before, and lack registers.
                next = if streams {
                    self.write_whole_turns::<V, true, IS_SILU>(next, end, origin, map)
                } else {
                    self.write_whole_turns::<V, false, IS_SILU>(next, end, origin, map)
                };
                whole_lines_end = end - (end - next) % T::OF_LINE;
                stop = end;
            }
        }
    }

    /// Maps what is whole turns. Returns where they end.
    ///
    /// # Safety
    /// As [`write`](Self::write); if they are streamed, a line of the output begins.
    #[inline(always)]
    unsafe fn write_whole_turns<V: Vector, const STREAMS: bool, const IS_SILU: bool>(
        self,
        first: usize,
        end: usize,
        origin: usize,
        map: &impl Map<V>,
    ) -> usize {
        let mut next = first;
        // SAFETY: by the caller.
        unsafe {
            let sum_streams = STREAMS && !self.sum.is_absent() && T::to_line(self.sum.at(next)) == 0;
            while next + TURN_LANES <= end {
                self.prefetch(next);
                self.write_vectors::<V, TURN, IS_SILU>(next, origin, map, [STREAMS, sum_streams]);
                next += TURN_LANES;
            }
        }
        next
    }

    /// Maps a turn of each of some rows, the first from an element on. There a line of the output begins, and in each row.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    pub(super) unsafe fn write_turns<V: Vector>(
        self,
        first: usize,
        stride: usize,
        rows: usize,
        map: &InRegisters<V>,
        activation: Activation,
    ) {
        // SAFETY: by the caller.
        unsafe {
            let mut next = first;
            for _ in 0..rows {
                self.prefetch(next);
                let values: [V; TURN] = self.inputs().load(next);
                T::store_each(activation::in_long_loop(map.of_turn(values), activation), self.y.at(next), self.streams);
                next += stride;
            }
        }
    }

    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    unsafe fn write_vectors<V: Vector, const COUNT: usize, const IS_SILU: bool>(
        self,
        first: usize,
        origin: usize,
        map: &impl Map<V>,
        [streams, sum_streams]: [bool; 2],
    ) {
        // SAFETY: by the caller.
        unsafe {
            let mut values: [V; COUNT] = self.inputs().load(first);
            if !self.sum.is_absent() {
                T::store_each(values, self.sum.at(first), sum_streams);
            }
            values = map.of_turn(values, first.wrapping_sub(origin));
            values = if IS_SILU {
                activation::in_long_loop(values, Activation::Silu)
            } else {
                activation::of_vectors(values, self.activation)
            };
            T::store_each(values, self.y.at(first), streams);
        }
    }

    /// Maps a [`CHUNK`], which begins with a line of the output. The activation is one
    /// [for long loops](activation::is_for_long_loops).
    ///
    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    pub(super) unsafe fn write_chunk<V: Vector>(self, first: usize, map: &impl Map<V>, streams: bool) {
        for first in (first..first + CHUNK).step_by(TURN_LANES) {
            // SAFETY: by the caller.
            unsafe {
                let mut values: [V; TURN] = self.inputs().load(first);
                if !self.sum.is_absent() {
                    let sum = self.sum.at(first);
                    T::store_each(values, sum, streams && T::to_line(sum) == 0);
                }
                values = activation::in_long_loop(map.of_turn(values, first), self.activation);
                T::store_each(values, self.y.at(first), streams);
            }
        }
    }

    /// Fewer than a vector.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    unsafe fn write_some<V: Vector>(self, first: usize, count: usize, origin: usize, map: &impl Map<V>) {
        // SAFETY: by the caller.
        unsafe {
            let value: V = self.inputs().load_some(first, count);
            if !self.sum.is_absent() {
                T::store_some(value, self.sum.at(first), count);
            }
            let [value] =
                activation::of_vectors([map.of_some(value, first.wrapping_sub(origin), count)], self.activation);
            T::store_some(value, self.y.at(first), count);
        }
    }

    /// Loads the outputs' lines with an element on which writing will end: unless it begins them, they go by the caches, where a
    /// store would wait for its line, and all others behind it.
    #[inline(always)]
    pub(super) fn prefetch_ends(self, end: usize) {
        for output in [self.y, self.sum] {
            if !output.is_absent() && T::to_line(output.wrapping_at(end)) > 0 {
                prefetch(output.wrapping_at(end));
            }
        }
    }

    /// The lines that lie ahead of a turn's.
    #[inline(always)]
    fn prefetch(self, first: usize) {
        let Ahead { last, next } = self.ahead;
        if last > 0 {
            self.prefetch_turn(
                first + last,
                #[inline(always)]
                |line| prefetch_once(line),
            );
        }
        if next > 0 {
            self.prefetch_turn(
                first + next,
                #[inline(always)]
                |line| prefetch_far(line),
            );
        }
    }

    #[inline(always)]
    fn prefetch_turn(self, first: usize, prefetch: impl Fn(*const T)) {
        for line in (0..TURN_LANES * size_of::<T>()).step_by(LINE) {
            prefetch(self.x.wrapping_at(first).wrapping_byte_add(line));
            if !self.residual.is_absent() {
                prefetch(self.residual.wrapping_at(first).wrapping_byte_add(line));
            }
        }
    }
}

/// `(s - mean) * scale + bias`, the same for all.
#[derive(Clone, Copy)]
pub(super) struct Plane {
    pub mean: f32,
    pub scale: f32,
    pub bias: f32,
}

impl Plane {
    pub(super) const NONE: Self = Self { mean: 0.0, scale: 0.0, bias: 0.0 };

    #[inline(always)]
    pub(super) fn apply<V: Vector>(self, values: &mut [f32]) {
        for value in values {
            *value = mul_add::<V>(*value - self.mean, self.scale, self.bias);
        }
    }
}

impl<V: Vector> Map<V> for Plane {
    #[inline(always)]
    unsafe fn of_turn<const TURN: usize>(&self, values: [V; TURN], _: usize) -> [V; TURN] {
        each(
            values,
            #[inline(always)]
            |value| plane(self, value),
        )
    }
    #[inline(always)]
    unsafe fn of_some(&self, value: V, _: usize, _: usize) -> V {
        plane(self, value)
    }
}

#[inline(always)]
fn plane<V: Vector>(plane: &Plane, value: V) -> V {
    let Plane { mean, scale, bias } = *plane;
    value.sub(V::splat(mean)).mul_add(V::splat(scale), V::splat(bias))
}

/// Planes behind each other, each by its own constants.
pub(super) struct Planes<'a, T> {
    pub stretch: Stretch<T>,
    pub first: usize,
    pub count: usize,
    /// Elements of a plane.
    pub spatial: usize,
    /// From that of the first element on.
    pub planes: &'a [Plane],
}

impl<T: Convert> Planes<'_, T> {
    /// Runs it.
    ///
    /// # Safety
    /// As [`Stretch::write`], for all of these elements.
    pub(super) unsafe fn write(self) {
        if self.stretch.activation == Activation::Silu {
            vectors::run(PlanesOfSilu(self));
        } else {
            vectors::run(self);
        }
    }
}

impl<T: Convert> Task for Planes<'_, T> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        self.write_each::<V, false>();
    }
}

/// On their own: a loop with room for SiLU's many constants, in one function with others, slows them down.
struct PlanesOfSilu<'a, T>(Planes<'a, T>);

impl<T: Convert> Task for PlanesOfSilu<'_, T> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::HAS_MANY_REGISTERS {
            self.0.write_each::<V, true>();
        } else {
            self.0.write_each::<V, false>();
        }
    }
}

impl<T: Convert> Planes<'_, T> {
    #[inline(always)]
    fn write_each<V: Vector, const IS_SILU: bool>(self) {
        let mut next = self.first;
        for ((_, count), plane) in stretches(self.first, self.count, self.spatial).zip(self.planes) {
            // SAFETY: promised where it was run.
            unsafe { self.stretch.write::<V, IS_SILU>(next, count, 0, plane) };
            next += count;
        }
    }
}

/// Elements of which each has its own constants, the same ones again after a row.
pub(super) struct Pixels<'a, T> {
    pub stretch: Stretch<T>,
    pub first: usize,
    pub count: usize,
    /// Elements before those that have the first of the constants; fewer than a row.
    pub head: usize,
    /// Elements of a row.
    pub width: usize,
    /// Of a row, and if there are more elements, of a turn behind it.
    pub constants: &'a Constants,
}

impl<T: Convert> Pixels<'_, T> {
    /// Runs it.
    ///
    /// # Safety
    /// As [`Stretch::write`], for all of these elements.
    pub(super) unsafe fn write(self) {
        vectors::run(self);
    }
}

impl<T: Convert> Task for Pixels<'_, T> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { stretch, first, count, head, width, constants } = self;
        let map = &ByElement { constants };
        let (mut next, end) = (first, first + count);
        // SAFETY: promised where it was run.
        unsafe {
            // The head ends a row.
            if head > 0 {
                stretch.write::<V, false>(next, head, (first + head).wrapping_sub(width), map);
                next += head;
            }
            let mut origin = next;
            while next < end {
                let count = (origin + width - next).next_multiple_of(TURN_LANES).min(end - next);
                stretch.write::<V, false>(next, count, origin, map);
                next += count;
                if next - origin >= width {
                    origin += width;
                }
            }
        }
    }
}

/// Some columns of rows, whole turns of them, by constants that stay in registers from row to row. Each turn begins with a line
/// of the output. There is no sum, and an activation that [`Columns::takes`].
pub(super) struct Columns<'a, T> {
    pub stretch: Stretch<T>,
    /// The element of the first row that has the first of the constants.
    pub first: usize,
    pub rows: usize,
    /// Elements between the starts of rows.
    pub stride: usize,
    pub columns: usize,
    pub constants: &'a Constants,
}

impl<T: Convert> Columns<'_, T> {
    /// Whether it writes such tensors: others have calls in their loops, or lack registers for it.
    #[inline(always)]
    pub(super) fn takes(stretch: &Stretch<T>) -> bool {
        stretch.sum.is_absent() && activation::is_for_long_loops(stretch.activation)
    }

    /// Runs it.
    ///
    /// # Safety
    /// As [`Stretch::write`], for all of these elements.
    pub(super) unsafe fn write(self) {
        if self.stretch.activation == Activation::Silu {
            vectors::run(ColumnsOfSilu(self));
        } else {
            vectors::run(self);
        }
    }
}

impl<T: Convert> Task for Columns<'_, T> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        if self.stretch.activation == Activation::Relu {
            self.write_with::<V>(Activation::Relu);
        } else {
            self.write_with::<V>(Activation::None);
        }
    }
}

/// On their own, as [`PlanesOfSilu`] are.
struct ColumnsOfSilu<'a, T>(Columns<'a, T>);

impl<T: Convert> Task for ColumnsOfSilu<'_, T> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        self.0.write_with::<V>(Activation::Silu);
    }
}

impl<T: Convert> Columns<'_, T> {
    #[inline(always)]
    fn write_with<V: Vector>(self, activation: Activation) {
        let Self { stretch, first, rows, stride, columns, constants } = self;
        // The nearest cache has the rows until all of their columns are done.
        let tile = (TILE_BYTES / (stride * size_of::<T>())).max(1);
        for row in (0..rows).step_by(tile) {
            for column in (0..columns).step_by(TURN_LANES) {
                // SAFETY: promised where it was run.
                unsafe {
                    let map = &InRegisters::<V>::load(constants.from(column));
                    let first = first + row * stride + column;
                    stretch.write_turns::<V>(first, stride, tile.min(rows - row), map, activation);
                }
            }
        }
    }
}

/// A turn of elements, each by constants of its own.
pub(super) struct InRegisters<V> {
    mean: [V; TURN],
    scale: [V; TURN],
    bias: [V; TURN],
}

impl<V: Vector> InRegisters<V> {
    /// # Safety
    /// There are constants for a turn: mean, scale and bias.
    #[inline(always)]
    pub(super) unsafe fn load([mean, scale, bias]: [*const f32; 3]) -> Self {
        // SAFETY: by the caller.
        unsafe {
            Self {
                mean: Values::<V>::load(mean, 0),
                scale: Values::<V>::load(scale, 0),
                bias: Values::<V>::load(bias, 0),
            }
        }
    }

    #[inline(always)]
    fn of_turn(&self, mut values: [V; TURN]) -> [V; TURN] {
        let constants = self.mean.iter().zip(self.scale.iter().zip(&self.bias));
        for (value, (mean, (scale, bias))) in values.iter_mut().zip(constants) {
            *value = value.sub(*mean).mul_add(*scale, *bias);
        }
        values
    }
}

/// Each element by constants of its own.
struct ByElement<'a> {
    constants: &'a Constants,
}

impl<V: Vector> Map<V> for ByElement<'_> {
    #[inline(always)]
    unsafe fn of_turn<const TURN: usize>(&self, mut values: [V; TURN], first: usize) -> [V; TURN] {
        let [mean, scale, bias] = self.constants.from(first);
        // SAFETY: by the caller.
        unsafe {
            for (turn, value) in values.iter_mut().enumerate() {
                let at = turn * LANES;
                *value = value.sub(V::load(mean.add(at))).mul_add(V::load(scale.add(at)), V::load(bias.add(at)));
            }
        }
        values
    }

    #[inline(always)]
    unsafe fn of_some(&self, value: V, first: usize, count: usize) -> V {
        let [mean, scale, bias] = self.constants.from(first);
        // SAFETY: by the caller.
        unsafe { value.sub(V::load_some(mean, count)).mul_add(V::load_some(scale, count), V::load_some(bias, count)) }
    }
}

/// Tensors, row by row.
#[derive(Clone, Copy)]
pub(super) struct Strided<T> {
    /// From the first row on.
    pub first: Stretch<T>,
    /// Elements between the starts of rows, of x, residual, sum and y.
    pub strides: [usize; 4],
}

impl<T: Convert> Strided<T> {
    /// From a row on.
    ///
    /// # Safety
    /// The row is one of the tensors'.
    #[inline(always)]
    pub(super) unsafe fn from(&self, row: usize) -> Stretch<T> {
        // SAFETY: by the caller.
        unsafe { self.first.behind(self.strides.map(|stride| row * stride)) }
    }
}

/// Rows, normalized, with a weight and a bias for each element.
pub(super) struct Rows<'a, T> {
    pub rows: &'a Strided<T>,
    pub first_row: usize,
    /// Of each row, from `first` on.
    pub first: usize,
    pub count: usize,
    /// Of each of the rows.
    pub by: &'a [Normalization],
    /// From a row's first element on; null where absent.
    pub weight: *const f32,
    pub bias: *const f32,
}

impl<T: Convert> Rows<'_, T> {
    /// Runs it.
    ///
    /// # Safety
    /// As [`Stretch::write`], for all of these elements, and their coefficients may be read.
    pub(super) unsafe fn write(self) {
        vectors::run(self);
    }
}

impl<T: Convert> Task for Rows<'_, T> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, first_row, first, count, by, weight, bias } = self;
        for (row, by) in by.iter().enumerate() {
            // SAFETY: promised where it was run.
            unsafe {
                let stretch = rows.from(first_row + row);
                stretch.write::<V, false>(first, count, 0, &Normalized::new(by, weight, bias));
            }
        }
    }
}

/// `(s - mean) * rstd + shift`, and an element's own weight and bias.
pub(super) struct Normalized<V> {
    mean: V,
    rstd: V,
    shift: V,
    weight: *const f32,
    bias: *const f32,
}

impl<V: Vector> Normalized<V> {
    /// Weight and bias are those from the element on that has the index 0; null where absent.
    #[inline(always)]
    pub(super) fn new(by: &Normalization, weight: *const f32, bias: *const f32) -> Self {
        let (mean, rstd, shift) = (V::splat(by.mean), V::splat(by.rstd), V::splat(by.shift));
        Self { mean, rstd, shift, weight, bias }
    }

    /// `load` is told from where.
    #[inline(always)]
    fn apply<const COUNT: usize>(
        &self,
        values: [V; COUNT],
        element: usize,
        load: impl Fn(*const f32) -> V,
    ) -> [V; COUNT] {
        let mut values = each(
            values,
            #[inline(always)]
            |value| value.sub(self.mean).mul_add(self.rstd, self.shift),
        );
        let (weight, bias) = (self.weight.wrapping_add(element), self.bias.wrapping_add(element));
        match (self.weight.is_null(), self.bias.is_null()) {
            (true, true) => {}
            (true, false) => {
                for (turn, value) in values.iter_mut().enumerate() {
                    *value = value.add(load(bias.wrapping_add(turn * LANES)));
                }
            }
            (false, true) => {
                for (turn, value) in values.iter_mut().enumerate() {
                    *value = value.mul(load(weight.wrapping_add(turn * LANES)));
                }
            }
            (false, false) => {
                for (turn, value) in values.iter_mut().enumerate() {
                    *value =
                        value.mul_add(load(weight.wrapping_add(turn * LANES)), load(bias.wrapping_add(turn * LANES)));
                }
            }
        }
        values
    }
}

impl<V: Vector> Map<V> for Normalized<V> {
    #[inline(always)]
    unsafe fn of_turn<const TURN: usize>(&self, values: [V; TURN], first: usize) -> [V; TURN] {
        self.apply(
            values,
            first,
            #[inline(always)]
            |from| {
                // SAFETY: by the caller.
                unsafe { V::load(from) }
            },
        )
    }

    #[inline(always)]
    unsafe fn of_some(&self, value: V, first: usize, count: usize) -> V {
        let [value] = self.apply(
            [value],
            first,
            #[inline(always)]
            |from| {
                // SAFETY: by the caller.
                unsafe { V::load_some(from, count) }
            },
        );
        value
    }
}
