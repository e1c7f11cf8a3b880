//! Reads `data.json` and checks everything that can be known without opening a source.

use crate::error::{Error, Result};
use llmc_plan::data::{DATA_FORMAT_VERSION, DataSpec, Packing, SourceSpec, TokenizerKind, readable_version};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Byte-level BPE starts from the 256 byte values.
const BYTE_ALPHABET: usize = 256;
/// The trainer counts pairs in `i32`; a quarter of that in bytes cannot overflow it.
const MAX_SAMPLE_BYTES: u64 = 1 << 29;
/// Ids are stored as `i32` at most (Megatron's dtype code 4).
const MAX_VOCAB: u32 = 1 << 30;

/// Reads and checks a specification. `root` in the result is absolute or relative to the caller's
/// working folder, no longer to the file.
///
/// # Errors
/// Unreadable file, invalid JSON (line and column), unknown major version, or a contradiction.
pub fn load(path: &Path) -> Result<DataSpec> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let in_file = |message: String| Error::Spec { file: path.to_owned(), message };
    let mut spec: DataSpec = serde_json::from_str(&text).map_err(|e| in_file(e.to_string()))?;
    check(&spec).map_err(|e| match e {
        Error::Spec { message, .. } => in_file(message),
        other => other,
    })?;
    let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = if spec.root == "." { base.to_owned() } else { base.join(&spec.root) };
    spec.root = root.to_string_lossy().into_owned();
    Ok(spec)
}

/// Checks a specification that came from anywhere.
///
/// # Errors
/// The first contradiction found, with the field's name.
pub fn check(spec: &DataSpec) -> Result<()> {
    if !readable_version(&spec.format_version) {
        return Err(Error::spec(format!(
            "format_version is {:?}, this build reads {DATA_FORMAT_VERSION}: write the file with the same \
             version of llmc that reads it",
            spec.format_version
        )));
    }
    if spec.context == 0 {
        return Err(Error::spec("context is 0: give the tokens of a sample, such as 512"));
    }
    if spec.sources.is_empty() {
        return Err(Error::spec("sources is empty: name at least one, with its globs"));
    }
    if spec.packing == Packing::Buckets && !spec.document_mask {
        return Err(Error::spec(
            "packing buckets puts several documents in a sample that must not see each other: set document_mask \
             to true",
        ));
    }
    let mut names = BTreeSet::new();
    for source in &spec.sources {
        check_source(source)?;
        if source.in_place && spec.tokenizer.import.is_none() {
            return Err(Error::spec(format!(
                "source `{}` is in_place, so its ids are of some tokenizer: name that one as tokenizer.import",
                source.name
            )));
        }
        if !names.insert(source.name.as_str()) {
            return Err(Error::spec(format!("two sources are named `{}`: rename one", source.name)));
        }
    }
    if !(0.0..=0.5).contains(&spec.validation.fraction) {
        return Err(Error::spec(format!(
            "validation.fraction is {}: give a share from 0 to 0.5",
            spec.validation.fraction
        )));
    }
    let (window, stride) = windows(spec);
    if window > spec.context || stride > window {
        return Err(Error::spec(format!(
            "validation has windows of {window} tokens every {stride}, and the context is {}: make the stride at most \
             the window, and the window at most the context",
            spec.context
        )));
    }
    if !(0.0..=10.0).contains(&spec.mix.temperature) {
        return Err(Error::spec(format!(
            "mix.temperature is {}: the exponent lies from 0 (uniform) to 10, and 1 is proportional to size",
            spec.mix.temperature
        )));
    }
    check_dynamic(spec)?;
    let share = |field: &str, value: f64| match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(Error::spec(format!("clean.{field} is {value}: give a share from 0 to 1"))),
    };
    share("similarity", spec.clean.similarity)?;
    share("min_letters", spec.clean.min_letters)?;
    check_tokenizer(spec)
}

