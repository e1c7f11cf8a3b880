//! Which pieces of documents share a row, where a policy looks at lengths: best fit, padding, length
//! buckets. The answer is a side index beside the shard, written once, mapped afterwards.
//!
//! Documents are packed in blocks, so that memory is bounded by a block and the rows of a shard do
//! not depend on threads. Concatenation needs no index and is not here.

use crate::error::{Error, Result};
use crate::indexed::Indexed;
use crate::mapped::Mapped;
use crate::output::{HashingFile, for_each_chunk, with_suffix};
use llmc_plan::data::Packing;
use llmc_plan::lang::Said;
use llmc_plan::say;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A block ends with the document that reaches this many tokens: about 64 MiB of English text.
const BLOCK_TOKENS: u64 = 1 << 24;
const MAGIC: &[u8; 8] = b"LLMCPACK";
const VERSION: u64 = 1;
/// Magic, version, policy, context, key, tokens, documents, rows, pieces: eight bytes each.
const HEADER_BYTES: usize = 72;
const ROW_BYTES: usize = 8;
const PIECE_BYTES: usize = 16;
/// Flag in a stored length: the piece ends its document.
const ENDS: u32 = 1 << 31;

/// A run of tokens of one document inside a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First token in the shard.
    pub start: u64,
    /// Tokens, at least one.
    pub length: u32,
    /// Place of the first token in the row.
    pub at: u32,
    /// The last token is the last of its document.
    pub ends: bool,
}

/// Rows of pieces, in the order of the pieces' places.
pub type Rows = Vec<Vec<Piece>>;

/// Packs documents of the given lengths, which lie end to end from token `start` on.
pub fn pack(policy: Packing, context: u32, start: u64, lengths: &[u64]) -> Rows {
    let mut pieces = Vec::new();
    let mut from = start;
    for &length in lengths {
        let end = from + length;
        while from < end {
            let take = (end - from).min(u64::from(context)) as u32;
            let ends = from + u64::from(take) == end;
            pieces.push(Piece { start: from, length: take, at: 0, ends });
            from += u64::from(take);
        }
    }
    match policy {
        Packing::Concat | Packing::Padding => pieces.into_iter().map(|piece| vec![piece]).collect(),
        Packing::BestFit => best_fit(context, pieces),
        Packing::Buckets => buckets(context, pieces),
    }
}

/// Best-fit decreasing: longest first, each into the row with the least room that holds it (Ding et
/// al. 2024, "Fewer truncations improve language modeling", arXiv 2404.10830, section 3).
fn best_fit(context: u32, mut pieces: Vec<Piece>) -> Rows {
    // Stable, so equal lengths keep the order of the shard.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.length));
    let mut rows: Rows = Vec::new();
    let mut by_room: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for mut piece in pieces {
        let room = by_room.range(piece.length..).next().map(|(&room, _)| room);
        let row = room.and_then(|room| {
            let open = by_room.get_mut(&room)?;
            let row = open.pop();
            if open.is_empty() {
                by_room.remove(&room);
            }
            row
        });
        let row = row.unwrap_or_else(|| {
            rows.push(Vec::new());
            rows.len() - 1
        });
        let Some(pieces) = rows.get_mut(row) else { continue };
        piece.at = pieces.last().map_or(0, |last| last.at + last.length);
        let room = context - piece.at - piece.length;
        pieces.push(piece);
        if room > 0 {
            by_room.entry(room).or_default().push(row);
        }
    }
    rows
}

/// A row is cut into slots of context / 2^k tokens, and a piece lies in the shortest slot that holds
/// it: rows keep one size, and attention costs what the slot does, not what the context would.
fn buckets(context: u32, pieces: Vec<Piece>) -> Rows {
    let mut by_slot: BTreeMap<u32, Vec<Piece>> = BTreeMap::new();
    for piece in pieces {
        let mut slot = context;
        while slot.is_multiple_of(2) && slot / 2 >= piece.length {
            slot /= 2;
        }
        by_slot.entry(slot).or_default().push(piece);
    }
    let mut rows = Vec::new();
    for (slot, pieces) in by_slot {
        for chunk in pieces.chunks((context / slot) as usize) {
            let place = |(n, piece): (usize, &Piece)| Piece { at: n as u32 * slot, ..*piece };
            rows.push(chunk.iter().enumerate().map(place).collect());
        }
    }
    rows
}

/// Share of the rows' tokens that is padding, for documents of these lengths.
pub fn waste(policy: Packing, context: u32, lengths: &[u64]) -> f64 {
    let tokens: u64 = lengths.iter().sum();
    let rows = match policy {
        Packing::Concat => tokens.div_ceil(u64::from(context)),
        _ => pack(policy, context, 0, lengths).len() as u64,
    };
    if rows == 0 { 0.0 } else { 1.0 - tokens as f64 / (rows as f64 * f64::from(context)) }
}

