//! Duplicates among documents: exact by a 128-bit hash, near by MinHash and locality-sensitive
//! hashing. The first of several stays; order, not threads, decides which.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use twox_hash::XxHash3_128;

/// Words in a shingle, as in datatrove's and FineWeb's deduplication (Penedo et al. 2024, arXiv
/// 2406.17557, section 3.4).
const SHINGLE: usize = 5;
/// 18 bands of 7 find a pair of similarity 0.8 with probability 1 − (1 − 0.8⁷)¹⁸ = 0.986 (Leskovec,
/// Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.2), one of 0.5 with 0.13.
const BANDS: usize = 18;
const ROWS: usize = 7;
const SLOTS: usize = BANDS * ROWS;
/// Every shingle is hashed this often, so that short documents fill the slots too.
const REPEATS: u64 = 8;
/// A candidate whose estimated similarity is this far below the threshold is none: three standard
/// deviations, √(0.8·0.2/126) each.
const MARGIN: f64 = 0.107;
/// Documents of one band's bucket that are compared.
const CHAIN: usize = 16;

/// Already a hash.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let low = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        self.0 = self.0.rotate_left(32) ^ low;
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A map whose keys are hashes already.
pub type ByHash<K, V> = HashMap<K, V, BuildHasherDefault<Identity>>;

/// Texts seen before, by content: 16 to 32 bytes each.
///
/// A table with linear probing, entered at the hash's highest bits, so that a table twice as large is
/// filled in the order of the old one, from end to end of both.
pub struct Exact {
    /// 2^k entries, at most two thirds of them used; 0 is a free one.
    table: Vec<u128>,
    used: usize,
}

impl Default for Exact {
    fn default() -> Self {
        Self { table: vec![0; 1 << 10], used: 0 }
    }
}

/// Entries that are looked at together: memory answers many questions in the time of one.
const TOGETHER: usize = 32;

impl Exact {
    /// xxh3-128 of a text, never 0.
    pub fn hash(text: &str) -> u128 {
        XxHash3_128::oneshot(text.as_bytes()).max(1)
    }

    /// True if the text of this hash is new.
    pub fn admit(&mut self, hash: u128) -> bool {
        if 3 * (self.used + 1) > 2 * self.table.len() {
            self.grow(2 * self.table.len());
        }
        let mut place = self.place(hash);
        loop {
            match self.table.get_mut(place) {
                Some(entry) if *entry == hash => return false,
                Some(entry) if *entry == 0 => {
                    *entry = hash;
                    self.used += 1;
                    return true;
                }
                Some(_) => place += 1,
                None => place = 0,
            }
        }
    }

    /// As [`Exact::admit`] for one after another; `new` is told of each.
    pub fn admit_all(&mut self, hashes: &[u128], mut new: impl FnMut(usize, bool)) {
        // All may be new: growing once is cheaper than again and again.
        let needed = (3 * (self.used + hashes.len())).div_ceil(2).next_power_of_two();
        if needed > self.table.len() {
            self.grow(needed);
        }
        for (chunk, hashes) in hashes.chunks(TOGETHER).enumerate() {
            // Nothing waits for these reads, so they go on at once; what they bring in is then near.
            let touched =
                hashes.iter().fold(0, |sum, &hash| sum ^ self.table.get(self.place(hash)).map_or(0, |&e| e));
            std::hint::black_box(touched);
            for (n, &hash) in hashes.iter().enumerate() {
                new(chunk * TOGETHER + n, self.admit(hash));
            }
        }
    }

    fn place(&self, hash: u128) -> usize {
        ((hash >> 64) as u64 >> (u64::BITS - self.table.len().trailing_zeros())) as usize
    }

    fn grow(&mut self, to: usize) {
        let old = std::mem::replace(&mut self.table, vec![0; to]);
        self.used = 0;
        for hash in old.into_iter().filter(|&hash| hash != 0) {
            self.admit(hash);
        }
    }
}

/// Which text is the first of each hash that was seen again; `copies` are the texts that were not new.
pub fn firsts(hashes: &[u128], copies: &[usize]) -> ByHash<u128, usize> {
    let mut wanted: ByHash<u128, usize> =
        copies.iter().filter_map(|&n| Some((*hashes.get(n)?, usize::MAX))).collect();
    if wanted.is_empty() {
        return wanted;
    }
    // Most texts have no copy, which one bit tells without a look into the map.
    let bits = (8 * wanted.len()).next_power_of_two().max(u64::BITS as usize);
    let place = |hash: u128| ((hash >> 64) as usize % bits / 64, 1u64 << (hash >> 64 & 63));
    let mut filter = vec![0u64; bits / 64];
    for (word, bit) in wanted.keys().map(|&hash| place(hash)) {
        filter.get_mut(word).into_iter().for_each(|entry| *entry |= bit);
    }
    for (n, &hash) in hashes.iter().enumerate() {
        let (word, bit) = place(hash);
        if filter.get(word).is_some_and(|entry| entry & bit != 0)
            && let Some(first) = wanted.get_mut(&hash)
        {
            *first = n.min(*first);
        }
    }
    wanted
}

