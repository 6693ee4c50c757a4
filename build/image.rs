//! The image that the crate embeds: one fatbin for each file of kernels, each padded to 16 bytes.
//!
//! A fatbin picks one code for each architecture, so files cannot share one without device linking. Its header (magic,
//! version, own size, size of what follows; all little-endian) ends it, and so the sequence needs no table. Of an entry
//! in it are read the kind, the sizes of its header and code, and the compute capability.

const MAGIC: u32 = 0xBA55_ED50;
const ALIGNMENT: usize = 16;
const KIND_PTX: u16 = 1;
const KIND_CUBIN: u16 = 2;

/// Before the 16 digits of `kernel_hash` and a zero. `scripts/release-fatbins` writes it.
const FINGERPRINT: &[u8] = b"WARPNORM-KERNELS ";
const FINGERPRINT_DIGITS: usize = 16;

pub fn join(fatbins: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut image = Vec::new();
    for fatbin in fatbins {
        image.extend(fatbin);
        image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    }
    image
}

/// The fatbins of an image, and the fingerprint of their kernels, if the image has one.
pub fn split_fingerprint(image: &[u8]) -> (&[u8], Option<&str>) {
    let begin = image.len().checked_sub(FINGERPRINT.len() + FINGERPRINT_DIGITS + 1);
    let split = begin.and_then(|begin| {
        let (fatbins, trailer) = image.split_at(begin);
        let digits = trailer.strip_prefix(FINGERPRINT)?.strip_suffix(b"\0")?;
        Some((fatbins, std::str::from_utf8(digits).ok()?))
    });
    match split {
        Some((fatbins, digits)) => (fatbins, Some(digits)),
        None => (image, None),
    }
}

/// What every fatbin of the image holds code for, such as `sm_90` and `compute_75`, in the image's order.
pub fn architectures(image: &[u8]) -> Option<Vec<String>> {
    let mut common: Option<Vec<String>> = None;
    let mut rest = image;
    while !rest.is_empty() {
        let (fatbin, after) = split_fatbin(rest)?;
        let held = architectures_of_fatbin(fatbin)?;
        match &mut common {
            None => common = Some(held),
            Some(common) => common.retain(|architecture| held.contains(architecture)),
        }
        rest = after;
    }
    common
}

/// The entries of the first fatbin, and what follows its padding.
fn split_fatbin(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if u32_at(bytes, 0)? != MAGIC {
        return None;
    }
    let header = usize::from(u16_at(bytes, 6)?);
    let end = header.checked_add(usize::try_from(u64_at(bytes, 8)?).ok()?)?;
    let padded = end.checked_next_multiple_of(ALIGNMENT)?.min(bytes.len());
    Some((bytes.get(header..end)?, &bytes[padded..]))
}

fn architectures_of_fatbin(mut entries: &[u8]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    while !entries.is_empty() {
        let size = usize::try_from(u64::from(u32_at(entries, 4)?).checked_add(u64_at(entries, 8)?)?).ok()?;
        let capability = u32_at(entries, 28)?;
        match u16_at(entries, 0)? {
            KIND_PTX => found.push(format!("compute_{capability}")),
            KIND_CUBIN => found.push(format!("sm_{capability}")),
            _ => {}
        }
        entries = entries.get(size..).filter(|_| size > 0)?;
    }
    Some(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