/// The rows of a shard under a policy, mapped.
pub struct PackIndex {
    path: PathBuf,
    map: Mapped,
    context: u32,
    tokens: u64,
    rows: u64,
    pieces: u64,
}

impl PackIndex {
    /// Maps the index of the shard at `prefix`, and writes it first if there is none. `key` names the
    /// shard's content.
    ///
    /// # Errors
    /// A shard that is damaged, a folder that cannot be written.
    pub fn open(prefix: &Path, shard: &Indexed, policy: Packing, context: u32, key: u64) -> Result<Self> {
        let path = with_suffix(prefix, &format!(".{}-{context}.pack", name(policy)));
        let header = [policy as u64, u64::from(context), key, shard.tokens(), shard.documents()];
        if let Some(index) = Self::map(&path, &header)? {
            return Ok(index);
        }
        write(&path, shard, policy, context, &header)?;
        Self::map(&path, &header)?.ok_or_else(|| {
            Error::corrupt(
                &path,
                None,
                say!("the index just written", "刚写入的索引"),
                say!("another", "另一个"),
            )
        })
    }

    /// `None` if there is no file, or one of another shard or build.
    fn map(path: &Path, header: &[u64; 5]) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let map = Mapped::open(path)?;
        let bytes = map.bytes();
        let field = |n: usize| number(bytes, 8 * n);
        let same = bytes.get(..8) == Some(MAGIC)
            && field(1) == Some(VERSION)
            && header.iter().enumerate().all(|(n, &value)| field(n + 2) == Some(value));
        let (Some(rows), Some(pieces)) = (field(7), field(8)) else { return Ok(None) };
        let length = (ROW_BYTES as u64)
            .checked_mul(rows)
            .zip((PIECE_BYTES as u64).checked_mul(pieces))
            .and_then(|(r, p)| r.checked_add(p)?.checked_add(HEADER_BYTES as u64));
        if !same || length != Some(bytes.len() as u64) {
            return Ok(None);
        }
        let [_, context, _, tokens, _] = *header;
        Ok(Some(Self { path: path.to_owned(), map, context: context as u32, tokens, rows, pieces }))
    }

    /// Rows of the shard.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends the pieces of a row, ascending in place.
    ///
    /// # Errors
    /// Pieces that overlap, or leave the row or the shard.
    pub fn pieces(&self, row: u64, out: &mut Vec<Piece>) -> Result<()> {
        let bytes = self.map.bytes();
        let end_of = |row: u64| number(bytes, HEADER_BYTES + ROW_BYTES * row as usize);
        let bad = |expected: Said, found: Said| Error::corrupt(&self.path, None, expected, found);
        let (first, end) = match row.checked_sub(1) {
            None => (Some(0), end_of(row)),
            Some(before) => (end_of(before), end_of(row)),
        };
        let range =
            first.zip(end).filter(|&(first, end)| row < self.rows && first < end && end <= self.pieces);
        let Some((first, end)) = range else {
            return Err(bad(
                say!(
                    "row {row} of {rows} to have pieces",
                    "共 {rows} 行中的第 {row} 行含片段",
                    rows = self.rows
                ),
                say!("{first:?} to {end:?}", " {first:?} 到 {end:?}"),
            ));
        };
        let mut place = 0;
        for n in first..end {
            let at = HEADER_BYTES + ROW_BYTES * self.rows as usize + PIECE_BYTES * n as usize;
            let start = number(bytes, at).unwrap_or(u64::MAX);
            let rest = number(bytes, at + 8).unwrap_or(u64::MAX);
            let (stored, at) = (rest as u32, (rest >> 32) as u32);
            let piece = Piece { start, length: stored & !ENDS, at, ends: stored & ENDS != 0 };
            let inside = at.checked_add(piece.length).is_some_and(|end| end <= self.context)
                && start.checked_add(u64::from(piece.length)).is_some_and(|end| end <= self.tokens);
            if !inside || at < place || piece.length == 0 {
                return Err(bad(
                    say!("pieces of row {row} inside it, one after another", "第 {row} 行的片段依次位于其中"),
                    say!("{piece:?}", " {piece:?}"),
                ));
            }
            place = at + piece.length;
            out.push(piece);
        }
        Ok(())
    }
}

/// The policy's name in files.
fn name(policy: Packing) -> &'static str {
    match policy {
        Packing::Concat => "concat",
        Packing::BestFit => "best_fit",
        Packing::Padding => "padding",
        Packing::Buckets => "buckets",
    }
}

