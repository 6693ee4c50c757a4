//! The record of the prediction, and the tables of docs/prediction.md.

use std::collections::BTreeMap;

use super::cells::case::{Case, Op};
use super::cells::{Prediction, all, goal, predict, uncertainty};
use super::chip::{CHIPS, CONSTANTS};
use super::instructions::ALL;
use super::record::MachineCode;

struct Cell {
    suite: &'static str,
    case: Case,
    /// Of [`CHIPS`], in their order.
    predictions: Vec<Prediction>,
    /// The same, in microseconds.
    uncertainties: Vec<f64>,
}

pub struct Predicted {
    cells: Vec<Cell>,
}

impl Predicted {
    pub fn new(code: &MachineCode) -> Self {
        let cell = |(suite, case): (&'static str, Case)| Cell {
            suite,
            predictions: CHIPS.iter().map(|chip| predict(&case, chip, code)).collect(),
            uncertainties: CHIPS.iter().map(|chip| uncertainty(&case, chip, code)).collect(),
            case,
        };
        Self { cells: all().into_iter().map(cell).collect() }
    }

    /// `benches/record/prediction.csv`: the columns by which a record names a cell, then what is predicted of it.
    pub fn csv(&self) -> String {
        let header = "chip,op,case,variant,dtype,weight_dtype,layout,mode,kernel,predicted_us,uncertainty_us,predicted_copy_us,bound";
        let mut lines = vec![header.to_owned()];
        for (number, chip) in CHIPS.iter().enumerate() {
            lines.extend(self.cells.iter().map(|cell| cell.line(chip.name, number)));
        }
        lines.join("\n") + "\n"
    }

    /// The page with its tables made anew between their marks.
    pub fn page(&self, prose: &str) -> String {
        let tables = [
            ("constants", constants()),
            ("instructions", instructions()),
            ("kernels", self.kernels()),
            ("misses", self.misses()),
            ("rows", self.suite("rows")),
            ("images", self.suite("images")),
            ("decode", self.suite("decode")),
        ];
        tables.into_iter().fold(prose.to_owned(), |page, (name, table)| between_marks(&page, name, &table))
    }

    /// One line for the kernels of each kind, over the cells with cold buffers.
    fn kernels(&self) -> String {
        let mut groups: BTreeMap<String, Vec<&Cell>> = BTreeMap::new();
        for cell in self.cells.iter().filter(|cell| !cell.case.warm && cell.suite != "decode") {
            groups.entry(cell.kernels(false)).or_default().push(cell);
        }
        let rows = groups.iter().map(|(kernels, cells)| {
            let mut fractions: Vec<f64> = cells.iter().map(|cell| cell.predictions[0].copy_fraction()).collect();
            fractions.sort_by(f64::total_cmp);
            let mut bounds: Vec<&str> = cells.iter().map(|cell| cell.predictions[0].bound().name()).collect();
            bounds.sort_unstable();
            bounds.dedup();
            vec![
                kernels.clone(),
                cells.len().to_string(),
                percent(fractions[0]),
                percent(fractions[fractions.len() / 2]),
                percent(fractions[fractions.len() - 1]),
                bounds.join(", "),
            ]
        });
        table(&["kernel", "cells:", "least:", "median:", "most:", "bound by"], rows)
    }

    /// What the model itself expects to miss, the farthest first.
    fn misses(&self) -> String {
        let mut missed: Vec<(f64, &Cell, f64)> = Vec::new();
        for cell in &self.cells {
            if let Some(goal) = cell.goal() {
                let reached = cell.reached(0);
                if reached < goal {
                    missed.push((reached / goal, cell, goal));
                }
            }
        }
        missed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let with_goal = self.cells.iter().filter(|cell| cell.goal().is_some()).count();
        let rows = missed.iter().map(|(_, cell, goal)| {
            let of_chips = (0..CHIPS.len()).map(|number| percent(cell.reached(number)));
            [cell.identity(), vec![percent(*goal)], of_chips.collect(), vec![cell.bound_of_goal().to_owned()]].concat()
        });
        let chips: Vec<String> = CHIPS.iter().map(|chip| format!("{}:", chip.name)).collect();
        let header = [&IDENTITY[..], &["goal:"], &[&chips[0], &chips[1]], &["bound by"]].concat();
        format!("{} of {with_goal} cells with a goal:\n\n{}", missed.len(), table(&header, rows))
    }

    /// All cells of a suite, but for the warm twins.
    fn suite(&self, suite: &str) -> String {
        let twins = suite != "decode";
        let cells = self.cells.iter().filter(|cell| cell.suite == suite && !(twins && cell.case.warm));
        let rows = cells.map(|cell| {
            let prediction = &cell.predictions[0];
            let plus = |texts: Vec<String>| texts.join(" + ");
            let figures = vec![
                figure(cell.case.bytes() as f64 / 1e6),
                cell.kernels(true),
                plus(prediction.blocks.iter().map(ToString::to_string).collect()),
                plus(prediction.times.iter().map(|time| figure(time.us)).collect()),
                figure(cell.uncertainties[0]),
                figure(prediction.copy_us),
                percent(prediction.copy_fraction()),
                cell.bound().to_owned(),
            ];
            [cell.identity(), figures].concat()
        });
        let figures = ["MB:", "kernel", "blocks", "µs", "±:", "copy, µs:", "of copy:", "bound by"];
        table(&[&IDENTITY[..], &figures].concat(), rows)
    }
}

