//! Channels last where the tensors exceed the caches: a sample is swept for its moments while the one before is written.
//!
//! ```text
//! for each sample:
//!     for each vector of slots of a turn of rows:  add it to the slots' sums;  write as many elements of the sample before
//!     its moments, and its table of constants
//! write the last one
//! ```
//!
//! By itself a sweep would leave memory idle, and writing the units that compute, as in `rows_in_turn.rs`.

use std::marker::PhantomData;
use std::ops::Range;

use super::channels_last::Samples;
use super::constants::{Constants, Table};
use super::convert::Convert;
use super::memory::Numbers;
use super::pointwise::Map;
use super::simd::{Vector, finish_streaming};
use super::slabs::{OtherWork, SWEPT_AT_ONCE};
use super::stretch::{Ahead, Columns, InRegisters, Stretch, TURN_LANES};
use super::threads::{self, for_each_of_pieces};
use super::vectors::{self, Task};
use crate::norm::Activation;

/// Samples of fewer elements are too short for it.
const LEAST: usize = 16 * 1024;

/// Pieces for each thread at most, and samples of a piece at least, or nearly: the first one of each is swept by itself, and the
/// last one written.
const PIECES_OF_THREAD: usize = 8;
const SAMPLES_OF_PIECE: usize = 4;

/// Rows that are written at once: as many elements as are swept.
const ROWS: usize = SWEPT_AT_ONCE / TURN_LANES;

/// Normalizes all samples, if they are such as are done in turns. Whether it did.
///
/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(tensor: &Samples<'_, T>) -> bool {
    let (samples, length) = (tensor.problem.samples, tensor.length());
    let pieces_of_thread = (samples / (SAMPLES_OF_PIECE * threads::count())).min(PIECES_OF_THREAD);
    if !tensor.fetches_next || length < LEAST || pieces_of_thread == 0 || !vectors::run(HasRoom(PhantomData::<T>)) {
        return false;
    }
    let first = tensor.map(0, &Table::new(tensor.problem.channels));
    let (Some(width), true) = (first.width_of_turns(), first.stretch().is_some_and(|stretch| Columns::takes(&stretch)))
    else {
        return false;
    };
    for_each_of_pieces(pieces_of_thread, 0..samples, length, &|samples| {
        // SAFETY: by the caller; this thread alone has these samples.
        unsafe {
            if tensor.problem.activation == Activation::Silu {
                normalize::<T, true>(tensor, width, samples);
            } else {
                normalize::<T, false>(tensor, width, samples);
            }
        }
        finish_streaming();
    });
    true
}

/// Whether there are registers for both.
struct HasRoom<T>(PhantomData<T>);

impl<T: Convert> Task for HasRoom<T> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector>(self) -> bool {
        V::HAS_MANY_REGISTERS || !T::ROUNDS_TO_BF16
    }
}

/// Normalizes some samples, whose rows of whole turns are of `width` elements.
///
/// # Safety
/// As [`run`]; this thread alone has them.
unsafe fn normalize<T: Convert, const IS_SILU: bool>(tensor: &Samples<'_, T>, width: usize, samples: Range<usize>) {
    let mut table = Table::new(tensor.problem.channels);
    let mut row = Row { channels: tensor.problem.channels, width, values: Numbers::zeros(3 * width) };
    let mut constants = Constants::new();
    let mut before: Option<(Map<T>, Writing<T, IS_SILU>)> = None;
    for sample in samples {
        // SAFETY: by the caller; what is written has its moments.
        unsafe {
            let slab = tensor.slab(sample);
            let moments = match &mut before {
                Some((map, writing)) => {
                    let moments = slab.moments_in_turn(writing);
                    vectors::run(&mut *writing);
                    map.write_some_pixels(0..writing.first, &mut constants);
                    map.write_some_pixels(writing.end..map.length, &mut constants);
                    moments
                }
                None => slab.moments(),
            };
            tensor.fill(sample, &mut table, &moments);
            let map = tensor.map(sample, &table);
            before = map.stretch().map(|stretch| {
                let head = T::to_line(stretch.y.at(0));
                row.fill(&table, head % tensor.problem.channels);
                let writing = Writing {
                    stretch: Stretch { ahead: Ahead { next: 0, ..stretch.ahead }, ..stretch },
                    constants: row.starts(),
                    width,
                    first: head,
                    next: head,
                    column: 0,
                    end: map.length - (map.length - head) % (ROWS * width),
                };
                (map, writing)
            });
        }
    }
    if let Some((map, _)) = &before {
        // SAFETY: as above.
        unsafe { map.write_pixels(&mut constants) };
    }
}

/// The constants of a row's elements: means, scales and biases, each of which begin with a line of the caches.
struct Row {
    channels: usize,
    width: usize,
    values: Numbers<f32>,
}

impl Row {
    fn starts(&self) -> [*const f32; 3] {
        [0, 1, 2].map(|kind| self.values.as_ptr().wrapping_add(kind * self.width))
    }

    /// From a channel on.
    fn fill(&mut self, table: &Table, first: usize) {
        for (into, from) in self.values.chunks_exact_mut(self.width).zip(table.kinds()) {
            let (mut place, mut channel) = (0, first);
            while place < self.width {
                let count = (self.channels - channel).min(self.width - place);
                into[place..place + count].copy_from_slice(&from[channel..channel + count]);
                (place, channel) = (place + count, 0);
            }
        }
    }
}

/// A sample while it is written, [`ROWS`] at a time, column by column. The first of them begins with a line of the output.
struct Writing<T, const IS_SILU: bool> {
    stretch: Stretch<T>,
    /// Of a row.
    constants: [*const f32; 3],
    width: usize,
    /// Where the first row begins.
    first: usize,
    /// Where those begin that are being written, and which column of them is next.
    next: usize,
    column: usize,
    /// Where there are no more.
    end: usize,
}

impl<T: Convert, const IS_SILU: bool> OtherWork for Writing<T, IS_SILU> {
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn go_on<V: Vector>(&mut self) {
        let Self { stretch, constants: [mean, scale, bias], width, next, column, end, .. } = *self;
        if next == end {
            return;
        }
        let activation = match stretch.activation {
            _ if IS_SILU => Activation::Silu,
            Activation::Relu => Activation::Relu,
            _ => Activation::None,
        };
        // SAFETY: promised where it was made; that many elements are left, and constants of a row are there.
        unsafe {
            let map = &InRegisters::<V>::load([mean.add(column), scale.add(column), bias.add(column)]);
            stretch.write_turns::<V>(next + column, width, ROWS, map, activation);
        }
        self.column += TURN_LANES;
        if self.column == width {
            self.column = 0;
            self.next += ROWS * width;
        }
    }
}

/// Writes the rest of the rows.
impl<T: Convert, const IS_SILU: bool> Task for &mut Writing<T, IS_SILU> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        while self.next < self.end {
            self.go_on::<V>();
        }
    }
}