/// The MinHash signature of a text. Two signatures agree in a slot with the probability that is the
/// Jaccard similarity of the texts' sets of shingles (Broder 1997).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature([u32; SLOTS]);

impl Signature {
    /// Of the 5-word shingles of a text. A word is a run of letters and digits, a letter of a script
    /// without spaces is a word; case and marks do not count. `None` for a text without words.
    ///
    /// One permutation, split into slots (Li, Owen and Zhang 2012, arXiv 1208.1259), whose empty
    /// slots borrow from others (Shrivastava 2017, "Optimal densification", arXiv 1703.04664).
    pub fn of(text: &str) -> Option<Self> {
        let mut slots = [u32::MAX; SLOTS];
        let mut window = [0u64; SHINGLE];
        let mut words = 0usize;
        for_each_word(text, |word| {
            window.rotate_left(1);
            if let Some(last) = window.last_mut() {
                *last = word;
            }
            words += 1;
            if words >= SHINGLE {
                insert(&mut slots, &window);
            }
        });
        if words == 0 {
            return None;
        }
        if words < SHINGLE {
            insert(&mut slots, &window);
        }
        let sparse = slots;
        for (index, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| **slot == u32::MAX) {
            let filled = (0u64..).find_map(|attempt| {
                let other = (mix((index as u64) << 32 | attempt) >> 32) as usize % SLOTS;
                sparse.get(other).copied().filter(|&value| value != u32::MAX)
            });
            *slot = filled.unwrap_or(u32::MAX);
        }
        Some(Self(slots))
    }

    /// Estimated Jaccard similarity, 0 to 1.
    pub fn similarity(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count() as f64 / SLOTS as f64
    }

    fn bands(&self) -> impl Iterator<Item = u64> {
        self.0
            .chunks(ROWS)
            .enumerate()
            .map(|(band, rows)| rows.iter().fold(mix(band as u64), |hash, &row| mix(hash ^ u64::from(row))))
    }
}

fn insert(slots: &mut [u32; SLOTS], window: &[u64; SHINGLE]) {
    let shingle = window.iter().fold(0u64, |hash, word| (hash ^ word).wrapping_mul(PRIME).rotate_left(29));
    for repeat in 0..REPEATS {
        let hash = mix(shingle ^ repeat.wrapping_mul(PRIME));
        let slot = ((hash >> 32) * SLOTS as u64) >> 32;
        if let Some(slot) = slots.get_mut(slot as usize) {
            // The largest value marks an empty slot.
            *slot = (*slot).min((hash as u32).min(u32::MAX - 1));
        }
    }
}

const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;

/// Murmur3's finaliser (Appleby 2011).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

/// Hashes of the words of a text.
fn for_each_word(text: &str, mut each: impl FnMut(u64)) {
    let mut word = 0u64;
    let mut end = |word: &mut u64| {
        if *word != 0 {
            each(std::mem::take(word));
        }
    };
    for c in text.chars() {
        // Never zero, which means "no word yet".
        let add = |word: u64, code: u64| (word ^ code).wrapping_mul(PRIME).rotate_left(23) | 1;
        if c.is_ascii() {
            if c.is_ascii_alphanumeric() {
                word = add(word, u64::from(c.to_ascii_lowercase()));
            } else {
                end(&mut word);
            }
        } else if spaceless(c) {
            end(&mut word);
            word = add(0, u64::from(c));
            end(&mut word);
        } else if c.is_alphanumeric() {
            word = add(word, u64::from(c));
        } else {
            end(&mut word);
        }
    }
    end(&mut word);
}

