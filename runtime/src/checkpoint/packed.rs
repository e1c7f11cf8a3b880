//! A safetensors file whose data is compressed: its own header, then zstd frames, then the length of each frame.
//!
//! A tensor is cut into pieces of 1 MiB, each a frame. Before that its bytes are sorted by their place in the number,
//! all first bytes, all second ones: exponents repeat and mantissas do not, so level 1 then stores trained f32 weights and
//! moments in 1/1.17 to 1/1.21 of their size at 870 to 955 MB/s a core, where unsorted bytes give 1/1.07 to 1/1.09 at
//! 740 to 770, and level 3 or 9 no less (own measurement, libzstd 1.5.7, 2026-11-23, 2-core VM).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rayon::prelude::*;
use safetensors::View;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::failure::{Failure, Outcome};

/// Bytes of a tensor in a frame; a multiple of every number's width.
const PIECE: usize = 1 << 20;
/// Frames that are made side by side, so that no more than these wait for the disk.
const TOGETHER: usize = 64;

/// Writes and syncs `path` at a level of zstd.
pub(super) fn write<V: View>(path: &Path, tensors: Vec<(String, V)>, level: i32) -> Outcome<()> {
    let failed = |e: std::io::Error| Failure::io("write", path, &e);
    let header = header(&tensors)?;
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(&header))
        .map_err(failed)?;
    let mut lengths: Vec<u8> = Vec::new();
    for (_, tensor) in &tensors {
        let (data, width) = (tensor.data(), width(tensor.dtype()));
        for pieces in data.chunks(PIECE * TOGETHER) {
            let frames: std::io::Result<Vec<Vec<u8>>> = pieces
                .par_chunks(PIECE)
                .map(|piece| zstd::bulk::compress(&sorted(piece, width), level))
                .collect();
            for frame in frames.map_err(failed)? {
                lengths.extend((frame.len() as u32).to_le_bytes());
                file.write_all(&frame).map_err(failed)?;
            }
        }
    }
    file.write_all(&lengths).map_err(failed)?;
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)
}

/// JSON of the header that the tensors would have uncompressed, in their order.
fn header<V: View>(tensors: &[(String, V)]) -> Outcome<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let begin = end;
        end += tensor.data_len();
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        (name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) })
    });
    let metadata = Metadata::new(None, infos.collect())
        .map_err(|e| Failure::bug(format!("the header of a checkpoint: {e}")))?;
    serde_json::to_vec(&metadata).map_err(|e| Failure::bug(format!("the header of a checkpoint: {e}")))
}

