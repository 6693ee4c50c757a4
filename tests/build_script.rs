//! The parts of `build.rs` that are pure functions.

// Each part is used here only in part.
#![allow(dead_code)]

#[path = "../build/architectures.rs"]
mod architectures;
#[path = "../build/image.rs"]
mod image;

use architectures::{
    Architecture::{self, Cubin, Ptx},
    Bare, DEFAULT, parse,
};

fn parsed(list: &str) -> Vec<Architecture> {
    parse(list, Bare::Cubin).unwrap()
}

fn refused(list: &str) -> String {
    parse(list, Bare::Cubin).unwrap_err()
}

#[test]
fn architectures_are_separated_by_semicolons_commas_or_spaces() {
    for list in ["80;90", "80,90", "8.0 9.0", "sm_80, sm_90;", "80;90;80"] {
        assert_eq!(parsed(list), [Cubin(80), Cubin(90)], "{list}");
    }
}

#[test]
fn ptx_is_asked_for_by_name() {
    assert_eq!(parsed("80;9.0+PTX"), [Cubin(80), Cubin(90), Ptx(90)]);
}

#[test]
fn a_list_for_cmake_means_what_it_means_there() {
    let parsed = |list| parse(list, Bare::CubinAndPtx).unwrap();
    assert_eq!(parsed("75-real;80;90-virtual"), [Cubin(75), Cubin(80), Ptx(80), Ptx(90)]);
    assert_eq!(parsed("all-major"), DEFAULT);
}

#[test]
fn code_for_one_chip_alone_is_refused_and_the_portable_name_given() {
    for list in ["90a", "90a-real", "80;90a+PTX"] {
        assert!(refused(list).contains("ask for \"90\""), "{list}: {}", refused(list));
    }
    assert!(refused("100f").contains("ask for \"100\""));
}

#[test]
fn what_is_no_architecture_is_refused() {
    for list in ["", ";", "native", "turing", "7", "-real", "OFF"] {
        refused(list);
    }
}

#[test]
fn no_default_is_code_for_one_chip_alone() {
    let names = DEFAULT.map(|architecture| architecture.to_string());
    assert!(names.iter().all(|name| name.ends_with(|last: char| last.is_ascii_digit())), "{names:?}");
}

/// A fatbin with entries of (kind, capability), each with `code` bytes of code.
fn fatbin(entries: &[(u16, u32)], code: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for &(kind, capability) in entries {
        let mut header = [0_u8; 64];
        header[0..2].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&64_u32.to_le_bytes());
        header[8..16].copy_from_slice(&(code as u64).to_le_bytes());
        header[28..32].copy_from_slice(&capability.to_le_bytes());
        body.extend(header);
        body.resize(body.len() + code, 0xCC);
    }
    let mut fatbin = vec![0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0];
    fatbin.extend((body.len() as u64).to_le_bytes());
    fatbin.extend(body);
    fatbin
}

#[test]
fn an_image_is_a_sequence_of_padded_fatbins() {
    let image = image::join([fatbin(&[(2, 75), (2, 90), (1, 75)], 24), fatbin(&[(2, 90), (1, 75)], 7)].into_iter());
    assert_eq!(image.len() % 16, 0);
    assert_eq!(image::architectures(&image).unwrap(), ["sm_90", "compute_75"]);
}

#[test]
fn a_single_fatbin_needs_no_padding() {
    assert_eq!(image::architectures(&fatbin(&[(2, 90)], 7)).unwrap(), ["sm_90"]);
}

#[test]
fn what_is_no_image_is_refused() {
    let whole = fatbin(&[(2, 90)], 24);
    let mut backwards = whole.clone();
    backwards[20..32].fill(0xFF);
    for image in [&whole[..whole.len() - 1], &whole[1..], &whole[..20], b"WARPNORM-NO-KERNELS 0\0", b"", &backwards] {
        assert_eq!(image::architectures(image), None);
    }
}

#[test]
fn an_image_may_end_in_the_fingerprint_of_its_kernels() {
    let plain = image::join([fatbin(&[(2, 90)], 7), fatbin(&[(2, 90)], 24)].into_iter());
    assert_eq!(image::split_fingerprint(&plain), (plain.as_slice(), None));
    let signed = [&plain[..], b"WARPNORM-KERNELS 0123456789abcdef\0"].concat();
    assert_eq!(image::split_fingerprint(&signed), (plain.as_slice(), Some("0123456789abcdef")));
    // Only without its fingerprint is it a sequence of fatbins.
    assert_eq!(image::architectures(&signed), None);
}

#[test]
fn what_is_no_fingerprint_stays_with_the_image() {
    let plain = fatbin(&[(2, 90)], 24);
    let trailers: [&[u8]; 5] = [
        b"WARPNORM-KERNELS 0123456789abcdef",
        b"WARPNORM-KERNELS 0123456789abcde\0",
        b"WARPNORM-KERNELS 0123456789abcdef\0\0",
        b"WARPNORM-KERNELS \xff123456789abcdef\0",
        b"WARPNORM-NO-KERNELS 0123456789abcdef\0",
    ];
    for trailer in trailers {
        let image = [&plain, trailer].concat();
        assert_eq!(image::split_fingerprint(&image), (image.as_slice(), None));
    }
    assert_eq!(image::split_fingerprint(b""), (b"".as_slice(), None));
}
