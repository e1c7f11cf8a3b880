//! A read-only map of a file.

#![allow(unsafe_code)]

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// The bytes of a file, paged in as they are touched. Empty files need no map.
pub struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().map_err(Error::io("read", path))?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is read only and lives no longer than this value. Its bytes could change
        // only if another process wrote into the file, and a build never does: it puts a new file
        // in place by rename, which leaves mapped ones as they are. Everything read is treated as
        // arbitrary bytes, so a change could give wrong tokens but not wrong memory.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self(Some(map)))
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
