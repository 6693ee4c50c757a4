//! A safetensors file, as it lies there.

use std::{collections::BTreeMap, path::Path};

use safetensors::{Dtype, SafeTensors};

use crate::{
    element::DType,
    fold::{
        Values,
        models::{Bytes, ModelError, map},
    },
};

/// A state dict in a safetensors file, which is mapped and not read.
#[derive(Debug)]
pub struct Checkpoint {
    bytes: Bytes,
    tensors: BTreeMap<String, Entry>,
    /// Names in the order in which the data lies.
    order: Vec<String>,
    metadata: BTreeMap<String, String>,
}

/// A tensor: its type, its shape, and where its data lies in the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Entry {
    /// The type, if it is one that layers are folded in.
    pub(super) const fn element(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::Bf16),
            _ => None,
        }
    }
}

impl Checkpoint {
    /// Opens a safetensors file.
    ///
    /// As with every memory map, nobody may change the file meanwhile.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`], and [`ModelError::Malformed`] where the file is no safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        Self::new(Bytes::Mapped(map(path.as_ref())?))
    }

    /// A file's content that is in memory already.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, ModelError> {
        Self::new(Bytes::Owned(bytes.into()))
    }

    fn new(bytes: Bytes) -> Result<Self, ModelError> {
        // Checks that the data of all tensors has the lengths of their shapes, and fills the file without a gap.
        let (header_len, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| ModelError::malformed(error.to_string()))?;
        let data = header_len + size_of::<u64>();
        let entry = |info: &safetensors::tensor::TensorInfo| Entry {
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data + info.data_offsets.0,
            end: data + info.data_offsets.1,
        };
        let tensors = header.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect();
        let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { bytes, tensors, order: header.offset_keys(), metadata })
    }

    /// The file's content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The names of the tensors, in the order in which their data lies.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    pub(super) const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    pub(super) fn data(&self, entry: &Entry) -> &[u8] {
        self.bytes.get(entry.start..entry.end).unwrap_or_default()
    }

    /// The elements of a floating-point tensor.
    pub(super) fn values(&self, entry: &Entry) -> Option<Values<'_>> {
        match (entry.element(), entry.dtype) {
            (Some(dtype), _) => Some(Values::from_le_bytes(dtype, self.data(entry))),
            (None, Dtype::F64) => Some(Values::f64_from_le_bytes(self.data(entry))),
            (None, _) => None,
        }
    }
}
