//! Cells on the CPU.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use warpnorm::{Cpu, Prepared};

use super::Result;
use super::case::{Case, Op};
use super::cell::{ALL_WORK, Cell, Work};
use super::check::{POISON, max_err};
use super::copier::{COPIERS, Copier, LINE, ONE_THREAD, Word};
use super::layer::prepare;
use super::measure::median;
use super::tensors::{Constants, Numbers, Output, Tensors, call};
use crate::place::{Held, Real};
use crate::with_type;

/// A window is at least so long, so that a clock's grain and a thread's waking are small beside it.
pub const WINDOW_SECONDS: f64 = 2e-3;

/// Sets of buffers: those of small tensors stay in cache.
pub const MOST_SETS: usize = 64;

pub fn cell(case: &Case) -> Result<Box<dyn Cell>> {
    with_type!(case.dtype, typed_cell(case))
}

fn typed_cell<T: Real>(case: &Case) -> Result<Box<dyn Cell>> {
    Ok(Box::new(CpuCell::<T>::new(case)?))
}

/// What the caches hold, of the processor that this runs on; a guess where it does not say.
pub fn last_level_cache() -> usize {
    let read = |index: usize| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..8).filter_map(read).max().map_or(32 << 20, |kib| kib << 10)
}

/// The processor, as in `AMD EPYC 7B13, family 25, model 1`: on a virtual machine the name alone can be that of several.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        fields
            .map(|(found, value)| (found.trim(), value.trim()))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    };
    let name = field("model name").unwrap_or(std::env::consts::ARCH);
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name}, family {family}, model {model}"),
        _ => name.to_owned(),
    }
}

struct CpuCell<T: Real> {
    case: Case,
    numbers: Numbers<T>,
    constants: Constants<Cpu, T>,
    sets: Vec<Tensors<Cpu, T>>,
    prepared: Prepared<Cpu>,
    /// What is no part of the call, if not all of it is measured: see [`Op::BatchNormStatistics`].
    rest: Option<(Case, Prepared<Cpu>)>,
    arenas: Vec<Arena>,
    copier: Copier,
    /// Calls of a window, for each kind of work.
    calls: [usize; 3],
    /// The set that comes next.
    next: usize,
}

/// What a copy or a read moves: half of a call's bytes to each of the first two, and as much as a call reads.
struct Arena {
    source: Vec<Word>,
    target: Vec<Word>,
    read: Vec<Word>,
}

impl<T: Real> CpuCell<T> {
    fn new(case: &Case) -> Result<Self> {
        let (numbers, prepared) = (Numbers::new(case), prepare(&Cpu, case)?);
        // As many as no cache holds.
        let sets =
            if case.warm { 1 } else { (2 * last_level_cache()).div_ceil(case.bytes().max(1)).clamp(1, MOST_SETS) };
        let rest = if case.op == Op::BatchNormStatistics {
            let normalization = Case { op: Op::BatchNormInference, ..case.clone() };
            let prepared = prepare(&Cpu, &normalization)?;
            Some((normalization, prepared))
        } else {
            None
        };
        let words = |bytes: usize| vec![0x5A5A_1234_5678_9ABC_u128; bytes.div_ceil(size_of::<Word>())];
        let half = case.bytes() / 2;
        let mut cell = Self {
            constants: Constants::new(&Cpu, case, &prepared, &numbers)?,
            sets: (0..sets)
                .map(|_| Tensors {
                    x: numbers.x.clone(),
                    residual: case.residual.then(|| numbers.residual.clone()),
                    sum: case.residual.then(|| vec![T::default(); case.elements()]),
                    y: Output::zeros(case),
                })
                .collect(),
            arenas: (0..sets)
                .map(|_| Arena { source: words(half), target: words(half), read: words(case.read_bytes()) })
                .collect(),
            prepared,
            rest,
            case: case.clone(),
            numbers,
            copier: Copier::Memcpy,
            calls: [1; 3],
            next: 0,
        };
        cell.calibrate()?;
        Ok(cell)
    }

