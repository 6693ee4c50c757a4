//! What a chip can do, as far as anybody has said: every number of the model but the instruction counts.

/// How a number is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Somebody states it.
    Published,
    /// Arithmetic on something published.
    Derived,
    /// Of a size that seems right. The first to be looked at when a cell misses its prediction.
    Guess,
}

/// A line of the table in docs/prediction.md.
pub struct Constant {
    pub name: &'static str,
    pub unit: &'static str,
    /// Of [`CHIPS`], in their order.
    pub values: [f64; 2],
    pub standing: Standing,
    pub source: &'static str,
}

macro_rules! constants {
    ($($name:ident: $unit:literal = $h200:literal, $h100:literal, $standing:ident, $source:literal;)*) => {
        #[derive(Debug, Clone, Copy)]
        pub struct Chip {
            /// As it is part of the device's name in a record.
            pub name: &'static str,
            $(pub $name: f64,)*
        }

        pub const CHIPS: [Chip; 2] = [Chip { name: "H200", $($name: $h200,)* }, Chip { name: "H100", $($name: $h100,)* }];

        pub const CONSTANTS: &[Constant] = &[$(Constant {
            name: stringify!($name),
            unit: $unit,
            values: [$h200, $h100],
            standing: Standing::$standing,
            source: $source,
        },)*];

        impl Chip {
            /// The chip with one guess a quarter smaller, and with it a quarter larger: for each of them.
            pub fn varied(&self) -> Vec<[Self; 2]> {
                let mut chips = Vec::new();
                $(if Standing::$standing == Standing::Guess {
                    chips.push([1.0 / 1.25, 1.25].map(|factor| Self { $name: factor * self.$name, ..*self }));
                })*
                chips
            }
        }
    };
}

constants! {
    multiprocessors: "" = 132.0, 132.0, Published, "NVIDIA's data sheets, SXM";
    gpcs_of_16: "" = 6.0, 6.0, Guess, "132 multiprocessors in 8 GPCs of at most 18; which have how many differs from chip to chip";
    gpcs_of_18: "" = 2.0, 2.0, Guess, "the rest of them";
    clock: "GHz" = 1.98, 1.98, Derived, "67 TFLOP/s of f32 (data sheet) by 132 × 128 lanes × 2: the highest clock, held only where power allows";
    copy_bandwidth: "TB/s" = 4.28, 3.08, Derived, "H200: slope of cudnn-frontend's published times. H100: quack's best published norm (3.02), taken for 98 % of a copy";
    read_bandwidth: "TB/s" = 4.46, 3.12, Guess, "93 % of the data sheet's 4.8 and 3.35: a read turns the bus around less often than a copy";
    l2_read_bandwidth: "TB/s" = 6.8, 6.8, Guess, "about what an H100 PCIe is said to reach, by clock and multiprocessors";
    l2_write_bandwidth: "TB/s" = 3.5, 3.5, Guess, "half of that";
    l2_kept: "MB" = 40.0, 40.0, Guess, "of 50 (data sheet) what is still there after as many bytes; two partitions may hold a line twice";
    l1_bytes: "KiB" = 256.0, 256.0, Published, "CUDA C++ Programming Guide, shared memory included";
    port: "B/cycle" = 64.0, 64.0, Published, "between a multiprocessor and the L2, each way (A100 white paper; taken for Hopper's too)";
    dram_latency: "µs" = 0.5, 0.5, Guess, "between an idle chip's 479 cycles (arXiv:2402.13499, H100 PCIe) and the 0.8 to 1 of a busy one";
    l2_latency: "cycles" = 265.0, 265.0, Published, "arXiv:2402.13499, H100 PCIe; quoted without the paper at hand";
    l1_latency: "cycles" = 40.0, 40.0, Published, "the same";
    shuffle: "cycles" = 25.0, 25.0, Guess, "one step of a reduction: 23 cycles for a shuffle on Volta (arXiv:1804.06826), and what is done with it";
    merge: "cycles" = 200.0, 200.0, Guess, "two moments into one by a warp: five shuffles side by side, a division, some 40 instructions in a chain";
    block_barrier: "cycles" = 40.0, 40.0, Guess, "with what its warps differ";
    cluster_barrier: "cycles" = 1000.0, 1000.0, Guess, "two ways of 180 cycles (arXiv:2402.13499) through the network, and what its blocks differ";
    issue: "" = 0.8, 0.8, Guess, "part of four instructions a cycle: half of them run at half the rate, and code of 50 KB misses the instruction cache";
    cycles_alone: "cycles" = 2.0, 2.0, Guess, "for an instruction of a warp that has its scheduler for itself";
    start: "µs" = 0.3, 0.3, Guess, "from a free place to a block's first load: its launch, parameters, addresses";
    gap: "µs" = 0.9, 0.9, Guess, "between the last store of a launch and the first block of the next one of a graph";
    graph_start: "µs" = 4.0, 4.0, Guess, "of a graph, where a window is a single one";
    knee: "" = 4.0, 4.0, Guess, "how sharply one bound gives way to another; 4: two equal ones cost 19 %, one of half the other 2 %";
}

impl Chip {
    /// Microseconds.
    pub fn cycles(&self, cycles: f64) -> f64 {
        cycles / (1e3 * self.clock)
    }

    /// Microseconds for what goes between one multiprocessor and the L2.
    pub fn through_port(&self, bytes: f64) -> f64 {
        self.cycles(bytes / self.port)
    }

    /// Microseconds that a warp needs for so many instructions, if its block of so many warps is alone.
    pub fn execute(&self, instructions: f64, warps: f64) -> f64 {
        const SCHEDULERS: f64 = 4.0;
        self.cycles(instructions * self.cycles_alone.max(warps / SCHEDULERS))
    }

    /// Microseconds until a load has arrived: of a tensor, of which so large a part is in the L2.
    pub fn latency(&self, part_in_l2: f64) -> f64 {
        part_in_l2 * self.cycles(self.l2_latency) + (1.0 - part_in_l2) * self.dram_latency
    }

    /// Blocks that are on the chip at a time, with so many on a multiprocessor: a cluster's share a GPC.
    pub fn resident(&self, blocks: f64, cluster: f64) -> f64 {
        if cluster == 1.0 {
            return self.multiprocessors * blocks;
        }
        let of_gpc = |multiprocessors: f64| (multiprocessors * blocks / cluster).floor() * cluster;
        self.gpcs_of_16 * of_gpc(16.0) + self.gpcs_of_18 * of_gpc(18.0)
    }
}

/// Of clusters of 16, each GPC has room for one; of blocks alone, every multiprocessor has its own.
#[test]
fn clusters_share_a_gpc() {
    let [h200, _] = CHIPS;
    assert_eq!([1.0, 2.0, 16.0].map(|cluster| h200.resident(1.0, cluster)), [132.0, 132.0, 128.0]);
    assert_eq!([3.0, 2.0].map(|blocks| h200.resident(blocks, 16.0)), [384.0, 256.0]);
}
