//! `llmc-data tokenizer report`: how well a tokenizer fits a corpus, and what it must not contain.

use crate::Format;
use llmc_corpus::error::Result;
use llmc_corpus::folder::read_manifest;
use llmc_corpus::indexed::Indexed;
use llmc_corpus::tokenizer::Encoder;
use llmc_plan::lang::{Lang, Said};
use llmc_plan::say;
use serde::Serialize;
use std::path::Path;

/// Longest entries shown.
const LONGEST: usize = 20;
/// Tokens read at a time.
const READ: usize = 1 << 16;
/// Words from which on an entry is a piece of some text, not of a language.
const SENTENCE_WORDS: usize = 4;
/// Letters and digits from which on a run without spaces may be a key; the entropy of random base 64
/// at this length is far above that of words.
const KEY_LENGTH: usize = 20;

/// The report.
#[derive(Serialize)]
pub struct Report {
    vocab: u32,
    sources: Vec<Source>,
    /// Entries that no training document uses.
    unused: u64,
    /// Their share, 0 to 1.
    unused_share: f64,
    longest: Vec<Entry>,
    leaks: Vec<Leak>,
}

#[derive(Serialize)]
struct Source {
    name: String,
    tokens: u64,
    bytes_per_token: f64,
}

#[derive(Serialize)]
struct Entry {
    id: u32,
    bytes: usize,
    count: u64,
    text: String,
}

#[derive(Serialize)]
struct Leak {
    id: u32,
    /// What it looks like.
    kind: &'static str,
    text: String,
}

/// Reads every training token once.
///
/// # Errors
/// No corpus there, a damaged shard.
pub fn run(dir: &Path, format: Format, lang: Lang) -> Result<()> {
    let manifest = read_manifest(dir)?;
    let path = dir.join(&manifest.tokenizer.file);
    let encoder = Encoder::of_corpus(&path, manifest.tokenizer.end_of_document)?;
    let mut counts = vec![0u64; manifest.tokenizer.vocab as usize];
    let mut buffer = vec![0; READ];
    for shard in manifest.sources.iter().flat_map(|source| &source.train.shards) {
        let shard = Indexed::open(&dir.join(shard), manifest.tokenizer.vocab)?;
        for from in (0..shard.tokens()).step_by(READ) {
            let length = (shard.tokens() - from).min(READ as u64) as usize;
            let ids = buffer.get_mut(..length).unwrap_or_default();
            shard.read(from, ids)?;
            for &id in ids.iter() {
                if let Some(count) = counts.get_mut(id as usize) {
                    *count += 1;
                }
            }
        }
    }
    let mut entries: Vec<Entry> = (0..manifest.tokenizer.vocab)
        .zip(&counts)
        .filter_map(|(id, &count)| {
            let text = encoder.decode(&[id]).ok()?;
            Some(Entry { id, bytes: text.len(), count, text })
        })
        .collect();
    let leaks: Vec<Leak> = entries
        .iter()
        .filter_map(|entry| Some(Leak { id: entry.id, kind: leak(&entry.text)?, text: entry.text.clone() }))
        .collect();
    entries.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.id.cmp(&b.id)));
    entries.truncate(LONGEST);
    let unused = counts.iter().filter(|&&count| count == 0).count() as u64;
    let report = Report {
        vocab: manifest.tokenizer.vocab,
        sources: manifest
            .sources
            .iter()
            .map(|s| Source {
                name: s.name.clone(),
                tokens: s.train.tokens,
                bytes_per_token: s.train.bytes_per_token,
            })
            .collect(),
        unused,
        unused_share: unused as f64 / counts.len().max(1) as f64,
        longest: entries,
        leaks,
    };
    super::print(&report, format, |report| human(report, lang))
}

/// What an entry gives away, if anything: it was so frequent in the training text that it became one
/// token, and models repeat it.
fn leak(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let mail = |word: &str| {
        word.split_once('@').is_some_and(|(user, host)| {
            let part = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c));
            !user.is_empty() && host.contains('.') && part(user) && part(host)
        })
    };
    if text.split_whitespace().any(mail) {
        return Some("an e-mail address");
    }
    if text.split_whitespace().count() >= SENTENCE_WORDS {
        return Some("a sentence");
    }
    let digit = text.chars().filter(char::is_ascii_digit).count();
    let letter = text.chars().filter(char::is_ascii_alphabetic).count();
    let key = |c: char| c.is_ascii_alphanumeric() || "+/=_-".contains(c);
    if text.len() >= KEY_LENGTH && text.chars().all(key) && digit >= 4 && letter >= 4 {
        return Some("a key");
    }
    (text.starts_with("-----BEGIN") || text.starts_with("AKIA") || text.starts_with("ghp_"))
        .then_some("a key")
}

fn human(report: &Report, lang: Lang) -> String {
    let mut all = vec![say!(
        "{entries} entries, {unused} never used ({share:.2} %)\n\n",
        "{entries} 个词条，{unused} 个从未使用（{share:.2} %）\n\n",
        entries = report.vocab,
        unused = report.unused,
        share = 100.0 * report.unused_share
    )];
    all.extend(report.sources.iter().map(|Source { name, tokens, bytes_per_token }| {
        say!(
            "{name:<20} {tokens:>14} tokens {bytes_per_token:>8.3} bytes a token\n",
            "{name:<20} {tokens:>14} 词元 每词元 {bytes_per_token:>8.3} 字节\n"
        )
    }));
    all.push(say!("\nlongest entries\n", "\n最长的词条\n"));
    all.extend(report.longest.iter().map(|Entry { id, bytes, count, text }| {
        say!(
            "{id:>8} {bytes:>4} bytes {count:>10} times  {text:?}\n",
            "{id:>8} {bytes:>4} 字节 {count:>10} 次  {text:?}\n"
        )
    }));
    if report.leaks.is_empty() {
        all.push(say!(
            "\nno entry looks like an e-mail address, a key or a sentence\n",
            "\n没有词条像是电子邮件地址、密钥或句子\n"
        ));
    }
    all.extend(report.leaks.iter().map(|Leak { id, kind, text }| {
        let zh = match *kind {
            "an e-mail address" => "电子邮件地址",
            "a sentence" => "句子",
            _ => "密钥",
        };
        let kind = Said { en: (*kind).to_owned(), zh: zh.to_owned() };
        say!(
            "\n{id} looks like {kind}: {text:?}; remove its source or train on cleaner text",
            "\n{id} 像是{kind}：{text:?}；请去掉其来源，或用更干净的文本训练",
            kind
        )
    }));
    Said::join(&all, "", "").text(lang).trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::leak;

    #[test]
    fn leaks_by_kind() {
        for (text, kind) in [
            (" jane.doe@example.com", Some("an e-mail address")),
            (" the quick brown fox", Some("a sentence")),
            ("sk9f8a7b6c5d4e3f2a1b0c", Some("a key")),
            (" internationalisation", None),
            ("@property", None),
            ("--------------------------------", None),
            ("00000000000000000000000", None),
        ] {
            assert_eq!(leak(text), kind, "{text}");
        }
    }
}
