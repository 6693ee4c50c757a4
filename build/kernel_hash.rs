// Shared by the build scripts of the crate, the probe and the emulator (each `include!`s it): the fingerprint of
// `kernels/`, by which an emulator tells a marker that belongs to its own sources from one that does not.

/// What stands for kernels where there is no nvcc: a driver refuses it, and the emulator, if it was made of the same
/// kernels, accepts it.
#[allow(dead_code)]
fn marker(kernels: &std::path::Path) -> Vec<u8> {
    format!("WARPNORM-NO-KERNELS {}\0", kernel_hash(kernels)).into_bytes()
}

/// FNV-1a over the names and contents of the files in `directory`, in the order of their names, as 16 hexadecimal digits.
fn kernel_hash(directory: &std::path::Path) -> String {
    let mut files: Vec<std::path::PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("directory entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for file in files {
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        feed(name.as_bytes());
        feed(&[0]);
        feed(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        feed(&[0]);
    }
    format!("{hash:016x}")
}
