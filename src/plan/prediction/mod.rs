//! How long each cell of the benchmark should take on a chip that nobody has measured yet: docs/prediction.md says by which
//! model, and why there is one.
//!
//! It is a unit test, since it asks the plan itself for launches. `scripts/refresh-prediction` writes what it compares.

mod call;
mod cells;
mod chip;
mod copy;
mod instructions;
mod page;
mod pointwise;
mod record;
mod rows;
mod slabs;
mod time;

use std::fs;
use std::path::Path;

use cells::{all, predict};
use chip::{CHIPS, Chip};
use record::MachineCode;

/// Path below the checkout, and what it holds.
const PAGE: (&str, &str) = ("docs/prediction.md", include_str!("../../../docs/prediction.md"));
const TABLE: (&str, &str) = ("benches/record/prediction.csv", include_str!("../../../benches/record/prediction.csv"));

/// Set by scripts/refresh-prediction.
const WRITE: &str = "WARPNORM_WRITE_PREDICTION";

#[test]
fn the_committed_prediction_is_what_plan_and_machine_code_make() {
    let predicted = page::Predicted::new(&MachineCode::read());
    let (_, prose) = PAGE;
    for ((file, committed), fresh) in [(PAGE, predicted.page(prose)), (TABLE, predicted.csv())] {
        if std::env::var_os(WRITE).is_some() {
            fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), fresh).unwrap();
        } else {
            assert!(committed == fresh, "{file} is not fresh: run scripts/refresh-prediction");
        }
    }
}

/// What every model must say, whatever its constants.
#[test]
fn predictions_are_possible() {
    let code = MachineCode::read();
    for chip in &CHIPS {
        for (_, case) in all() {
            let prediction = predict(&case, chip, &code);
            let least = case.bytes() as f64 / (1e6 * chip.l2_read_bandwidth.max(chip.read_bandwidth));
            assert!(prediction.us.is_finite() && prediction.us > least / 2.0 + chip.gap, "{case}: {}", prediction.us);
            assert!(prediction.copy_fraction() < 1.0 + 1e-9, "{case} is faster than a copy");
        }
    }
}

/// The formula that the copy's bandwidth was taken from: microseconds of a kernel, the gap to the next aside, are
/// 1.3 + bytes / 4.28 TB/s. Those kernels were norms, whose blocks have as much to do as a copy's with four words a thread.
#[test]
fn a_copy_takes_what_was_published() {
    let code = MachineCode::read();
    let [h200, _]: &[Chip; 2] = &CHIPS;
    for megabytes in [4.0, 33.5, 134.0, 268.0, 2000.0] {
        let predicted = copy::copy_by_words(4.0, 1e6 * megabytes, false, h200, &code).us - h200.gap;
        let published = 1.3 + megabytes / 4.28;
        assert!((predicted / published - 1.0).abs() < 0.1, "{megabytes} MB: {predicted} and {published}");
    }
}
