//! "Did you mean": one helper for keywords, options, presets, devices and units.

/// Optimal string alignment distance (Damerau 1964, adjacent swaps count one), case folded.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |r: &[usize], k: usize| r.get(k).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&last, j) + usize::from(ca != cb)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = last;
        last = row;
    }
    last.last().copied().unwrap_or(0)
}

/// The nearest candidate, if it is near: within a third of the longer word, at least one edit.
/// Ties go to the first candidate, so the answer never depends on a hash order.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Beyond this no candidate of ours is near; junk may be a megabyte long.
    if word.chars().nth(40).is_some() {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let edits = distance(word, candidate);
        let limit = (word.chars().count().max(candidate.chars().count()) / 3).max(1);
        if edits <= limit && best.is_none_or(|(e, _)| edits < e) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, name)| name).filter(|name| *name != word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        assert_eq!(nearest("bugdet", ["model", "budget", "batch"]), Some("budget"));
        assert_eq!(nearest("h100", ["H100", "H800"]), Some("H100"));
        assert_eq!(nearest("warmpu", ["warmup", "final"]), Some("warmup"));
        assert_eq!(nearest("zzz", ["model", "budget"]), None);
        assert_eq!(nearest("model", ["model"]), None);
    }
}
