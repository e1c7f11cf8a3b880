//! Token ids as NumPy's `.npy`: one dimension, integers, little-endian.
//!
//! The format is `numpy/lib/_format_impl.py`'s: magic, version, length of the header, a Python dictionary of `descr`,
//! `fortran_order` and `shape`, padded with spaces so that the data begin at a multiple of 64 bytes. The header is not
//! parsed as Python: three entries are looked for, so that a hostile one costs no stack.

use crate::output::Dtype;
use llmc_plan::lang::Said;
use llmc_plan::say;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The data begin at a multiple of this (`ARRAY_ALIGN`).
const ALIGNED: usize = 64;
/// NumPy itself refuses longer headers (`_MAX_HEADER_SIZE`).
const MAX_HEADER: usize = 10_000;

/// Ids as an array of `u16` or `i32`, as `dtype` says.
pub fn write(dtype: Dtype, ids: &[u32]) -> Vec<u8> {
    let (name, width) = if dtype == Dtype::U16 { ("<u2", 2) } else { ("<i4", 4) };
    let mut header = format!("{{'descr': '{name}', 'fortran_order': False, 'shape': ({},), }}", ids.len());
    // Magic, version, length, and the line end that closes the header.
    let before = MAGIC.len() + 4 + 1;
    let padding = (before + header.len()).next_multiple_of(ALIGNED) - before - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let mut bytes = Vec::with_capacity(before + header.len() + width * ids.len());
    bytes.extend(MAGIC);
    bytes.extend([1, 0]);
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    match dtype {
        Dtype::U16 => bytes.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
        _ => bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
    }
    bytes
}

/// The ids of an array, `u32` little-endian; one that no `u32` holds becomes the largest. Otherwise what stands
/// there instead, from which byte on.
///
/// # Errors
/// No array of one dimension of integers, or one of another length than its header says.
pub fn read(bytes: &[u8]) -> Result<Vec<u8>, (u64, Said)> {
    let (header, data) = split(bytes).ok_or((0, say!("no header of NumPy", "没有 NumPy 头部")))?;
    let start = (bytes.len() - data.len()) as u64;
    let said = |what: Said| {
        (
            0,
            say!(
                "{what} in the header {header:?}",
                "头部 {header:?} 中{what}",
                what,
                header = header.trim_end()
            ),
        )
    };
    let kind = entry(header, "descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    let (width, signed) = match kind {
        Some("|u1") => (1, false),
        Some("|i1") => (1, true),
        Some("<u2") => (2, false),
        Some("<i2") => (2, true),
        Some("<u4") => (4, false),
        Some("<i4") => (4, true),
        Some("<u8") => (8, false),
        Some("<i8") => (8, true),
        _ => return Err(said(say!("no little-endian integers", "没有小端整数"))),
    };
    let shape = entry(header, "shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let length = shape.and_then(|shape| shape.strip_suffix(',')?.trim().parse::<usize>().ok());
    let Some(length) = length else {
        return Err(said(say!("another shape than (n,)", "的形状不是 (n,)")));
    };
    if length.checked_mul(width) != Some(data.len()) {
        return Err((
            start,
            say!(
                "{bytes} bytes after the header, which says {length} integers of {width}",
                "头部之后有 {bytes} 字节，而头部称有 {length} 个 {width} 字节的整数",
                bytes = data.len()
            ),
        ));
    }
    let mut ids = Vec::with_capacity(4 * length);
    for value in data.chunks_exact(width) {
        let mut wide = [if signed && value.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 }; 8];
        wide.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        ids.extend(u32::try_from(u64::from_le_bytes(wide)).unwrap_or(u32::MAX).to_le_bytes());
    }
    Ok(ids)
}

/// Header and data; version 1 states the header's length in two bytes, 2 and 3 in four.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_at_checked(2)?;
    let (length, rest) = match version {
        [1, _] => rest.split_first_chunk::<2>().map(|(n, rest)| (u32::from(u16::from_le_bytes(*n)), rest)),
        [2 | 3, _] => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n), rest)),
        _ => None,
    }?;
    let length = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER)?;
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// What follows a name in the header.
fn entry<'h>(header: &'h str, name: &str) -> Option<&'h str> {
    let (_, rest) = header.split_once(&format!("'{name}'"))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(bytes: &[u8]) -> Vec<u32> {
        bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    /// `numpy.save` of numpy 2 for `np.array([1, 2, 65535], "<u2")`.
    #[test]
    fn an_array_is_numpys_byte_for_byte() {
        let mut expected =
            b"\x93NUMPY\x01\x00v\x00{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }".to_vec();
        expected.resize(127, b' ');
        expected.extend(b"\n\x01\x00\x02\x00\xff\xff");
        assert_eq!(write(Dtype::U16, &[1, 2, 65_535]), expected);
    }

    #[test]
    fn every_width_and_sign() {
        for (name, bytes, expected) in [
            ("|u1", &[255u8][..], 255),
            ("|i1", &[255], u32::MAX),
            ("<i2", &[1, 1], 257),
            ("<u4", &[0, 0, 0, 128], 1 << 31),
            ("<i4", &[0, 0, 0, 128], u32::MAX),
            ("<i8", &[7, 0, 0, 0, 0, 0, 0, 0], 7),
            ("<u8", &[0, 0, 0, 0, 1, 0, 0, 0], u32::MAX),
        ] {
            let header = format!("{{'shape': (1,), 'fortran_order': True, 'descr': '{name}'}}\n");
            let mut array = b"\x93NUMPY\x02\x00".to_vec();
            array.extend((header.len() as u32).to_le_bytes());
            array.extend(header.as_bytes());
            array.extend(bytes);
            assert_eq!(ids(&read(&array).unwrap()), [expected], "{name}");
        }
    }

    #[test]
    fn what_is_no_list_of_ids_is_named() {
        let float =
            b"\x93NUMPY\x01\x00\x3a\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n\0\0\0\0";
        let (at, found) = read(float).unwrap_err();
        assert_eq!(
            (at, found.en.as_str()),
            (
                0,
                "no little-endian integers in the header \"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\""
            )
        );
        let whole = write(Dtype::I32, &[70_000, 3]);
        let (at, found) = read(&whole[..whole.len() - 1]).unwrap_err();
        assert_eq!((at, found.en.as_str()), (128, "7 bytes after the header, which says 2 integers of 4"));
        assert_eq!(read(b"PK").unwrap_err().1.en, "no header of NumPy");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(list in prop::collection::vec(0u32..65_536, 0..300), small: bool) {
            let dtype = if small { Dtype::U16 } else { Dtype::I32 };
            let array = write(dtype, &list);
            prop_assert_eq!(ids(&read(&array).unwrap()), list);
        }

        #[test]
        fn nothing_panics(mut array in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, byte: u8) {
            let _ = read(&array);
            array = write(Dtype::U16, &[1, 2, 3]);
            let at = at.index(array.len());
            array[at] = byte;
            let _ = read(&array);
        }
    }
}
