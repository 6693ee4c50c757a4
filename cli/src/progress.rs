//! A bar for large models, where somebody is looking.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// Below this a bar would be gone before it is seen.
const LARGE: u64 = 64 << 20;

pub struct Progress(Option<ProgressBar>);

impl Progress {
    pub fn new(bytes: u64, is_quiet: bool) -> Self {
        let is_seen = !is_quiet && bytes >= LARGE && stderr().is_terminal();
        Self(is_seen.then(|| {
            let style = ProgressStyle::with_template("writing {bar:40} {bytes}/{total_bytes}");
            ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }))
    }

    pub fn wrote(&self, bytes: usize) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
