//! Did you mean: the names closest to a misspelt one.

/// Longer names are not misspelt, they are something else; the bound keeps the cost small for any input.
const LONGEST: usize = 48;

/// The candidates within a third of the longer name's length in edits, nearest first, equally near ones in their own
/// order. Case is ignored; a swap of neighbours is one edit (optimal string alignment: Boytsov, "Indexing methods for
/// approximate dictionary searching", 2011, section 2.2).
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let fold = |text: &str| text.chars().flat_map(char::to_lowercase).take(LONGEST + 1).collect::<Vec<_>>();
    let name = fold(name);
    if name.len() > LONGEST {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let folded = fold(candidate);
            let allowed = (name.len().max(folded.len()) / 3).max(1);
            let distance = edits(&name, &folded);
            // A one-letter name is one edit away from every other one.
            (distance <= allowed && distance < name.len().max(folded.len())).then_some((distance, candidate))
        })
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    near.dedup();
    near.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours from `a` to `b`.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best =
                (at(&last, j) + usize::from(from != to)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(at(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::nearest;
    use crate::Keyword;

    fn keyword(name: &str) -> Vec<&'static str> {
        nearest(name, Keyword::ALL.iter().map(|keyword| keyword.text()))
    }

    #[test]
    fn misspelt_keywords_are_found() {
        assert_eq!(keyword("budgett"), ["budget"]);
        assert_eq!(keyword("mdoel"), ["model"]);
        assert_eq!(keyword("Optimiser"), ["optimizer"]);
        assert_eq!(keyword("tokeniser"), ["tokenizer"]);
        assert_eq!(keyword("rl"), ["lr"]);
        assert_eq!(keyword("xyzzy"), [""; 0]);
        assert_eq!(keyword(""), [""; 0]);
        assert_eq!(keyword(&"model".repeat(100_000)), [""; 0]);
    }

    #[test]
    fn nearest_comes_first() {
        assert_eq!(nearest("h20", ["H200", "H800", "H20", "A100"]), ["H20", "H200"]);
        assert_eq!(nearest("llama7", ["llama", "llama2", "gpt"]), ["llama", "llama2"]);
        assert_eq!(nearest("b", ["a", "c"]), [""; 0]);
    }
}
