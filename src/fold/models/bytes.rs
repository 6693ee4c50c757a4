use std::{fs::File, ops::Deref, path::Path};

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

/// A file as a memory map, which nobody may change meanwhile.
pub fn map(path: &Path) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    // SAFETY: the file is only read, and the documentation of those that open one asks that nobody changes it.
    unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))
}
