//! A model's file, and the files beside it that hold its large tensors.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use memmap2::Mmap;

use super::{
    graph::DEEPEST,
    tensor::{ExternalData, TensorHeader},
    wire::{Field, Fields},
};
use crate::fold::models::{Bytes, ModelError, map};

/// An ONNX model as it lies in its file. Files are mapped, not read.
#[derive(Debug)]
pub struct Model {
    bytes: Bytes,
    externals: Externals,
}

/// The files that hold the data of tensors, by what the model calls them.
#[derive(Debug, Default)]
pub(super) struct Externals {
    folder: Option<PathBuf>,
    files: BTreeMap<String, Mmap>,
}

/// Protobuf has no longer messages.
const LONGEST: usize = i32::MAX as usize;

impl Model {
    /// Opens a model's file, and the files that its tensors' data lies in.
    ///
    /// As with every memory map, nobody may change the files meanwhile.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`]; [`ModelError::Malformed`], [`ModelError::Unsupported`] where the file is no ONNX model that can
    /// be read; [`ModelError::Outside`] where a tensor's data lies outside the model's folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let bytes = Bytes::Mapped(map(path)?);
        let folder = match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => Path::new("/"),
        };
        let folder = folder.canonicalize().map_err(ModelError::io(folder))?;
        Self::new(bytes, Externals { folder: Some(folder), files: BTreeMap::new() })
    }

    /// A model that is in memory already. It has no folder, and so no tensors with data in other files.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, ModelError> {
        Self::new(Bytes::Owned(bytes.into()), Externals::default())
    }

    fn new(bytes: Bytes, mut externals: Externals) -> Result<Self, ModelError> {
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(ModelError::unsupported("it is compressed by gzip; unpack it first"));
        }
        if bytes.len() > LONGEST {
            return Err(ModelError::unsupported(
                "it has more than 2 GiB in one file, which protobuf does not allow; save it with external data",
            ));
        }
        for field in Fields::of(&bytes) {
            if let Field { number: 7, value, .. } = field? {
                externals.open_all(value.bytes()?, 0)?;
            }
        }
        Ok(Self { bytes, externals })
    }

    /// The file's content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn externals(&self) -> &Externals {
        &self.externals
    }
}

impl Externals {
    /// Opens the files of a graph's tensors: its initializers, those of its nodes' attributes, and those of graphs within.
    fn open_all(&mut self, graph: &[u8], depth: usize) -> Result<(), ModelError> {
        if depth == DEEPEST {
            return Err(ModelError::unsupported("its graphs lie too deep in each other"));
        }
        for field in Fields::of(graph) {
            let Field { number, value, .. } = field?;
            match number {
                1 => self.open_all_of_node(value.bytes()?, depth)?,
                5 => self.open_of(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn open_all_of_node(&mut self, node: &[u8], depth: usize) -> Result<(), ModelError> {
        for field in Fields::of(node) {
            let Field { number: 5, value, .. } = field? else { continue };
            for field in Fields::of(value.bytes()?) {
                let Field { number, value, .. } = field?;
                match number {
                    5 | 10 => self.open_of(value.bytes()?)?,
                    6 | 11 => self.open_all(value.bytes()?, depth + 1)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn open_of(&mut self, tensor: &[u8]) -> Result<(), ModelError> {
        let header = TensorHeader::read(tensor)?;
        header.external().map_or(Ok(()), |external| self.open(header.name, external.location))
    }

    fn open(&mut self, tensor: &str, location: &str) -> Result<(), ModelError> {
        if self.files.contains_key(location) {
            return Ok(());
        }
        let outside = || ModelError::Outside { tensor: tensor.to_owned(), location: location.to_owned() };
        let folder = self.folder.as_ref().ok_or_else(outside)?;
        let is_below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !Path::new(location).components().all(is_below) {
            return Err(outside());
        }
        let path = folder.join(location);
        // A link may lead out of the folder although its name does not.
        let resolved = path.canonicalize().map_err(ModelError::io(&path))?;
        if !resolved.starts_with(folder) {
            return Err(outside());
        }
        self.files.insert(location.to_owned(), map(&resolved)?);
        Ok(())
    }

    /// The data of a tensor, of `expected` bytes unless the model says otherwise.
    pub(super) fn data(&self, tensor: &str, external: &ExternalData<'_>, expected: usize) -> Result<&[u8], ModelError> {
        let length = || ModelError::TensorLength { tensor: tensor.to_owned(), found: 0, expected };
        let file = self.files.get(external.location).ok_or_else(length)?;
        let len = external.length.map_or(Some(expected), |length| usize::try_from(length).ok());
        let start = usize::try_from(external.offset).ok();
        let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
        range.and_then(|range| file.get(range)).ok_or_else(length)
    }

    /// Tells the system that data which lies in a file is not needed for now.
    pub(super) fn forget(&self, data: &[u8]) {
        #[cfg(unix)]
        for file in self.files.values() {
            let start = data.as_ptr().addr().wrapping_sub(file.as_ptr().addr());
            if start < file.len() && data.len() <= file.len() - start {
                // SAFETY: the map is of a file and shared with nobody, so the pages are read again when they are needed.
                // A failure costs memory and nothing else.
                let _ = unsafe { file.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, data.len()) };
            }
        }
    }

    /// Whether one of the files has this name, where it is or where it would be copied to.
    pub(super) fn has(&self, name: &str) -> bool {
        let Some(folder) = &self.folder else { return false };
        let resolved = |name: &str| folder.join(name).canonicalize().ok();
        let wanted = resolved(name);
        self.files.keys().any(|location| {
            // There are file systems to which letters are the same in either case.
            let plain = location.trim_start_matches("./");
            plain.eq_ignore_ascii_case(name) || wanted.is_some() && resolved(location) == wanted
        })
    }

    /// The model's folder, and what it calls the files in it.
    pub(super) fn files(&self) -> Option<(&Path, impl Iterator<Item = &str>)> {
        let folder = self.folder.as_deref()?;
        Some((folder, self.files.keys().map(String::as_str)))
    }
}
