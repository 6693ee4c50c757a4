//! Constant tensors: `TensorProto`, decoded as far as a fold needs it.

use std::borrow::Cow;

use super::{
    file::Externals,
    wire::{Field, Fields},
};
use crate::fold::models::ModelError;
use crate::{element::DType, fold::values::Values};

/// The element types of ONNX that are told apart here; the numbers are those of `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F32,
    F16,
    Bf16,
    F64,
    I32,
    I64,
    Other(i64),
}

impl From<DType> for ElementType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
        }
    }
}

impl ElementType {
    pub(super) const fn of(code: i64) -> Self {
        match code {
            1 => Self::F32,
            6 => Self::I32,
            7 => Self::I64,
            10 => Self::F16,
            11 => Self::F64,
            16 => Self::Bf16,
            code => Self::Other(code),
        }
    }

    pub(super) const fn code(self) -> i64 {
        match self {
            Self::F32 => 1,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::F16 => 10,
            Self::F64 => 11,
            Self::Bf16 => 16,
            Self::Other(code) => code,
        }
    }

    /// Bytes of an element, where it is one that is decoded.
    pub(super) const fn size(self) -> Option<usize> {
        match self {
            Self::F16 | Self::Bf16 => Some(2),
            Self::F32 | Self::I32 => Some(4),
            Self::F64 | Self::I64 => Some(8),
            Self::Other(_) => None,
        }
    }

    pub(super) const fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
            Self::F64 | Self::I32 | Self::I64 | Self::Other(_) => None,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::F32 => "f32".to_owned(),
            Self::F16 => "f16".to_owned(),
            Self::Bf16 => "bf16".to_owned(),
            Self::F64 => "f64".to_owned(),
            Self::I32 => "i32".to_owned(),
            Self::I64 => "i64".to_owned(),
            Self::Other(code) => format!("type {code} of ONNX"),
        }
    }
}

/// A tensor whose elements lie little-endian, one after the other.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'m> {
    pub(super) element: ElementType,
    pub(super) dims: Vec<usize>,
    pub(super) data: Cow<'m, [u8]>,
}

/// What a `TensorProto` says of itself, before its data is looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct TensorHeader<'m> {
    pub(super) name: &'m str,
    dims: Vec<i64>,
    element: i64,
    raw: Option<&'m [u8]>,
    external: Option<ExternalData<'m>>,
    is_segment: bool,
}

/// Where data lies that is not in the model's own file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ExternalData<'m> {
    pub(super) location: &'m str,
    pub(super) offset: u64,
    pub(super) length: Option<u64>,
}

/// Whether a field of `TensorProto` holds the data, or says where it is.
pub(super) const fn is_data_field(number: u64) -> bool {
    matches!(number, 3..=7 | 9..=11 | 13 | 14)
}

impl<'m> TensorHeader<'m> {
    pub(super) fn read(message: &'m [u8]) -> Result<Self, ModelError> {
        let mut header = Self::default();
        let mut external = ExternalData::default();
        let mut is_external = false;
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            match number {
                1 => value.ints(&mut header.dims)?,
                2 => header.element = value.int()?,
                3 => header.is_segment = true,
                8 => header.name = value.text()?,
                9 => header.raw = Some(value.bytes()?),
                13 => external.entry(value.bytes()?)?,
                14 => is_external = value.int()? == 1,
                _ => {}
            }
        }
        header.external = is_external.then_some(external);
        Ok(header)
    }

    pub(super) fn external(&self) -> Option<&ExternalData<'m>> {
        self.external.as_ref()
    }

    pub(super) fn element(&self) -> ElementType {
        ElementType::of(self.element)
    }

    /// The shape, and how many elements it holds.
    pub(super) fn shape(&self) -> Result<(Vec<usize>, usize), ModelError> {
        let dims = self.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
        let counted = dims.ok().and_then(|dims| count(&dims).map(|len| (dims, len)));
        counted.ok_or_else(|| ModelError::malformed(format!("the tensor {} has the shape {:?}", self.name, self.dims)))
    }
}

