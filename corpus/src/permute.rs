//! A keyed permutation of `0..n` that needs no memory: the order of samples.
//!
//! A balanced Feistel network over the smallest even number of bits that holds `n`, walked until it
//! lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 3). Sample
//! 10⁹ of a 10T-token corpus costs the same as sample 0.

/// Four rounds make a Feistel network of pseudorandom functions a strong pseudorandom permutation
/// (Luby and Rackoff 1988); two more cover that ours are plain mixers.
const ROUNDS: u64 = 6;

/// The image of `index` under the permutation of `0..n` named by `key`. `index` must be below `n`.
pub fn permute(key: u64, n: u64, index: u64) -> u64 {
    if n <= 1 {
        return 0;
    }
    debug_assert!(index < n, "{index} of {n}");
    let bits = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2);
    // The domain is below 4n, so this ends after fewer than four rounds on average; it always ends
    // because the walk follows a cycle that contains `index`.
    let mut value = index;
    loop {
        value = feistel(key, bits, value);
        if value < n {
            return value;
        }
    }
}

/// One pass over `2 · half` bits, `half` from 1 to 32.
fn feistel(key: u64, half: u32, value: u64) -> u64 {
    let mask = (1u64 << half) - 1;
    let (mut left, mut right) = (value >> half, value & mask);
    for round in 0..ROUNDS {
        let mixed = mix(right ^ mix(key.wrapping_add(round.wrapping_mul(GOLDEN))));
        (left, right) = (right, left ^ (mixed >> (u64::BITS - half)));
    }
    left << half | right
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function (Steele, Lea and Flood 2014; constants of variant 13 by Stafford).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_permutation(key: u64, n in 1u64..5000) {
            let mut seen = vec![false; n as usize];
            for index in 0..n {
                let image = permute(key, n, index) as usize;
                prop_assert!(!std::mem::replace(&mut seen[image], true), "{image} twice");
            }
        }

        #[test]
        fn stays_inside_large_domains(key: u64, n in 1u64.., index: u64) {
            prop_assert!(permute(key, n, index % n) < n);
        }
    }

    /// χ² of where neighbours land: 64 cells, 100,000 differences of consecutive images.
    #[test]
    fn neighbours_are_unrelated() {
        let n = 100_000;
        let mut cells = [0f64; 64];
        for index in 0..n {
            let (a, b) = (permute(7, n, index), permute(7, n, (index + 1) % n));
            cells[(((b + n - a) % n) * 64 / n) as usize] += 1.0;
        }
        let expected = n as f64 / 64.0;
        let chi2: f64 = cells.iter().map(|c| (c - expected) * (c - expected) / expected).sum();
        // 63 degrees of freedom: 99.99 % of random orders lie below 114.
        assert!(chi2 < 114.0, "{chi2}");
    }

    #[test]
    fn keys_give_unrelated_orders() {
        let n = 10_000;
        let same = (0..n).filter(|&i| permute(1, n, i) == permute(2, n, i)).count();
        // Fixed points of a random permutation: Poisson with mean 1.
        assert!(same < 10, "{same}");
    }
}
