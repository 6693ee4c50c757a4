//! Protobuf's wire format, of which ONNX files are made.
//!
//! Fields are read where they lie, so that whatever is not changed can be copied as it is, unknown fields included. Nothing
//! is allocated by a length that the file states: a field's bytes are a slice of the file, or the file is refused.

use crate::fold::models::ModelError;

/// A field of a message: its number, its value, and all its bytes with the key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'m> {
    pub(super) number: u64,
    pub(super) value: Wire<'m>,
    pub(super) raw: &'m [u8],
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'m> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'m [u8]),
    Fixed32([u8; 4]),
}

/// The fields of a message, in the order of the file.
#[derive(Debug, Clone)]
pub(super) struct Fields<'m> {
    rest: &'m [u8],
}

impl<'m> Fields<'m> {
    pub(super) fn of(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<Field<'m>, ModelError> {
        let start = self.rest;
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 {
            return Err(ModelError::malformed("a field has the number 0"));
        }
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.array()?),
            2 => {
                let len = usize::try_from(self.varint()?).ok().filter(|&len| len <= self.rest.len());
                let len = len.ok_or_else(|| ModelError::malformed("a field is longer than what holds it"))?;
                let (bytes, rest) = self.rest.split_at(len);
                self.rest = rest;
                Wire::Bytes(bytes)
            }
            5 => Wire::Fixed32(self.array()?),
            // Groups have been deprecated since before ONNX was.
            _ => return Err(ModelError::malformed("a field has a wire type that ONNX does not use")),
        };
        Ok(Field { number, value, raw: &start[..start.len() - self.rest.len()] })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let (bytes, rest) =
            self.rest.split_first_chunk().ok_or_else(|| ModelError::malformed("the file ends in a field"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn varint(&mut self) -> Result<u64, ModelError> {
        let mut value = 0_u64;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(ModelError::malformed("a number does not end"))
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Result<Field<'m>, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'m> Wire<'m> {
    pub(super) fn bytes(self) -> Result<&'m [u8], ModelError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ModelError::malformed("a field that holds bytes has another wire type")),
        }
    }

    pub(super) fn text(self) -> Result<&'m str, ModelError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ModelError::malformed("a name is not UTF-8"))
    }

    #[expect(clippy::cast_possible_wrap, reason = "protobuf stores an int64 so")]
    pub(super) fn int(self) -> Result<i64, ModelError> {
        match self {
            Self::Varint(value) => Ok(value as i64),
            _ => Err(ModelError::malformed("a field that holds an integer has another wire type")),
        }
    }

    pub(super) fn float(self) -> Result<f32, ModelError> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(ModelError::malformed("a field that holds a float has another wire type")),
        }
    }

    /// Adds the integers of a repeated field, packed or not.
    pub(super) fn ints(self, to: &mut Vec<i64>) -> Result<(), ModelError> {
        let Self::Bytes(bytes) = self else {
            to.push(self.int()?);
            return Ok(());
        };
        let mut packed = Fields::of(bytes);
        while !packed.rest.is_empty() {
            to.push(Wire::Varint(packed.varint()?).int()?);
        }
        Ok(())
    }

    /// Adds the bytes of a repeated field of `N` bytes an element, packed or not.
    pub(super) fn fixed<const N: usize>(self, to: &mut Vec<u8>) -> Result<(), ModelError> {
        match self {
            Self::Bytes(bytes) if bytes.len() % N == 0 => to.extend_from_slice(bytes),
            Self::Fixed32(bytes) if N == 4 => to.extend_from_slice(&bytes),
            Self::Fixed64(bytes) if N == 8 => to.extend_from_slice(&bytes),
            _ => return Err(ModelError::malformed("a list of numbers has another wire type")),
        }
        Ok(())
    }
}

pub(super) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[expect(clippy::cast_sign_loss, reason = "protobuf stores an int64 so")]
pub(super) fn put_int(to: &mut Vec<u8>, number: u64, value: i64) {
    put_varint(to, number << 3);
    put_varint(to, value as u64);
}

/// The key and the length of a field whose bytes follow.
pub(super) fn put_header(to: &mut Vec<u8>, number: u64, len: usize) {
    put_varint(to, number << 3 | 2);
    put_varint(to, len as u64);
}

pub(super) fn put_bytes(to: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_header(to, number, bytes.len());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_were_written() {
        let mut message = Vec::new();
        put_int(&mut message, 1, -3);
        put_bytes(&mut message, 20, b"name");
        put_varint(&mut message, 2 << 3 | 5);
        message.extend(0.5_f32.to_le_bytes());
        let fields = Fields::of(&message).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(fields.iter().map(|field| field.number).collect::<Vec<_>>(), [1, 20, 2]);
        assert_eq!(fields[0].value.int().unwrap(), -3);
        assert_eq!(fields[1].value.text().unwrap(), "name");
        assert_eq!(fields[2].value.float().unwrap().to_bits(), 0.5_f32.to_bits());
        assert_eq!(fields.iter().map(|field| field.raw).collect::<Vec<_>>().concat(), message);
    }

    #[test]
    fn what_does_not_end_is_refused() {
        let endless = [0xff_u8; 12];
        for message in [&endless[..], &[0x0a, 5, 1], &[0x0d, 1, 2], &[0x09, 1], &[0x0a], &[0x00], &[0x0b], &[0x08]] {
            assert!(Fields::of(message).any(|field| field.is_err()), "{message:?}");
        }
        assert!(Wire::Bytes(&[0x80]).ints(&mut Vec::new()).is_err());
        assert!(Wire::Bytes(&[1, 2, 3]).fixed::<4>(&mut Vec::new()).is_err());
    }
}
