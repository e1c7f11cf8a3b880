//! What happens to a document between being read and being encoded: normalised, judged alone, then
//! judged against the documents before it. Every document left out is counted under its reason, and
//! a report shows the first of each.

use crate::dedup::{Exact, Near, Signature, spaceless};
use icu_normalizer::ComposingNormalizerBorrowed;
use llmc_plan::data::{CleanSpec, Dedup, Script, Unicode};
use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Documents of each reason that a report shows.
const SHOWN: usize = 2;
/// Characters of a shown document.
const EXCERPT: usize = 60;

/// The text in the form asked for, where it has another one.
pub fn normalise(spec: &CleanSpec, text: &str) -> Option<String> {
    let normaliser = match spec.unicode {
        Unicode::Keep => return None,
        Unicode::Nfc => ComposingNormalizerBorrowed::new_nfc(),
        Unicode::Nfkc => ComposingNormalizerBorrowed::new_nfkc(),
    };
    (!normaliser.is_normalized(text)).then(|| normaliser.normalize(text).into_owned())
}

/// Why a document is left out, looking at it alone.
pub fn judge(spec: &CleanSpec, text: &str) -> Option<&'static str> {
    let length = text.len() as u64;
    if length < spec.min_bytes {
        return Some("too short");
    }
    if spec.max_bytes.is_some_and(|most| length > most) {
        return Some("too long");
    }
    if spec.min_letters > 0.0 || !spec.scripts.is_empty() {
        let (mut letters, mut han, mut latin, mut characters) = (0u64, 0u64, 0u64, 0u64);
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            characters += 1;
            letters += u64::from(c.is_alphabetic());
            han += u64::from(spaceless(c));
            latin += u64::from(c.is_ascii_alphabetic() || ('\u{C0}'..='\u{24F}').contains(&c));
        }
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        if share(letters, characters) < spec.min_letters {
            return Some("too few letters");
        }
        let of = |script: &Script| match script {
            Script::Latin => latin,
            Script::Han => han,
        };
        let wanted: u64 = spec.scripts.iter().map(of).sum();
        if !spec.scripts.is_empty() && share(wanted, letters) < 0.5 {
            return Some("another script");
        }
    }
    None
}

/// A reason as people read it; the manifest has the English one.
pub fn named(reason: &str) -> Said {
    let zh = match reason {
        "too short" => "过短",
        "too long" => "过长",
        "too few letters" => "字母过少",
        "another script" => "其他文字",
        "exact duplicate" => "完全重复",
        "near duplicate" => "近似重复",
        other => other,
    };
    Said { en: reason.to_owned(), zh: zh.to_owned() }
}

/// What the documents before a document say about it.
pub struct Seen {
    kind: Dedup,
    exact: Exact,
    near: Near,
}

impl Seen {
    /// None seen yet.
    pub fn new(spec: &CleanSpec) -> Self {
        Self { kind: spec.dedup, exact: Exact::default(), near: Near::new(spec.similarity) }
    }

    /// Why a document is left out; otherwise it is remembered.
    pub fn judge(&mut self, prints: Prints) -> Option<&'static str> {
        if prints.exact.is_some_and(|hash| !self.exact.admit(hash)) {
            return Some("exact duplicate");
        }
        let near = prints.near.and_then(|signature| self.near.admit(*signature));
        near.map(|_| "near duplicate")
    }

    /// What [`Seen::judge`] needs of a text; the costly part, done on all cores.
    pub fn prints(kind: Dedup, text: &str) -> Prints {
        Prints {
            exact: (kind != Dedup::Off).then(|| Exact::hash(text)),
            near: if kind == Dedup::Near { Signature::of(text).map(Box::new) } else { None },
        }
    }

    /// What is compared.
    pub fn kind(&self) -> Dedup {
        self.kind
    }
}

/// Fingerprints of a document.
#[derive(Default)]
pub struct Prints {
    exact: Option<u128>,
    near: Option<Box<Signature>>,
}

/// Documents left out, by reason.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Dropped(BTreeMap<String, Drops>);

#[derive(Clone, Default, Serialize, Deserialize)]
struct Drops {
    documents: u64,
    bytes: u64,
    /// Beginnings of the first ones.
    shown: Vec<String>,
}

impl Dropped {
    /// Counts a document.
    pub fn add(&mut self, reason: &str, text: &str) {
        let drops = self.0.entry(reason.to_owned()).or_default();
        drops.documents += 1;
        drops.bytes += text.len() as u64;
        if drops.shown.len() < SHOWN {
            drops.shown.push(text.chars().take(EXCERPT).collect());
        }
    }

    /// Adds what came after.
    pub fn append(&mut self, other: Dropped) {
        for (reason, more) in other.0 {
            let drops = self.0.entry(reason).or_default();
            drops.documents += more.documents;
            drops.bytes += more.bytes;
            let room = SHOWN.saturating_sub(drops.shown.len());
            drops.shown.extend(more.shown.into_iter().take(room));
        }
    }

    /// Documents by reason.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(reason, drops)| (reason.clone(), drops.documents)).collect()
    }

    /// One sentence for each reason, with its first documents.
    pub fn sentences(&self, source: &str) -> Vec<Said> {
        let sentence = |(reason, drops): (&String, &Drops)| {
            let shown: String = drops.shown.iter().map(|text| format!("\n  {text:?}")).collect();
            say!(
                "source `{source}`: {documents} documents, {bytes} bytes, left out as {reason}, such as{shown}",
                "来源 `{source}`：{documents} 个文档、{bytes} 字节因{reason}被略去，例如{shown}",
                documents = drops.documents,
                bytes = drops.bytes,
                reason = named(reason)
            )
        };
        self.0.iter().map(sentence).collect()
    }
}
