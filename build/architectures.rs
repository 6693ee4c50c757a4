//! Which code the image holds: machine code for the chips of today, PTX for those of tomorrow.

use std::fmt;

/// One kind of code that nvcc makes, named by ten times the compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Machine code, for chips of this capability and of later minor ones.
    Cubin(u32),
    /// Code that the driver translates on the machine, for every later chip.
    Ptx(u32),
}

use Architecture::{Cubin, Ptx};

impl Architecture {
    pub fn capability(self) -> u32 {
        match self {
            Cubin(capability) | Ptx(capability) => capability,
        }
    }
}

/// As nvcc's `-arch` has it.
impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cubin(capability) => write!(formatter, "sm_{capability}"),
            Ptx(capability) => write!(formatter, "compute_{capability}"),
        }
    }
}

/// Every family from Turing to Blackwell. The oldest PTX serves the chips between them, the newest what comes after.
pub const DEFAULT: [Architecture; 9] =
    [Cubin(75), Cubin(80), Cubin(86), Cubin(89), Cubin(90), Cubin(100), Cubin(120), Ptx(75), Ptx(120)];

/// What an architecture without a suffix asks for.
#[derive(Clone, Copy)]
pub enum Bare {
    /// `90` is machine code, and only `90+PTX` both.
    Cubin,
    /// `90` is both, as in `CMake`.
    CubinAndPtx,
}

/// Parses a list such as `80;90`, `8.0, 9.0+PTX` or, as `CMake` has it, `80-real;90-virtual`.
pub fn parse(list: &str, bare: Bare) -> Result<Vec<Architecture>, String> {
    let mut architectures = Vec::new();
    for word in list.split([';', ',', ' ']).filter(|word| !word.is_empty()) {
        for architecture in parse_word(word, bare)? {
            if !architectures.contains(&architecture) {
                architectures.push(architecture);
            }
        }
    }
    if architectures.is_empty() {
        return Err("it names no architecture".to_owned());
    }
    Ok(architectures)
}

fn parse_word(word: &str, bare: Bare) -> Result<Vec<Architecture>, String> {
    if matches!(word, "all" | "all-major") {
        return Ok(DEFAULT.to_vec());
    }
    if word == "native" {
        return Err("\"native\" would ask the building machine's GPU: name the architecture instead".to_owned());
    }
    let suffixed = |suffix: &str| word.strip_suffix(suffix).map(capability);
    if let Some(capability) = suffixed("-real") {
        return Ok(vec![Cubin(capability?)]);
    }
    if let Some(capability) = suffixed("-virtual") {
        return Ok(vec![Ptx(capability?)]);
    }
    if let Some(capability) = suffixed("+PTX") {
        let capability = capability?;
        return Ok(vec![Cubin(capability), Ptx(capability)]);
    }
    let capability = capability(word)?;
    Ok(match bare {
        Bare::Cubin => vec![Cubin(capability)],
        Bare::CubinAndPtx => vec![Cubin(capability), Ptx(capability)],
    })
}

/// `90`, `9.0` or `sm_90` as 90.
fn capability(text: &str) -> Result<u32, String> {
    if text.ends_with(['a', 'f']) {
        let plain = &text[..text.len() - 1];
        return Err(format!("{text:?} is code for that chip alone, which no later one runs: ask for {plain:?}"));
    }
    let digits = text.strip_prefix("sm_").unwrap_or(text).replace('.', "");
    digits.parse().ok().filter(|&number| number >= 50).ok_or_else(|| format!("{text:?} is not an architecture"))
}
