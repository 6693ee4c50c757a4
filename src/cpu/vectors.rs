//! Machine code for wider vectors than the compiler may assume of every machine.
//!
//! The loops of this backend are written over plain slices, for the compiler to vectorise. On `x86_64` they are compiled for
//! each of the [`Level`]s, of which the widest that the machine has is chosen at run time. Everything that a [`Task`] calls
//! is inlined into it; what is not would be compiled once only, for any machine. Elsewhere the compiler may assume vectors
//! (NEON, say) of every machine.
//!
//! The environment variable `WARPNORM_CPU_VECTORS` asks for a narrower one by its [name](Level::NAMES), so that each can be
//! tested on one machine. It is read once, before the first work of the process. A name of none, or of one that the machine
//! lacks, is of no effect, for this is a library; a test says whether the one that is asked for is in use.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Vector};

const VARIABLE: &str = "WARPNORM_CPU_VECTORS";

/// With `WARPNORM_NARROW_VECTORS` set while the crate is compiled, it is for the narrowest vectors alone, whatever the machine
/// has, and in half of the time: for builds in which the CPU's speed and its other vectors do not matter. No wider level is then
/// chosen, and the compiler, which cannot know that, is told where it would compile for one.
const ONLY_NARROW: bool = option_env!("WARPNORM_NARROW_VECTORS").is_some();

/// The vectors that a machine has, from the narrowest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Level {
    /// What the compiler may assume.
    Any = 1,
    /// AVX2, fused multiply-add, and conversions of f16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with all that Skylake's servers have of it.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same, and rounding to bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

/// The [`Level`] that is computed with, as a number; 0 until it is known. Only what the machine has is ever stored.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// All, from the narrowest on, and what they are asked for by.
    const NAMES: &[(Self, &str)] = &[
        (Self::Any, "portable"),
        #[cfg(target_arch = "x86_64")]
        (Self::Avx2, "avx2"),
        #[cfg(target_arch = "x86_64")]
        (Self::Avx512, "avx512"),
        #[cfg(target_arch = "x86_64")]
        (Self::Avx512Bf16, "avx512bf16"),
    ];

    /// The widest of this machine that the crate has been compiled for.
    pub(super) fn of_machine() -> Self {
        if ONLY_NARROW {
            return Self::Any;
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f")
                && has!("avx512bw")
                && has!("avx512dq")
                && has!("avx512vl")
                && has!("avx2")
                && has!("fma")
                && has!("f16c")
            {
                return if has!("avx512bf16") { Self::Avx512Bf16 } else { Self::Avx512 };
            }
            if has!("avx2") && has!("fma") && has!("f16c") {
                return Self::Avx2;
            }
        }
        Self::Any
    }

    /// The one to compute with.
    #[inline(always)]
    pub(super) fn chosen() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Self::Any,
            #[cfg(target_arch = "x86_64")]
            2 => Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            3 => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            4 => Self::Avx512Bf16,
            _ => Self::choose(),
        }
    }

    #[cold]
    fn choose() -> Self {
        let level = Self::by_name(std::env::var_os(VARIABLE).as_deref(), Self::of_machine());
        CHOSEN.store(level as u8, Ordering::Relaxed);
        level
    }

    /// The one of that name, if the machine has it, and else the machine's widest.
    fn by_name(name: Option<&OsStr>, widest: Self) -> Self {
        let named = Self::NAMES.iter().find(|(_, known)| name.is_some_and(|name| name == *known));
        named.map_or(widest, |&(level, _)| if level <= widest { level } else { widest })
    }
}

/// A piece of work for one thread.
///
/// What runs it are methods, not functions beside: the compiler puts a method with its type, so that the code of each module's
/// tasks is a unit of its own, of which several can be compiled at a time.
pub(super) trait Task: Sized {
    type Output;
    /// Whether it rounds to bf16: then there is code for the machines that have an instruction for it.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no other machine's vectors ask for it"))]
    const ROUNDS_TO_BF16: bool = false;
    /// Implementations are `#[inline(always)]`.
    fn run<V: Vector>(self) -> Self::Output;

    /// Runs it with the chosen vectors.
    #[inline(never)]
    fn dispatch(self) -> Self::Output {
        match Level::chosen() {
            // SAFETY: the machine has what the methods were compiled for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 if !ONLY_NARROW => unsafe { self.run_avx2() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 if Self::ROUNDS_TO_BF16 && !ONLY_NARROW => unsafe { self.run_avx512_bf16() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 if !ONLY_NARROW => unsafe { self.run_avx512() },
            _ => self.run::<Portable>(),
        }
    }

    /// # Safety
    /// The machine has [`Level::Avx2`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_avx2(self) -> Self::Output {
        self.run::<Avx2>()
    }

    /// # Safety
    /// The machine has [`Level::Avx512`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn run_avx512(self) -> Self::Output {
        self.run::<Avx512<false>>()
    }

    /// # Safety
    /// The machine has [`Level::Avx512Bf16`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn run_avx512_bf16(self) -> Self::Output {
        self.run::<Avx512<true>>()
    }
}

/// Runs `task` with the chosen vectors.
#[inline(always)]
pub(super) fn run<K: Task>(task: K) -> K::Output {
    task.dispatch()
}

#[cfg(test)]
pub(super) mod tests {
    use std::ffi::OsStr;
    use std::sync::atomic::Ordering;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{CHOSEN, Level, VARIABLE};
    use crate::cpu::caches::tests::with_tiny_caches;

    /// The level belongs to the process: one test at a time asks for it or changes it.
    fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `body` with each kind of vectors that this machine has, from the narrowest on, and with each again as if nothing
    /// fitted the caches. Of no effect on the tests that run beside: that is what it tests.
    pub(in crate::cpu) fn on_every_level(mut body: impl FnMut(Level)) {
        for_each_level(|level| {
            body(level);
            with_tiny_caches(|| body(level));
        });
    }

    /// The same, with the caches as they are.
    pub(in crate::cpu) fn for_each_level(mut body: impl FnMut(Level)) {
        let _turn = turn();
        for &(level, _) in Level::NAMES.iter().filter(|(level, _)| *level <= Level::of_machine()) {
            CHOSEN.store(level as u8, Ordering::Relaxed);
            assert_eq!(Level::chosen(), level);
            body(level);
        }
        Level::choose();
    }

    #[test]
    fn what_the_machine_lacks_is_not_chosen() {
        for &(widest, _) in Level::NAMES {
            for &(level, name) in Level::NAMES {
                let expected = if level <= widest { level } else { widest };
                assert_eq!(Level::by_name(Some(OsStr::new(name)), widest), expected, "{name} of {widest:?}");
            }
            for unknown in [None, Some(OsStr::new("")), Some(OsStr::new("AVX2")), Some(OsStr::new("sse"))] {
                assert_eq!(Level::by_name(unknown, widest), widest, "{unknown:?}");
            }
        }
    }

    /// What `scripts/check-cpu` relies on.
    #[test]
    fn the_level_asked_for_is_in_use() {
        let Some(name) = std::env::var_os(VARIABLE) else {
            return println!("no level is asked for, {:?} is in use", Level::of_machine());
        };
        let _turn = turn();
        let widest = Level::of_machine();
        let known = Level::NAMES.iter().find(|(_, known)| name == **known);
        let &(level, _) = known.unwrap_or_else(|| panic!("{VARIABLE}={name:?}: none of {:?}", Level::NAMES));
        assert!(level <= widest, "{VARIABLE}={name:?}: this machine has {widest:?} at most");
        assert_eq!(Level::chosen(), level, "{VARIABLE}={name:?}");
    }
}