    /// Touches every page, chooses the copy, and finds out how many calls make a window.
    fn calibrate(&mut self) -> Result<()> {
        for work in ALL_WORK {
            for _ in 0..self.sets.len() {
                self.run(work)?;
            }
        }
        let mut best = f64::INFINITY;
        for &copier in COPIERS {
            let before = std::mem::replace(&mut self.copier, copier);
            let seconds = median(&(0..5).map(|_| self.full_window(Work::Copy)).collect::<Result<Vec<_>>>()?);
            if seconds < best {
                best = seconds;
            } else {
                self.copier = before;
            }
        }
        ALL_WORK.into_iter().try_for_each(|work| self.full_window(work).map(drop))
    }

    /// A window that is long enough.
    fn full_window(&mut self, work: Work) -> Result<f64> {
        loop {
            let before = self.calls[work as usize];
            let seconds = self.timed_window(work)?;
            if self.calls[work as usize] == before {
                return Ok(seconds);
            }
        }
    }

    fn timed_window(&mut self, work: Work) -> Result<f64> {
        let calls = &mut self.calls[work as usize];
        let count = *calls;
        let start = Instant::now();
        for _ in 0..count {
            self.run(work)?;
        }
        let mut seconds = start.elapsed().as_secs_f64();
        if seconds < WINDOW_SECONDS {
            self.calls[work as usize] =
                (count * 2).max((WINDOW_SECONDS / seconds * count as f64) as usize).min(1 << 20);
        }
        if work == Work::Call && self.rest.is_some() {
            let start = Instant::now();
            for _ in 0..count {
                self.run_rest()?;
            }
            seconds -= start.elapsed().as_secs_f64();
        }
        Ok(seconds / count as f64)
    }

    fn run_rest(&mut self) -> Result<()> {
        self.next = (self.next + 1) % self.sets.len();
        if let Some((case, prepared)) = &self.rest {
            call(&Cpu, case, prepared, &mut self.constants, &mut self.sets[self.next])?;
        }
        Ok(())
    }

    fn run(&mut self, work: Work) -> Result<()> {
        self.next = (self.next + 1) % self.sets.len();
        let arena = &mut self.arenas[self.next];
        match work {
            Work::Call => {
                let tensors = &mut self.sets[self.next];
                call(&Cpu, &self.case, &self.prepared, &mut self.constants, tensors)?;
            }
            Work::Copy => self.copier.copy(&arena.source, &mut arena.target),
            Work::Read => drop(black_box(read(&arena.read))),
        }
        Ok(())
    }
}

impl<T: Real> Cell for CpuCell<T> {
    fn kernel(&self) -> String {
        String::new()
    }

    fn movers(&self) -> [String; 2] {
        [format!("{:?}", self.copier).to_lowercase(), "sum".to_owned()]
    }

    fn max_err(&mut self) -> Result<f64> {
        let tensors = &mut self.sets[0];
        match &mut tensors.y {
            Output::Elements(y) => poison(y),
            Output::Quantized { q, scales, .. } => {
                poison(q);
                poison(scales);
            }
        }
        tensors.sum.as_deref_mut().map(poison);
        call(&Cpu, &self.case, &self.prepared, &mut self.constants, tensors)?;
        Ok(max_err(&self.case, &self.numbers, &tensors.y, tensors.sum.as_deref()))
    }

    fn window(&mut self, work: Work) -> Result<f64> {
        self.full_window(work)
    }
}

fn poison<T: Held>(buffer: &mut [T]) {
    // SAFETY: every pattern of bits is a value of the element types, and of the quantized one.
    unsafe { std::ptr::write_bytes(buffer.as_mut_ptr().cast::<u8>(), POISON, size_of_val(buffer)) };
}

fn read(source: &[Word]) -> u64 {
    let one = |source: &[Word]| {
        let mut sums = [0_u64; 2 * LINE];
        for line in source.chunks_exact(LINE) {
            for (at, word) in line.iter().enumerate() {
                sums[2 * at] ^= *word as u64;
                sums[2 * at + 1] ^= (*word >> 64) as u64;
            }
        }
        sums.iter().fold(0, |all, sum| all ^ sum)
    };
    if size_of_val(source) <= ONE_THREAD {
        return one(source);
    }
    source.par_chunks(source.len().div_ceil(rayon::current_num_threads())).map(one).reduce(|| 0, |a, b| a ^ b)
}