/// Letters of scripts that put no space between words: Thai, Lao, Khmer, Burmese, kana, Han.
pub fn spaceless(c: char) -> bool {
    matches!(u32::from(c), 0x0E01..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3005..=0x3007
        | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

/// Signatures seen before, found by their bands.
pub struct Near {
    threshold: f64,
    kept: Vec<Signature>,
    /// Head of the chain of kept documents with this band.
    heads: ByHash<u64, u32>,
    /// Document, and the next link of its chain.
    links: Vec<(u32, u32)>,
}

const NO_LINK: u32 = u32::MAX;

impl Near {
    /// Finds texts whose similarity is about `threshold`, 0 to 1, or above.
    pub fn new(threshold: f64) -> Self {
        Self { threshold, kept: Vec::new(), heads: ByHash::default(), links: Vec::new() }
    }

    /// The number, in order of admission, of a text like this one; if there is none, the text is kept.
    pub fn admit(&mut self, signature: Signature) -> Option<usize> {
        let bands: Vec<u64> = signature.bands().collect();
        for band in &bands {
            let mut link = self.heads.get(band).copied().unwrap_or(NO_LINK);
            for _ in 0..CHAIN {
                let Some(&(document, next)) = self.links.get(link as usize) else { break };
                let similar = |other: &Signature| other.similarity(&signature) >= self.threshold - MARGIN;
                if self.kept.get(document as usize).is_some_and(similar) {
                    return Some(document as usize);
                }
                link = next;
            }
        }
        let document = self.kept.len() as u32;
        for band in bands {
            let head = self.heads.entry(band).or_insert(NO_LINK);
            self.links.push((document, *head));
            *head = (self.links.len() - 1) as u32;
        }
        self.kept.push(signature);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A text of words numbered by a generator.
    fn words(seed: u64, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("w{}", mix(seed << 32 | n as u64) % 50_000)).collect()
    }

    /// Similarity of the true sets of shingles.
    fn jaccard(a: &[String], b: &[String]) -> f64 {
        let set = |words: &[String]| words.windows(SHINGLE).map(<[String]>::to_vec).collect::<HashSet<_>>();
        let (a, b) = (set(a), set(b));
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    /// Replaces as many words, evenly spread, as bring the similarity to about `target`: each takes five
    /// of n shingles away and brings five new ones, so (n − 5k) / (n + 5k) is to be the target.
    fn edited(original: &[String], target: f64) -> Vec<String> {
        let mut copy = original.to_vec();
        let count = (original.len() as f64 * (1.0 - target) / (1.0 + target) / 5.0) as usize;
        for n in 0..count.max(1) {
            copy[(2 * n + 1) * original.len() / (2 * count.max(1))] = format!("new{n}");
        }
        copy
    }

    #[test]
    fn the_estimate_is_near_the_truth() {
        for (length, target) in [(60, 0.8), (300, 0.8), (2000, 0.8), (300, 0.5), (300, 0.3)] {
            let (mut sum, mut truth) = (0.0, 0.0);
            for seed in 0..40 {
                let a = words(seed, length);
                let b = edited(&a, target);
                truth += jaccard(&a, &b) / 40.0;
                let [a, b] = [a, b].map(|w| Signature::of(&w.join(" ")).unwrap());
                sum += a.similarity(&b) / 40.0;
            }
            assert!((sum - truth).abs() < 0.03, "{length} words at {target}: {sum} for {truth}");
        }
    }

    /// The band that the bar speaks of: copies of Jaccard similarity 0.80 to 0.82, of documents of 50 to
    /// 750 words, each beside originals that are like nothing else.
    #[test]
    fn planted_duplicates_are_found_and_others_are_not() {
        let mut near = Near::new(0.8);
        let (mut found, mut wrong, mut planted) = (0, 0, 0);
        for seed in 0..1500 {
            let original = words(seed, 50 + 7 * (seed as usize % 100));
            // More words are replaced until the similarity is in the band, if it can be.
            let copy = (78..90).rev().map(|percent| edited(&original, f64::from(percent) / 100.0));
            let Some(copy) = copy.into_iter().find(|c| (0.80..=0.82).contains(&jaccard(&original, c))) else {
                continue;
            };
            wrong += usize::from(near.admit(Signature::of(&original.join(" ")).unwrap()).is_some());
            planted += 1;
            found += usize::from(near.admit(Signature::of(&copy.join(" ")).unwrap()).is_some());
        }
        println!("{found} of {planted} found, {wrong} of as many others taken for copies");
        assert!(planted > 700, "{planted}");
        assert_eq!(wrong, 0);
        assert!(found * 100 >= 95 * planted, "{found} of {planted}");
    }

    #[test]
    fn scripts_without_spaces_have_shingles_and_marks_do_not_count() {
        let a = Signature::of("床前明月光，疑是地上霜。举头望明月，低头思故乡。").unwrap();
        let b = Signature::of("床前明月光 疑是地上霜 举头望明月 低头思故乡").unwrap();
        assert_eq!(a, b);
        assert!(
            a.similarity(&Signature::of("白日依山尽，黄河入海流。欲穷千里目，更上一层楼。").unwrap()) < 0.1
        );
        assert_eq!(Signature::of("One two THREE"), Signature::of("one, two: three!"));
        assert_eq!(Signature::of(" .,! "), None);
    }

    #[test]
    fn exact_copies_are_found_once_seen() {
        let mut exact = Exact::default();
        let admitted: Vec<bool> = ["a", "b", "a", "", "", "b"].map(|t| exact.admit(Exact::hash(t))).to_vec();
        assert_eq!(admitted, [true, true, false, true, false, false]);
    }

    #[test]
    fn firsts_come_before_their_copies() {
        let hashes = [7u128 << 64 | 1, 2, 7 << 64 | 1, 3 << 90, 2, 5];
        let found = firsts(&hashes, &[2, 4]);
        assert_eq!((found.len(), found[&hashes[0]], found[&2]), (2, 0, 1));
        assert!(firsts(&hashes, &[]).is_empty());
    }

    /// Against the standard library's set, through many sizes of the table and past its end.
    #[test]
    fn the_table_is_a_set() {
        let (mut exact, mut set) = (Exact::default(), HashSet::new());
        let hash = |n: u64| {
            let high = if n.is_multiple_of(3) { u64::MAX - n % 50 } else { mix(n % 40_000) };
            u128::from(high) << 64 | u128::from(n % 7 + 1)
        };
        let hashes: Vec<u128> = (0..100_000).map(hash).collect();
        exact.admit_all(&hashes, |n, new| assert_eq!(new, set.insert(hashes[n]), "{n}"));
        assert_eq!(exact.used, set.len());
    }
}