const IDENTITY: [&str; 5] = ["op", "case", "variant", "types", "layout"];

impl Cell {
    fn line(&self, chip: &str, number: usize) -> String {
        let (case, prediction) = (&self.case, &self.predictions[number]);
        let identity = [
            chip.to_owned(),
            case.op_name().to_owned(),
            case.extents_name(),
            case.variant(),
            case.dtype.to_string(),
            case.weight.to_string(),
            case.layout_name().to_owned(),
            "graph".to_owned(),
            prediction.kernels.join("+"),
        ];
        let figures = [prediction.us, self.uncertainties[number], prediction.copy_us].map(figure);
        let figures = figures.into_iter().chain([prediction.bound().name().to_owned()]);
        identity.into_iter().chain(figures).collect::<Vec<_>>().join(",")
    }

    fn identity(&self) -> Vec<String> {
        let case = &self.case;
        let types =
            if case.weight == case.dtype { case.dtype.to_string() } else { format!("{}, {}", case.dtype, case.weight) };
        let [op, layout] = [case.op_name(), case.layout_name()].map(str::to_owned);
        vec![op, case.extents_name(), case.variant(), types, layout]
    }

    /// The kernels, where asked for with their type.
    fn kernels(&self, with_type: bool) -> String {
        let suffix = format!("_{}", self.case.dtype);
        let name = |kernel: &&'static str| if with_type { kernel } else { kernel.strip_suffix(&suffix).unwrap() };
        self.predictions[0].kernels.iter().map(|kernel| format!("`{}`", name(kernel))).collect::<Vec<_>>().join(" + ")
    }

    /// None for batch statistics that are no launch of their own.
    fn goal(&self) -> Option<f64> {
        let is_part = self.case.op == Op::BatchNormTraining && self.predictions[0].times.len() == 1;
        goal(self.suite, &self.case).filter(|_| !is_part)
    }

    /// What a goal is held against.
    fn reached(&self, chip: usize) -> f64 {
        let prediction = &self.predictions[chip];
        if self.case.op == Op::BatchNormTraining { prediction.read_fraction() } else { prediction.copy_fraction() }
    }

    fn bound_of_goal(&self) -> &'static str {
        if self.case.op == Op::BatchNormTraining { self.predictions[0].times[0].bound.name() } else { self.bound() }
    }

    fn bound(&self) -> &'static str {
        self.predictions[0].bound().name()
    }
}

fn constants() -> String {
    let rows = CONSTANTS.iter().map(|constant| {
        let [h200, h100] = constant.values.map(|value| value.to_string());
        let standing = format!("{:?}", constant.standing).to_lowercase();
        vec![format!("`{}`", constant.name), h200, h100, constant.unit.to_owned(), standing, constant.source.to_owned()]
    });
    table(&["constant", "H200:", "H100:", "unit", "is", "from"], rows)
}

fn instructions() -> String {
    let rows = ALL.iter().map(|instructions| {
        let [narrow, wide] = instructions.of_width;
        let both = [
            (narrow.once, wide.once),
            (narrow.vector, wide.vector),
            (narrow.mean, wide.mean),
            (narrow.coefficient, wide.coefficient),
            (narrow.residual, wide.residual),
        ];
        let figures = both.map(|(narrow, wide)| format!("{narrow}, {wide}"));
        [vec![format!("`{}`", instructions.kernel)], figures.to_vec()].concat()
    });
    table(&["kernel", "once", "a vector", "its mean", "weight or bias", "residual and sum"], rows)
}

/// As scripts/performance_tables.py: a column whose title ends in a colon is one of numbers.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| {
        cells.iter().fold(
            "|".to_owned(),
            |line, cell| {
                if cell.is_empty() { line + " |" } else { format!("{line} {cell} |") }
            },
        )
    };
    let title = |name: &&str| name.trim_end_matches(':').to_owned();
    let rule = |name: &&str| if name.ends_with(':') { "---:" } else { "---" }.to_owned();
    let head = [header.iter().map(title).collect(), header.iter().map(rule).collect()];
    head.into_iter().chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

fn between_marks(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- made: {name} -->\n"), "\n<!-- end -->");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page has no table {name}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("the table {name} does not end"));
    format!("{before}{begin}{table}{end}{after}")
}

/// Three significant digits, so that the last bit of a machine's logarithm is none of the page's.
fn figure(number: f64) -> String {
    let magnitude = number.abs().log10().floor();
    let unit = 10_f64.powf(magnitude - 2.0);
    format!("{:.*}", (2.0 - magnitude).max(0.0) as usize, (number / unit).round() * unit)
}

fn percent(part: f64) -> String {
    format!("{} %", figure(100.0 * part))
}
