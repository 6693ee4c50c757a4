//! What the record of machine code says of a kernel: how many of its blocks a multiprocessor has room for.

use std::collections::HashMap;

/// Of this architecture.
const ARCHITECTURE: &str = "sm_90";

#[derive(Debug, Clone, Copy)]
struct Resources {
    registers: f64,
    shared: f64,
}

pub struct MachineCode(HashMap<String, Resources>);

/// {column: text} of each kernel.
fn lines() -> Vec<HashMap<String, String>> {
    // The bundle for a GPU runs where no checkout is.
    let text = include_str!("../../../benches/record/machine-code.csv");
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let lines = reader.deserialize().map(Result::<HashMap<String, String>, _>::unwrap);
    lines.filter(|line| line["architecture"] == ARCHITECTURE).collect()
}

impl MachineCode {
    pub fn read() -> Self {
        let resources = |line: HashMap<String, String>| {
            let number = |column: &str| line[column].parse().unwrap();
            (line["kernel"].clone(), Resources { registers: number("registers"), shared: number("shared") })
        };
        Self(lines().into_iter().map(resources).collect())
    }

    /// Blocks on a multiprocessor, as scripts/machine_code.py counts them, but of the launch's own size.
    pub fn blocks(&self, kernel: &str, threads: u32, dynamic_shared: u32) -> f64 {
        const WARPS: f64 = 64.0;
        const BLOCKS: f64 = 32.0;
        const PARTITIONS: f64 = 4.0;
        const REGISTERS_OF_PARTITION: f64 = 16_384.0;
        let Resources { registers, shared } =
            *self.0.get(kernel).unwrap_or_else(|| panic!("{kernel} is not in the record of machine code"));
        let warps = (f64::from(threads) / 32.0).ceil();
        let registers_of_warp = round_up(registers * 32.0, 256.0);
        let shared_of_block = round_up(shared + f64::from(dynamic_shared) + KEPT_BY_DRIVER, 128.0);
        let by_registers = (REGISTERS_OF_PARTITION / registers_of_warp).floor() * PARTITIONS / warps;
        let rooms = [BLOCKS, WARPS / warps, by_registers, SHARED / shared_of_block];
        rooms.into_iter().fold(f64::INFINITY, f64::min).floor()
    }
}

/// Bytes of shared memory that a multiprocessor has, and that the driver takes for each block.
const SHARED: f64 = 228.0 * 1024.0;
const KEPT_BY_DRIVER: f64 = 1024.0;

/// What is left of the L1 beside the shared memory of so many blocks. Of that, a multiprocessor has one of a few sizes.
pub fn l1_left(l1_bytes: f64, blocks: f64, dynamic_shared: u32) -> f64 {
    const SIZES: [f64; 10] = [0.0, 8.0, 16.0, 32.0, 64.0, 100.0, 132.0, 164.0, 196.0, 228.0];
    let wanted = blocks * (f64::from(dynamic_shared) + KEPT_BY_DRIVER);
    let size = SIZES.into_iter().map(|kib| kib * 1024.0).find(|&size| size >= wanted).unwrap_or(SHARED);
    l1_bytes - size
}

fn round_up(number: f64, unit: f64) -> f64 {
    (number / unit).ceil() * unit
}

/// The record has the same number for the largest block of each kernel.
#[test]
fn occupancy_is_that_of_the_record() {
    let code = MachineCode::read();
    for line in lines() {
        let blocks = code.blocks(&line["kernel"], line["threads"].parse().unwrap(), 0);
        assert_eq!(blocks.to_string(), line["blocks"], "{}", line["kernel"]);
    }
}
