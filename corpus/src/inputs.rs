//! Which files a specification names, and whether they changed since the last build.

use crate::error::{Error, Result};
use llmc_plan::data::DataSpec;
use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use twox_hash::XxHash3_128;

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where to open it.
    pub path: PathBuf,
    /// Name relative to the root, `/` between parts: the sort key, the same on every machine.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time, nanoseconds since 1970; 0 where the system has none.
    pub modified: u128,
    /// All its documents are validation text.
    pub validation: bool,
    /// What the index of a WebDataset says of it.
    pub listed: Option<Listed>,
}

/// A tar in an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Samples it is to have: members with the same name up to its first dot.
    pub samples: u64,
    /// xxh3-128 of the file, hexadecimal, where one of ours wrote the index.
    pub xxh3: Option<String>,
}

/// The files of every source, in reading order.
///
/// # Errors
/// A malformed pattern, a pattern or source that matches no file, a folder that cannot be listed.
pub fn expand(spec: &DataSpec) -> Result<Vec<Vec<Input>>> {
    let root = crate::spec::root(spec);
    let mut held_out = Found::new();
    for pattern in &spec.validation.globs {
        held_out.append(&mut matches("validation", &root, pattern)?);
    }
    let mut found = Vec::new();
    for source in &spec.sources {
        let mut files = Found::new();
        for pattern in &source.globs {
            files.append(&mut matches(&source.name, &root, pattern)?);
        }
        if files.values().all(|file| file.bytes == 0) {
            return Err(Error::spec(say!(
                "source `{name}`: all {count} files matched by {globs:?} under {root} are empty: point its globs at text",
                "来源 `{name}`：{root} 下 {globs:?} 匹配的 {count} 个文件全为空：请将 globs 指向文本",
                name = source.name,
                count = files.len(),
                globs = source.globs,
                root = root.display()
            )));
        }
        found.push(files);
    }
    // Validation files that belong to no source are read with the first one that is not read in place.
    let own: BTreeSet<String> = found.iter().flat_map(|files| files.keys().cloned()).collect();
    let first = spec.sources.iter().position(|source| !source.in_place).unwrap_or(0);
    if let Some(first) = found.get_mut(first) {
        let stray = held_out.iter().filter(|(name, _)| !own.contains(*name));
        first.extend(stray.map(|(name, file)| (name.clone(), file.clone())));
    }
    let input = |input: Input| Input { validation: held_out.contains_key(&input.name), ..input };
    Ok(found.into_iter().map(|files| files.into_values().map(input).collect()).collect())
}

/// Names of empty files that are shown.
const SHOWN_EMPTY: usize = 3;

/// What to say of files of no bytes, which are no error: there is nothing in them to read.
pub fn empty_files(source: &str, inputs: &[Input]) -> Option<Said> {
    let empty: Vec<&str> =
        inputs.iter().filter(|input| input.bytes == 0).map(|input| input.name.as_str()).collect();
    let first = empty.iter().take(SHOWN_EMPTY).copied().collect::<Vec<_>>().join(", ");
    let more = if empty.len() > SHOWN_EMPTY { ", …" } else { "" };
    (!empty.is_empty()).then(|| {
        say!(
            "source `{source}`: {empty} of its {all} files are empty ({first}{more}): fetch them again if they should \
             not be",
            "来源 `{source}`：其 {all} 个文件中有 {empty} 个为空（{first}{more}）：若不应为空，请重新获取",
            empty = empty.len(),
            all = inputs.len()
        )
    })
}

/// By name.
type Found = BTreeMap<String, Input>;

