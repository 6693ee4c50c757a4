//! Writes the emulated driver into a folder, for programs that are no tests of this workspace: in C++ or Python, say.
//!
//! ```sh
//! cargo run -p emulator --bin emulated-driver -- DIR    # prints LD_LIBRARY_PATH=…
//! LD_LIBRARY_PATH=DIR WARPNORM_EMULATOR_REPORT=1 program
//! ```

use std::{path::Path, process::ExitCode};

use emulator::Variant;

const USAGE: &str = "\
usage: emulated-driver DIR [--checked]

Writes DIR/libcuda.so, and DIR/libcuda.so.1 as a link to it. Programs that run with DIR in LD_LIBRARY_PATH take it for
CUDA's driver; --checked is the slower build, which checks every access of a kernel. Where WARPNORM_EMULATOR_REPORT is set,
what it finds wrong is printed to the standard error.
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (options, folders): (Vec<_>, Vec<_>) =
        arguments.into_iter().partition(|argument| argument.as_encoded_bytes().starts_with(b"-"));
    if options.iter().any(|option| option == "--help" || option == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let ([folder], true) = (folders.as_slice(), options.iter().all(|option| option == "--checked")) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let variant = if options.is_empty() { Variant::Plain } else { Variant::Checked };
    let folder = Path::new(folder);
    match emulator::install(variant, folder).and_then(|()| folder.canonicalize()) {
        Ok(folder) => {
            println!("LD_LIBRARY_PATH={}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("emulated-driver: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
