//! The CPU as a backend.

use super::run;
use crate::args::Operand;
use crate::backend::{Sink, Source, sealed};
use crate::element::{Kind, Stored};
use crate::error::Result;
use crate::problem::{Buffers, Problem};
use crate::tensors::Tensor;

/// The CPU: every layer, in the caller's memory, finished when the call returns.
///
/// Work is spread over rayon's threads (the caller's pool, if it installs one). Bits do not depend on their number. What is
/// small stays on the calling thread, as does everything where rayon has one thread; for the rest, a caller from outside the
/// pool has threads woken, which takes 10 to 20 us, and more where the system is slow to spread them over the cores. One that is
/// within (`ThreadPool::install`) has none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cpu;

impl sealed::Execute for Cpu {
    type Guard<'a> = ();
    type Resolved = Problem;
    type Memory = ();

    fn resolve(&self, problem: &Problem) -> Result<Problem> {
        Ok(*problem)
    }

    /// Threads have what they merge on their own stacks, or, for slabs of many channels, on the heap.
    fn workspace_bytes(_: &Problem) -> usize {
        0
    }

    fn allocate(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn memory<'a>(&'a self, (): &'a mut ()) -> Operand<'a, Self> {
        Operand { tensor: Tensor { address: 0, len: Some(0), kind: Kind::Bytes, elsewhere: false }, guard: () }
    }

    fn submit(&self, problem: &Problem, buffers: &Buffers) -> Result<()> {
        // SAFETY: the addresses are those of slices that the arguments borrow, shared for what is read and exclusively
        // for what is written, and were checked against the problem.
        unsafe { run(problem, buffers) };
        Ok(())
    }
}

impl<T: Stored, S: AsRef<[T]> + ?Sized> Source<Cpu, T> for S {
    fn read<'a>(&'a self, _: &'a Cpu, _: sealed::Token) -> Operand<'a, Cpu> {
        let slice = self.as_ref();
        // The provenance is exposed here and taken up again by `run`.
        operand::<T>(slice.as_ptr().expose_provenance(), slice.len())
    }
}

impl<T: Stored, S: AsMut<[T]> + ?Sized> Sink<Cpu, T> for S {
    fn write<'a>(&'a mut self, _: &'a Cpu, _: sealed::Token) -> Operand<'a, Cpu> {
        let slice = self.as_mut();
        operand::<T>(slice.as_mut_ptr().expose_provenance(), slice.len())
    }
}

fn operand<'a, T: Stored>(address: usize, len: usize) -> Operand<'a, Cpu> {
    let tensor = Tensor { address: address as u64, len: Some(len), kind: T::STORED, elsewhere: false };
    Operand { tensor, guard: () }
}