fn matches(source: &str, root: &Path, pattern: &str) -> Result<Found> {
    let full = glob_root(root, pattern);
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let paths = glob::glob_with(&full, options).map_err(|e| {
        let (at, why) = (e.pos, e.msg);
        Error::spec(say!(
            "`{source}`: pattern {pattern:?} is malformed at {at}: {why}",
            "`{source}`：模式 {pattern:?} 在第 {at} 处有误：{why}"
        ))
    })?;
    let mut found = BTreeMap::new();
    for entry in paths {
        let path = entry.map_err(|e| {
            let file = e.path().to_owned();
            Error::Io { action: "list", file, source: e.into() }
        })?;
        let Some(input) = look(root, &path, None)? else { continue };
        match crate::wids::shards(&path, input.bytes)? {
            Some(shards) => {
                for shard in shards {
                    if let Some(input) = look(root, &shard.path, Some(shard.listed))? {
                        found.insert(input.name.clone(), input);
                    }
                }
            }
            // A tar may be matched beside the index that lists it.
            None => drop(found.entry(input.name.clone()).or_insert(input)),
        }
    }
    if found.is_empty() {
        return Err(Error::spec(say!(
            "`{source}`: no file matches {pattern:?} under {root}: check the pattern (`**` crosses folders, `*` does \
             not) and the root",
            "`{source}`：{root} 下没有文件匹配 {pattern:?}：请检查模式（`**` 跨越目录，`*` 不跨越）和根目录",
            root = root.display()
        )));
    }
    Ok(found)
}

/// A file; `None` for anything else.
fn look(root: &Path, path: &Path, listed: Option<Listed>) -> Result<Option<Input>> {
    let meta = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !meta.is_file() {
        return Ok(None);
    }
    let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let relative = path.strip_prefix(root).unwrap_or(path);
    let name: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    let (name, modified) = (name.join("/"), modified.map_or(0, |time| time.as_nanos()));
    Ok(Some(Input { path: path.to_owned(), name, bytes: meta.len(), modified, validation: false, listed }))
}

/// The pattern under the root, whose own characters must not act as wildcards.
fn glob_root(root: &Path, pattern: &str) -> String {
    if Path::new(pattern).is_absolute() {
        return pattern.to_owned();
    }
    let root = glob::Pattern::escape(&root.to_string_lossy());
    format!("{}/{pattern}", root.trim_end_matches('/'))
}

/// What the last build read; lies beside the manifest but is no part of the corpus, because times
/// and absolute paths differ between machines.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Receipt {
    /// Hash of the parts of the specification that shape the shards.
    pub spec: String,
    /// SHA-256 of the manifest this receipt belongs to.
    pub manifest: String,
    /// Per source, in reading order.
    pub inputs: Vec<Vec<ReceiptEntry>>,
}

/// One input as it was.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct ReceiptEntry {
    /// See [`Input::name`].
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Modification time as text, since JSON numbers stop at 64 bits.
    pub modified: String,
    /// xxh3-128 of the content.
    pub hash: String,
    /// See [`Input::validation`].
    pub validation: bool,
}

impl Receipt {
    /// True if `inputs` are what this receipt saw: same names and lengths, and the same time or,
    /// where only the time differs (a fresh checkout), the same content.
    pub fn covers(&self, inputs: &[Vec<Input>]) -> bool {
        self.inputs.len() == inputs.len()
            && self.inputs.iter().zip(inputs).all(|(old, new)| {
                old.len() == new.len()
                    && old.iter().zip(new).all(|(old, new)| {
                        (&old.name, old.bytes, old.validation) == (&new.name, new.bytes, new.validation)
                            && (old.modified == new.modified.to_string()
                                || hash_file(&new.path, &|_| {}).is_ok_and(|hash| hash == old.hash))
                    })
            })
    }
}

/// xxh3-128 of a file, hexadecimal.
pub(crate) fn hash_file(path: &Path, advance: &dyn Fn(u64)) -> std::io::Result<String> {
    let mut reader = HashingReader::new(std::fs::File::open(path)?, advance);
    std::io::copy(&mut reader, &mut std::io::sink())?;
    Ok(reader.digest())
}

/// Hashes what passes through, and tells how much does.
pub struct HashingReader<'a, R> {
    inner: R,
    hash: XxHash3_128,
    advance: &'a dyn Fn(u64),
}

impl<'a, R> HashingReader<'a, R> {
    /// Wraps a reader.
    pub fn new(inner: R, advance: &'a dyn Fn(u64)) -> Self {
        Self { inner, hash: XxHash3_128::new(), advance }
    }

    /// xxh3-128 of the bytes read so far, hexadecimal.
    pub fn digest(&self) -> String {
        format!("{:032x}", self.hash.finish_128())
    }
}

impl<R: Read> Read for HashingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.write(buffer.get(..n).unwrap_or_default());
        (self.advance)(n as u64);
        Ok(n)
    }
}
