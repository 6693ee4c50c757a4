//! Machine code for wider vectors than the compiler may assume of every machine.
//!
//! The loops of this backend are written over plain slices, for the compiler to vectorise. They are compiled twice on
//! `x86_64`: once for any machine, and once for AVX2, chosen at run time. Everything that a [`Task`] calls is inlined
//! into it; what is not would be compiled once only, for any machine.

/// A piece of work for one thread.
pub(super) trait Task {
    type Output;
    /// Implementations are `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

/// Runs `task` with the widest vectors that this machine has.
pub(super) fn run<K: Task>(task: K) -> K::Output {
    #[cfg(test)]
    if tests::FOR_ANY_MACHINE.load(std::sync::atomic::Ordering::Relaxed) {
        return task.run();
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has what the function was compiled for.
        return unsafe { run_avx2(task) };
    }
    task.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<K: Task>(task: K) -> K::Output {
    task.run()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::AtomicBool;

    /// Of no effect on the tests that run beside the one which sets it: that is what it tests.
    pub(in crate::cpu) static FOR_ANY_MACHINE: AtomicBool = AtomicBool::new(false);
}
