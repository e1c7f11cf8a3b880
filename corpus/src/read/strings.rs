//! Strings of JSON: where they end, and what they say without their escapes.

use super::Buffer;
use wide::u8x16;

const BLOCK: usize = 16;
/// What AVX-512 takes at a time.
const WINDOW: usize = 64;

/// Marks the bytes of a block that end a plain run: a quote, a backslash, and the control characters that
/// JSON has not inside strings.
fn special(block: [u8; BLOCK]) -> u32 {
    let (block, all) = (u8x16::new(block), u8x16::splat);
    let control = block.min(all(b' ' - 1)).simd_eq(block);
    (block.simd_eq(all(b'"')) | block.simd_eq(all(b'\\')) | control).to_bitmask()
}

/// The first block, with zeros beyond the end, which are special.
fn block(bytes: &[u8]) -> [u8; BLOCK] {
    bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut last = [0; BLOCK];
        last.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
        last
    })
}

/// Length of the plain run at the beginning, and the byte that ends it.
pub(super) fn first_special(bytes: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    loop {
        let marks = special(block(bytes.get(at..)?));
        if marks != 0 {
            at += marks.trailing_zeros() as usize;
            return Some((at, *bytes.get(at)?));
        }
        at += BLOCK;
    }
}

/// Escapes of one letter and what they stand for. `b` and `f` are left out: they are rare, and a letter's lower
/// six bits are to tell it from the others.
const LETTERS: [(u8, u8); 6] =
    [(b'n', b'\n'), (b't', b'\t'), (b'r', b'\r'), (b'"', b'"'), (b'\\', b'\\'), (b'/', b'/')];

/// What an escape of one letter stands for; 0 for every other one.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < LETTERS.len() {
        table[LETTERS[n].0 as usize] = LETTERS[n].1;
        n += 1;
    }
    table
};

/// Appends a string without its escapes and returns its length with them and the quote at the end. `None`
/// for escapes by number, and for what is no JSON.
pub(super) fn unescape(string: &[u8], made: &mut Buffer) -> Option<usize> {
    // Whole windows are written, so there is one more.
    let out = made.room(string.len() + WINDOW);
    #[cfg(target_arch = "x86_64")]
    let (read, written) =
        if avx512::is_here() { avx512::unescape(string, out)? } else { by_block(string, out)? };
    #[cfg(not(target_arch = "x86_64"))]
    let (read, written) = by_block(string, out)?;
    made.keep(written);
    Some(read)
}

/// On any machine. Whole blocks are copied, with whatever lies behind the end of a plain run.
fn by_block(string: &[u8], out: &mut [u8]) -> Option<(usize, usize)> {
    let (mut from, mut to) = (0, 0);
    loop {
        let block = block(string.get(from..)?);
        *out.get_mut(to..)?.first_chunk_mut()? = block;
        let marks = special(block);
        if marks == 0 {
            (from, to) = (from + BLOCK, to + BLOCK);
            continue;
        }
        let plain = marks.trailing_zeros() as usize;
        (from, to) = (from + plain, to + plain);
        match *string.get(from)? {
            b'"' => return Some((from + 1, to)),
            b'\\' => {
                let letter = ESCAPES.get(usize::from(*string.get(from + 1)?)).copied().filter(|&b| b != 0)?;
                *out.get_mut(to)? = letter;
                (from, to) = (from + 2, to + 1);
            }
            _ => return None,
        }
    }
}