/// Bytes of a number, where sorting them is of use.
fn width(dtype: safetensors::Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

/// All first bytes of the numbers, all second ones, and so on; what is left of a last number stays at the end.
fn sorted(bytes: &[u8], width: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    // By shifts, which the compiler makes vectors of: 4 to 6 GB/s a core (own measurement, 2026-11-24, 2-core VM).
    match width {
        2 => places(bytes.as_chunks::<2>().0, &mut out, |n, shift| (u16::from_le_bytes(*n) >> shift) as u8),
        4 => places(bytes.as_chunks::<4>().0, &mut out, |n, shift| (u32::from_le_bytes(*n) >> shift) as u8),
        8 => places(bytes.as_chunks::<8>().0, &mut out, |n, shift| (u64::from_le_bytes(*n) >> shift) as u8),
        _ => out.copy_from_slice(bytes),
    }
    let rest = bytes.len() / width * width;
    if let (Some(to), Some(from)) = (out.get_mut(rest..), bytes.get(rest..)) {
        to.copy_from_slice(from);
    }
    out
}

fn places<const W: usize>(numbers: &[[u8; W]], out: &mut [u8], byte: impl Fn(&[u8; W], u32) -> u8) {
    for (place, to) in out.chunks_exact_mut(numbers.len().max(1)).take(W).enumerate() {
        to.iter_mut().zip(numbers).for_each(|(to, number)| *to = byte(number, 8 * place as u32));
    }
}

/// The inverse of [`sorted`].
fn unsorted(bytes: &[u8], width: usize, out: &mut [u8]) {
    let count = bytes.len() / width;
    for place in 0..width {
        let source = bytes.iter().skip(place * count);
        for (number, byte) in out.chunks_exact_mut(width).zip(source) {
            if let Some(to) = number.get_mut(place) {
                *to = *byte;
            }
        }
    }
    let rest = count * width;
    if let (Some(to), Some(from)) = (out.get_mut(rest..), bytes.get(rest..)) {
        to.copy_from_slice(from);
    }
}

/// Where the frames of a file lie.
#[derive(Debug)]
pub(super) struct Frames {
    /// Begin of each frame, and the end of the last.
    offsets: Vec<u64>,
    /// First frame of each tensor.
    first: BTreeMap<String, usize>,
}

impl Frames {
    /// Of a file of `length` bytes whose header, read already, ends at `start`. `Err` says what is wrong.
    pub(super) fn read(
        file: &mut File,
        header: &Metadata,
        start: u64,
        length: u64,
    ) -> std::io::Result<Result<Frames, String>> {
        let (mut first, mut count) = (BTreeMap::new(), 0usize);
        for name in header.offset_keys() {
            let (begin, end) = header.info(&name).map_or((0, 0), |info| info.data_offsets);
            first.insert(name, count);
            count = count.saturating_add(end.saturating_sub(begin).div_ceil(PIECE));
        }
        let table = (count as u64).saturating_mul(4);
        if table > length.saturating_sub(start) {
            return Ok(Err(format!("{length} bytes, which do not hold the table of {count} frames")));
        }
        file.seek(SeekFrom::Start(length - table))?;
        let mut lengths = vec![0; table as usize];
        file.read_exact(&mut lengths)?;
        let mut offsets = vec![start];
        let mut end = start;
        for frame in lengths.as_chunks::<4>().0 {
            end += u64::from(u32::from_le_bytes(*frame));
            offsets.push(end);
        }
        let want = end.saturating_add(table);
        Ok(if want == length {
            Ok(Frames { offsets, first })
        } else {
            Err(format!("{length} bytes where its frames need {want}"))
        })
    }

    /// The bytes of a tensor of `length` bytes in numbers of this format. `Err` says what is wrong.
    pub(super) fn bytes(
        &self,
        file: &mut File,
        name: &str,
        dtype: safetensors::Dtype,
        length: usize,
    ) -> std::io::Result<Result<Vec<u8>, String>> {
        let first = self.first.get(name).copied().unwrap_or(0);
        let mut bytes = vec![0; length];
        for (group, pieces) in bytes.chunks_mut(PIECE * TOGETHER).enumerate() {
            let mut work = Vec::with_capacity(TOGETHER);
            for (number, piece) in pieces.chunks_mut(PIECE).enumerate() {
                let at = first + group * TOGETHER + number;
                let (Some(begin), Some(end)) = (self.offsets.get(at), self.offsets.get(at + 1)) else {
                    return Ok(Err(format!("{name} has no frame {at}")));
                };
                let mut frame = vec![0; (end - begin) as usize];
                file.seek(SeekFrom::Start(*begin))?;
                file.read_exact(&mut frame)?;
                work.push((frame, piece));
            }
            let whole = work.into_par_iter().all(|(frame, piece)| {
                let plain = zstd::bulk::decompress(&frame, piece.len()).ok();
                let plain = plain.filter(|plain| plain.len() == piece.len());
                plain.is_some_and(|plain| {
                    unsorted(&plain, width(dtype), piece);
                    true
                })
            });
            if !whole {
                return Ok(Err(format!("a frame of {name} is no zstd of its length")));
            }
        }
        Ok(Ok(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_comes_back() {
        for length in [0, 1, 7, 8, 1000, 1003] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            for width in [1, 2, 4, 8] {
                let mut back = vec![0; bytes.len()];
                unsorted(&sorted(&bytes, width), width, &mut back);
                assert_eq!(back, bytes);
            }
        }
        assert_eq!(sorted(&[1, 2, 3, 4, 5], 2), [1, 3, 2, 4, 5]);
    }
}
