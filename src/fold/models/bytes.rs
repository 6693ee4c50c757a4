//! What lies in files, as bytes.

use std::{
    fs::File,
    io::{self, Read},
    ops::Deref,
    path::Path,
};

use memmap2::Mmap;

use super::ModelError;

/// A file's content.
#[derive(Debug)]
pub enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Whether two files hold the same, read a little at a time.
pub fn are_same(left: &Path, right: &Path) -> Result<bool, ModelError> {
    const AT_ONCE: u64 = 1 << 20;
    let open = |path: &Path| {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let len = file.metadata().map_err(ModelError::io(path))?.len();
        Ok::<_, ModelError>((file, len))
    };
    let ((mut left_file, left_len), (mut right_file, right_len)) = (open(left)?, open(right)?);
    if left_len != right_len {
        return Ok(false);
    }
    let (mut left_bytes, mut right_bytes) = (Vec::new(), Vec::new());
    loop {
        for (path, file, bytes) in [(left, &mut left_file, &mut left_bytes), (right, &mut right_file, &mut right_bytes)]
        {
            bytes.clear();
            file.take(AT_ONCE).read_to_end(bytes).map_err(ModelError::io(path))?;
        }
        if left_bytes != right_bytes || left_bytes.is_empty() {
            return Ok(left_bytes == right_bytes);
        }
    }
}

/// A file as a memory map, which nobody may change meanwhile.
pub fn map(path: &Path) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    if file.metadata().is_ok_and(|found| found.is_dir()) {
        return Err(ModelError::io(path)(io::ErrorKind::IsADirectory.into()));
    }
    // SAFETY: the file is only read, and the documentation of those that open one asks that nobody changes it.
    unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))
}