/// 64 bytes at a time, without a branch for each escape: how long plain runs are is not known in advance, and a
/// wrong guess costs as much as a window.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512 {
    use super::{LETTERS, WINDOW};
    use std::arch::x86_64::{
        __m512i, _mm512_cmpeq_epi8_mask, _mm512_cmplt_epu8_mask, _mm512_loadu_si512,
        _mm512_mask_cmpneq_epi8_mask, _mm512_mask_mov_epi8, _mm512_maskz_compress_epi8,
        _mm512_permutexvar_epi8, _mm512_set1_epi8, _mm512_storeu_si512,
    };

    /// The letters, and what they stand for, by their lower six bits.
    const TABLES: ([u8; WINDOW], [u8; WINDOW]) = {
        let (mut letters, mut meanings) = ([0; WINDOW], [0; WINDOW]);
        let mut n = 0;
        while n < LETTERS.len() {
            let (letter, meaning) = LETTERS[n];
            letters[letter as usize % WINDOW] = letter;
            meanings[letter as usize % WINDOW] = meaning;
            n += 1;
        }
        (letters, meanings)
    };

    /// True if this processor can.
    pub fn is_here() -> bool {
        is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
    }

    /// See [`super::unescape`]: bytes read and bytes written.
    pub fn unescape(string: &[u8], out: &mut [u8]) -> Option<(usize, usize)> {
        if !is_here() {
            return None;
        }
        // SAFETY: the processor has what the function needs.
        unsafe { windows(string, out) }
    }

    fn load(bytes: &[u8; WINDOW]) -> __m512i {
        // SAFETY: 64 bytes are there, and need no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,popcnt,bmi1,bmi2")]
    fn windows(string: &[u8], out: &mut [u8]) -> Option<(usize, usize)> {
        let (letters, meanings) = (load(&TABLES.0), load(&TABLES.1));
        let all = |byte: u8| _mm512_set1_epi8(byte as i8);
        let (backslash, quote, space) = (all(b'\\'), all(b'"'), all(b' '));
        let (mut from, mut to) = (0, 0);
        // 1 if the byte before this window makes an escape of its first.
        let mut carried = 0u64;
        loop {
            let rest = string.get(from..)?;
            let window = rest.first_chunk().copied().unwrap_or_else(|| {
                // Zeros are control characters, which end no string.
                let mut last = [0; WINDOW];
                last.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
                last
            });
            let bytes = load(&window);
            // In a run of backslashes every second one is escaped (Langdale and Lemire 2019, "Parsing gigabytes
            // of JSON per second", section 3.1.1).
            let backslashes = _mm512_cmpeq_epi8_mask(bytes, backslash) & !carried;
            const EVEN: u64 = 0x5555_5555_5555_5555;
            let follows = backslashes << 1 | carried;
            let odd_starts = backslashes & !EVEN & !follows;
            let (ends, over) = odd_starts.overflowing_add(backslashes);
            let escaped = (EVEN ^ (ends << 1)) & follows;
            carried = u64::from(over);
            let quotes = _mm512_cmpeq_epi8_mask(bytes, quote) & !escaped;
            // What lies beyond the first quote is no part of the string.
            let inside = quotes.wrapping_sub(1) & !quotes;
            let wrong = _mm512_mask_cmpneq_epi8_mask(escaped, _mm512_permutexvar_epi8(bytes, letters), bytes);
            if (wrong | _mm512_cmplt_epu8_mask(bytes, space)) & inside != 0 {
                return None;
            }
            let plain = _mm512_mask_mov_epi8(bytes, escaped, _mm512_permutexvar_epi8(bytes, meanings));
            let kept = inside & !(backslashes & !escaped);
            let kept_bytes = _mm512_maskz_compress_epi8(kept, plain);
            let room: &mut [u8; WINDOW] = out.get_mut(to..)?.first_chunk_mut()?;
            // SAFETY: there is room for 64 bytes, which need no alignment.
            unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), kept_bytes) };
            to += kept.count_ones() as usize;
            if quotes != 0 {
                return Some((from + quotes.trailing_zeros() as usize + 1, to));
            }
            from += WINDOW;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Unescape = fn(&[u8], &mut [u8]) -> Option<(usize, usize)>;

    fn result(unescape: Unescape, string: &[u8]) -> Option<(usize, Vec<u8>)> {
        let mut out = vec![0; string.len() + WINDOW];
        let (read, written) = unescape(string, &mut out)?;
        out.truncate(written);
        Some((read, out))
    }

    proptest! {
        /// Every way gives what serde_json gives, where it gives anything, and the ways agree.
        #[test]
        fn the_ways_agree(string in r#"([a-z ]{0,70}|\\{1,5}|\\[ntr"/u]|"|[\x00-\x20]|三)*"#) {
            let block = result(by_block, string.as_bytes());
            if let Some((read, text)) = &block {
                let json = format!("\"{}", &string[..*read]);
                prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap().into_bytes(), text.clone());
            }
            #[cfg(target_arch = "x86_64")]
            if avx512::is_here() {
                prop_assert_eq!(result(avx512::unescape, string.as_bytes()), block);
            }
        }
    }
}