/// A mixture that follows losses.
fn check_dynamic(spec: &DataSpec) -> Result<()> {
    let Some(rule) = &spec.mix.dynamic else { return Ok(()) };
    let refuse = |message: String| Err(Error::spec(format!("mix.dynamic {message}")));
    if spec.sources.len() < 2 {
        return refuse("needs several sources: one alone has every sample".into());
    }
    if !(rule.rate >= 0.0 && rule.rate <= 100.0) {
        return refuse(format!("has rate {}: give 0 to 100", rule.rate));
    }
    if !(0.0..=1.0).contains(&rule.smoothing) {
        return refuse(format!("has smoothing {}: give a share from 0 to 1", rule.smoothing));
    }
    for (name, loss) in &rule.references {
        if !spec.sources.iter().any(|source| source.name == *name) {
            return refuse(format!("has a reference for `{name}`, which is no source"));
        }
        if !(loss.is_finite() && *loss >= 0.0) {
            return refuse(format!("has reference {loss} for `{name}`: give nats a token, 0 or more"));
        }
    }
    Ok(())
}

/// Tokens of a validation window, and from one to the next.
pub fn windows(spec: &DataSpec) -> (u32, u32) {
    let given = |n: u32, otherwise: u32| if n == 0 { otherwise } else { n };
    let window = given(spec.validation.window, spec.context);
    (window, given(spec.validation.stride, window))
}

fn check_tokenizer(spec: &DataSpec) -> Result<()> {
    let tokenizer = &spec.tokenizer;
    let TokenizerKind::Bpe = tokenizer.kind;
    let Some(end) = tokenizer.special_tokens.first() else {
        return Err(Error::spec(
            "tokenizer.special_tokens is empty: the first one ends every document, for instance <|endoftext|>",
        ));
    };
    if let Some(empty) = tokenizer.special_tokens.iter().position(String::is_empty) {
        return Err(Error::spec(format!("tokenizer.special_tokens[{empty}] is the empty string")));
    }
    if tokenizer.special_tokens.iter().collect::<BTreeSet<_>>().len() != tokenizer.special_tokens.len() {
        return Err(Error::spec(format!("tokenizer.special_tokens, from {end:?} on, holds one token twice")));
    }
    if tokenizer.vocab > MAX_VOCAB {
        return Err(Error::spec(format!("tokenizer.vocab is {}: at most {MAX_VOCAB}", tokenizer.vocab)));
    }
    if tokenizer.import.is_some() {
        return Ok(());
    }
    let least = BYTE_ALPHABET + tokenizer.special_tokens.len();
    if (tokenizer.vocab as usize) < least {
        return Err(Error::spec(format!(
            "tokenizer.vocab is {}: byte-level BPE needs at least {least} entries, 256 bytes and {} special tokens",
            tokenizer.vocab,
            tokenizer.special_tokens.len()
        )));
    }
    if !tokenizer.byte_fallback {
        return Err(Error::spec(
            "tokenizer.byte_fallback is false: byte-level BPE always holds the 256 bytes; write true",
        ));
    }
    if tokenizer.sample_bytes == 0 || tokenizer.sample_bytes > MAX_SAMPLE_BYTES {
        return Err(Error::spec(format!(
            "tokenizer.sample_bytes is {}: give 1 to {MAX_SAMPLE_BYTES} bytes of text to train on",
            tokenizer.sample_bytes
        )));
    }
    Ok(())
}

fn check_source(source: &SourceSpec) -> Result<()> {
    let name = &source.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(plain) || name.len() > 64 {
        return Err(Error::spec(format!(
            "source name {name:?}: use 1 to 64 letters, digits, `_` and `-`, it becomes a file name"
        )));
    }
    if source.globs.is_empty() {
        return Err(Error::spec(format!("source `{name}` has no globs: give at least one pattern")));
    }
    let positive = |field: &str, value: Option<f64>, most: f64| match value {
        Some(v) if !(v.is_finite() && v > 0.0 && v <= most) => Err(Error::spec(format!(
            "source `{name}`: {field} is {v}: give a number above 0 and at most {most}"
        ))),
        _ => Ok(()),
    };
    positive("weight", source.weight, 1e6)?;
    positive("importance", source.importance, 1e6)?;
    positive("min_share", source.min_share, 1.0)?;
    positive("max_share", source.max_share, 1.0)?;
    positive("max_epochs", source.max_epochs, 1e6)?;
    if let (Some(min), Some(max)) = (source.min_share, source.max_share)
        && min > max
    {
        return Err(Error::spec(format!("source `{name}`: min_share {min} exceeds max_share {max}")));
    }
    Ok(())
}

/// The folder globs start from.
pub fn root(spec: &DataSpec) -> PathBuf {
    PathBuf::from(&spec.root)
}
