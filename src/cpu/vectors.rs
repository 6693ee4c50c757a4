//! Machine code for wider vectors than the compiler may assume of every machine.
//!
//! The loops of this backend are written over plain slices, for the compiler to vectorise. On `x86_64` they are compiled for
//! each of the [`Level`]s, of which the widest that the machine has is chosen at run time. Everything that a [`Task`] calls
//! is inlined into it; what is not would be compiled once only, for any machine. Elsewhere the compiler may assume vectors
//! (NEON, say) of every machine.

/// The vectors that a machine has, from the narrowest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// What the compiler may assume.
    Any,
    /// AVX2, and conversions of f16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with all that Skylake's servers have of it.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The widest of this machine.
    #[inline(always)]
    pub(super) fn of_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f")
                && has!("avx512bw")
                && has!("avx512dq")
                && has!("avx512vl")
                && has!("avx2")
                && has!("f16c")
            {
                return Self::Avx512;
            }
            if has!("avx2") && has!("f16c") {
                return Self::Avx2;
            }
        }
        Self::Any
    }

    /// The one to compute with.
    #[inline(always)]
    pub(super) fn chosen() -> Self {
        #[cfg(test)]
        return Self::of_machine().min(tests::most());
        #[cfg(not(test))]
        Self::of_machine()
    }
}

/// A piece of work for one thread.
pub(super) trait Task {
    type Output;
    /// Implementations are `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

/// Runs `task` with the widest vectors that this machine has.
pub(super) fn run<K: Task>(task: K) -> K::Output {
    match Level::chosen() {
        Level::Any => task.run(),
        // SAFETY: the machine has what the functions were compiled for.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(task) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { run_avx512(task) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn run_avx2<K: Task>(task: K) -> K::Output {
    task.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn run_avx512<K: Task>(task: K) -> K::Output {
    task.run()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Level;

    const LEVELS: &[Level] = &[
        Level::Any,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512,
    ];

    static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

    pub(super) fn most() -> Level {
        LEVELS[MOST.load(Ordering::Relaxed).min(LEVELS.len() - 1)]
    }

    /// Calls `body` with each kind of vectors that this machine has, from the narrowest on. Of no effect on the tests that
    /// run beside: that is what it tests.
    pub(in crate::cpu) fn on_every_level(mut body: impl FnMut(Level)) {
        for (index, &level) in LEVELS.iter().enumerate().filter(|&(_, &level)| level <= Level::of_machine()) {
            MOST.store(index, Ordering::Relaxed);
            body(level);
        }
        MOST.store(usize::MAX, Ordering::Relaxed);
    }
}