impl<'m> ExternalData<'m> {
    fn entry(&mut self, message: &'m [u8]) -> Result<(), ModelError> {
        let (mut key, mut text) = ("", "");
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            match number {
                1 => key = value.text()?,
                2 => text = value.text()?,
                _ => {}
            }
        }
        let number =
            || text.parse::<u64>().map_err(|_| ModelError::malformed(format!("{key} of external data is {text:?}")));
        match key {
            "location" => self.location = text,
            "offset" => self.offset = number()?,
            "length" => self.length = Some(number()?),
            _ => {}
        }
        Ok(())
    }
}

/// The elements of a shape, if that many can be counted; also those of a part of its axes, which may be more where one
/// is 0.
pub(super) fn count(dims: &[usize]) -> Option<usize> {
    let most = dims.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim.max(1)))?;
    Some(if dims.contains(&0) { 0 } else { most })
}

impl<'m> Tensor<'m> {
    /// Decodes a `TensorProto`; an element type that is not told apart is an error.
    pub(super) fn read(message: &'m [u8], externals: &'m Externals) -> Result<Self, ModelError> {
        let header = TensorHeader::read(message)?;
        let (dims, len) = header.shape()?;
        let element = header.element();
        let Some(size) = element.size() else {
            return Err(ModelError::unsupported(format!("the tensor {} is of {}", header.name, element.name())));
        };
        if header.is_segment {
            return Err(ModelError::unsupported(format!("the tensor {} comes in segments", header.name)));
        }
        let expected = len.checked_mul(size).ok_or_else(|| ModelError::malformed("a shape beyond all memory"))?;
        let data = match (&header.external, header.raw) {
            (Some(external), _) => Cow::Borrowed(externals.data(header.name, external, expected)?),
            (None, Some(raw)) => Cow::Borrowed(raw),
            (None, None) => Cow::Owned(typed_data(message, element)?),
        };
        if data.len() == expected {
            Ok(Self { element, dims, data })
        } else {
            Err(ModelError::TensorLength { tensor: header.name.to_owned(), found: data.len(), expected })
        }
    }

    pub(super) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// The elements of a floating-point tensor, where they lie.
    pub(super) fn values(&self) -> Option<Values<'_>> {
        match (self.element.dtype(), self.element) {
            (Some(dtype), _) => Some(Values::from_le_bytes(dtype, &self.data)),
            (None, ElementType::F64) => Some(Values::f64_from_le_bytes(&self.data)),
            (None, _) => None,
        }
    }

    /// The elements of an integer tensor.
    pub(super) fn ints(&self) -> Option<Vec<i64>> {
        match self.element {
            ElementType::I64 => Some(self.data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()),
            ElementType::I32 => {
                Some(self.data.as_chunks().0.iter().map(|&bytes| i64::from(i32::from_le_bytes(bytes))).collect())
            }
            _ => None,
        }
    }
}

/// The data of a tensor that has none in `raw_data`.
fn typed_data(message: &[u8], element: ElementType) -> Result<Vec<u8>, ModelError> {
    let mut data = Vec::new();
    let mut ints = Vec::new();
    for field in Fields::of(message) {
        let Field { number, value, .. } = field?;
        match (number, element) {
            (4, ElementType::F32) => value.fixed::<4>(&mut data)?,
            (10, ElementType::F64) => value.fixed::<8>(&mut data)?,
            (5, ElementType::F16 | ElementType::Bf16 | ElementType::I32) | (7, ElementType::I64) => {
                value.ints(&mut ints)?
            }
            _ => {}
        }
    }
    for value in ints {
        let bytes = value.to_le_bytes();
        data.extend_from_slice(&bytes[..element.size().unwrap_or(0)]);
    }
    Ok(data)
}