/// Calls `each` with the first token and the document lengths of every block of a shard.
///
/// # Errors
/// A damaged shard, or the callee's.
pub fn for_each_block(shard: &Indexed, mut each: impl FnMut(u64, &[u64]) -> Result<()>) -> Result<()> {
    let (mut first, mut previous, mut lengths) = (0, 0, Vec::new());
    let mut result = Ok(());
    shard.document_starts(0, shard.tokens(), |start| {
        lengths.push(start - previous);
        previous = start;
        if start - first >= BLOCK_TOKENS || start == shard.tokens() {
            if result.is_ok() {
                result = each(first, &lengths);
            }
            lengths.clear();
            first = start;
        }
    })?;
    result
}

/// Rows and pieces wait in files of their own, because the header states their numbers.
fn write(path: &Path, shard: &Indexed, policy: Packing, context: u32, header: &[u64; 5]) -> Result<()> {
    // Ranks may do this side by side; whoever is last renames the same bytes over the others'.
    let temporary = |part: &str| with_suffix(path, &format!(".{}.{part}", std::process::id()));
    let (rows_path, pieces_path, whole_path) = (temporary("rows"), temporary("pieces"), temporary("partial"));
    let (mut rows_file, mut pieces_file) =
        (HashingFile::create(&rows_path)?, HashingFile::create(&pieces_path)?);
    let (mut rows, mut pieces) = (0u64, 0u64);
    for_each_block(shard, |first, lengths| {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for row in pack(policy, context, first, lengths) {
            for piece in &row {
                let stored = piece.length | if piece.ends { ENDS } else { 0 };
                bytes.extend(piece.start.to_le_bytes());
                bytes.extend((u64::from(stored) | u64::from(piece.at) << 32).to_le_bytes());
            }
            pieces += row.len() as u64;
            rows += 1;
            ends.extend(pieces.to_le_bytes());
        }
        pieces_file.write(&bytes)?;
        rows_file.write(&ends)
    })?;
    rows_file.finish()?;
    pieces_file.finish()?;
    let mut whole = HashingFile::create(&whole_path)?;
    whole.write(MAGIC)?;
    for field in [VERSION].iter().chain(header).chain(&[rows, pieces]) {
        whole.write(&field.to_le_bytes())?;
    }
    for_each_chunk(&rows_path, |chunk| whole.write(chunk))?;
    for_each_chunk(&pieces_path, |chunk| whole.write(chunk))?;
    whole.finish()?;
    for path in [&rows_path, &pieces_path] {
        std::fs::remove_file(path).map_err(Error::io("remove", path))?;
    }
    std::fs::rename(&whole_path, path).map_err(Error::io("write", path))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_lies_in_one_row(lengths in prop::collection::vec(1u64..50, 1..60), context in 1u32..40) {
            for policy in [Packing::BestFit, Packing::Padding, Packing::Buckets] {
                let rows = pack(policy, context, 100, &lengths);
                let mut seen = vec![0; lengths.iter().sum::<u64>() as usize];
                for row in &rows {
                    let mut place = 0;
                    for piece in row {
                        prop_assert!(piece.at >= place && piece.at + piece.length <= context);
                        place = piece.at + piece.length;
                        (0..piece.length).for_each(|i| seen[(piece.start - 100) as usize + i as usize] += 1);
                    }
                }
                prop_assert!(seen.iter().all(|&count| count == 1));
            }
            // Never worse than one document a row, and never better than no padding at all.
            let best = waste(Packing::BestFit, context, &lengths);
            prop_assert!(best <= waste(Packing::Padding, context, &lengths));
            prop_assert!(best >= waste(Packing::Concat, context, &lengths));
            prop_assert!(waste(Packing::Buckets, context, &lengths) <= waste(Packing::Padding, context, &lengths));
        }
    }

    #[test]
    fn best_fit_by_hand() {
        let rows = pack(Packing::BestFit, 10, 0, &[3, 6, 13, 4, 2]);
        let lengths: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(|p| p.length).collect()).collect();
        // 13 is cut into 10 and 3; 6 takes 4; the 3s share a row, which the 2 fits better than a new one.
        assert_eq!(lengths, [vec![10], vec![6, 4], vec![3, 3, 2]]);
        assert!((waste(Packing::BestFit, 10, &[3, 6, 13, 4, 2]) - 2.0 / 30.0).abs() < 1e-12);
    }

    #[test]
    fn buckets_by_hand() {
        let rows = pack(Packing::Buckets, 16, 0, &[3, 9, 4, 2, 8]);
        let places: Vec<Vec<(u32, u32)>> =
            rows.iter().map(|row| row.iter().map(|p| (p.at, p.length)).collect()).collect();
        assert_eq!(places, [vec![(0, 2)], vec![(0, 3), (4, 4)], vec![(0, 8)], vec![(0, 9)]]);
    }
}
