//! The index of a WebDataset: a JSON file that names tars and states how many samples and bytes each has.
//!
//! The format is `wids`'s (webdataset/wids, `wids/wids_index.py`: `__kind__` "wids-shard-index-v1", `shardlist` of
//! `url`, `nsamples`, `filesize`). Its MD5 sums are not checked; where [`crate::webdataset`] wrote the index, it has a hash that
//! is made while reading anyway.

use crate::error::{BadContent, Error, Result};
use crate::inputs::Listed;
use crate::read::Place;
use llmc_plan::lang::Said;
use llmc_plan::say;
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub(crate) const KIND: &str = "wids-shard-index-v1";
/// A longer JSON file is text: an index has some hundred bytes a tar.
const MAX_BYTES: u64 = 64 << 20;

/// A tar of an index.
#[derive(Debug, PartialEq, Eq)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// What it is to have.
    pub listed: Listed,
}

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "__kind__")]
    kind: String,
    shardlist: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    url: String,
    nsamples: u64,
    filesize: Option<u64>,
    xxh3: Option<String>,
}

/// The tars of an index, whose paths start from its folder; `None` for any other file.
///
/// # Errors
/// An index that is malformed, names tars elsewhere than on this machine, or other ones than lie there.
pub fn shards(path: &Path, bytes: u64) -> Result<Option<Vec<Shard>>> {
    if path.extension().is_none_or(|end| end != "json") || bytes > MAX_BYTES {
        return Ok(None);
    }
    let json = std::fs::read(path).map_err(Error::io("read", path))?;
    if memchr::memmem::find(&json, KIND.as_bytes()).is_none() {
        return Ok(None);
    }
    let bad = |file: &Path, expected: Said, found: Said, hint: Said| -> Error {
        let (file, place) = (file.to_owned(), Place::default());
        BadContent { file, place, found, expected, hint }.into()
    };
    let index: Index = serde_json::from_slice(&json).map_err(|error| {
        bad(
            path,
            say!(
                "an index of wids with a shardlist of url and nsamples",
                "含 url 和 nsamples 的 shardlist 的 wids 索引"
            ),
            say!("{error}", " {error}"),
            say!("write it again", "请重新写入"),
        )
    })?;
    if index.kind != KIND {
        return Ok(None);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let shard = |entry: Entry| {
        let url = entry.url.strip_prefix("file://").unwrap_or(&entry.url);
        if url.contains("://") || url.starts_with("pipe:") {
            let hint = say!(
                "fetch the tars, and name them in the index by their paths",
                "请取回这些 tar，并在索引中以路径指定"
            );
            let expected = say!("paths of tars on this machine", "本机上 tar 的路径");
            return Err(bad(path, expected, say!("{url:?}", " {url:?}"), hint));
        }
        let tar = folder.join(url);
        let length = std::fs::metadata(&tar).map_err(Error::io("read", &tar))?.len();
        if let Some(listed) = entry.filesize.filter(|&listed| listed != length) {
            let index = path.display();
            let expected = say!("{listed} bytes, as {index} says", " {index} 所列的 {listed} 字节");
            let hint = say!("fetch it again, or write the index again", "请重新获取，或重写索引");
            return Err(bad(&tar, expected, say!("{length} bytes", " {length} 字节"), hint));
        }
        Ok(Shard { path: tar, listed: Listed { samples: entry.nsamples, xxh3: entry.xxh3 } })
    };
    index.shardlist.into_iter().map(shard).collect::<Result<Vec<_>>>().map(Some)
}
