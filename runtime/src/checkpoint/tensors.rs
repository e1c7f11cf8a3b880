//! One safetensors file, plain or compressed: written whole and synced, read a tensor at a time.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};

use super::packed::Frames;
use super::{packed, zst};
use crate::failure::{Failure, Outcome};
use llmc_plan::lang::Said;
use llmc_plan::say;

/// Longest header that is read; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Writes and syncs `path`, compressed where a level of zstd is given.
pub(super) fn write<V: View>(path: &Path, tensors: Vec<(String, V)>, zstd: Option<i32>) -> Outcome<()> {
    if let Some(level) = zstd {
        return packed::write(path, tensors, level);
    }
    // The crate writes through a private temporary file: the permissions of an ordinary one are put back.
    let failed = |e: std::io::Error| Failure::io("write", path, &e);
    let ordinary = File::create(path).and_then(|f| f.metadata()).map_err(failed)?.permissions();
    // `format: pt` is what Hugging Face's loader asks of a file.
    let info = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(tensors, Some(info), path)
        .map_err(|e| failed(std::io::Error::other(e)))?;
    fs::set_permissions(path, ordinary).and_then(|()| File::open(path)?.sync_all()).map_err(failed)
}

/// An open safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the data begins.
    start: u64,
    header: Metadata,
    /// Where its data is compressed.
    frames: Option<Frames>,
}

impl TensorFile {
    /// Opens a file, or the compressed one in its place, and reads its header; the data must have the length that the
    /// header says.
    ///
    /// # Errors
    /// Exit code 2 and one sentence naming the file.
    pub fn open(path: &Path) -> Outcome<TensorFile> {
        let compressed = zst(path);
        let path = if !path.exists() && compressed.exists() { &compressed } else { path };
        let damaged = |what: Said| Failure::damaged(path, what);
        let failed = |e: std::io::Error| Failure::io("read", path, &e);
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut word = [0; 8];
        file.read_exact(&mut word).map_err(failed)?;
        let header_length = u64::from_le_bytes(word);
        if header_length > MAX_HEADER || header_length > length.saturating_sub(8) {
            return Err(damaged(say!(
                "a header of {header_length} bytes in a file of {length}",
                "文件共 {length} 字节，文件头却有 {header_length} 字节"
            )));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(failed)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(Said::same(e)))?;
        let start = 8 + header_length;
        let frames = if *path == compressed {
            Some(
                Frames::read(&mut file, &header, start, length)
                    .map_err(failed)?
                    .map_err(|what| damaged(Said::same(what)))?,
            )
        } else {
            let want = start.saturating_add(header.data_len() as u64);
            if length != want {
                return Err(damaged(say!(
                    "{length} bytes where its header needs {want}",
                    "共 {length} 字节，而文件头要求 {want} 字节"
                )));
            }
            None
        };
        Ok(TensorFile { path: path.to_path_buf(), file, start, header, frames })
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Number format and shape of a tensor.
    ///
    /// # Errors
    /// Exit code 2 when the file has none of that name.
    pub fn describe(&self, name: &str) -> Outcome<(Dtype, Vec<usize>)> {
        let info = self.header.info(name).ok_or_else(|| {
            let path = self.path.display();
            Failure::environment(say!("{path} holds no tensor {name}", "{path} 中没有张量 {name}"))
        })?;
        Ok((info.dtype, info.shape.clone()))
    }

    /// The bytes of a tensor, which must have this format and shape.
    ///
    /// # Errors
    /// Exit code 2 with both shapes or formats when it has another.
    pub fn read(&mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Outcome<Vec<u8>> {
        let found = self.describe(name)?;
        if found != (dtype, shape.to_vec()) {
            return Err(Failure::environment(say!(
                "{path}: {name} is {its_dtype} {its_shape:?}, the program has {dtype} {shape:?}",
                "{path}：{name} 为 {its_dtype} {its_shape:?}，而程序中为 {dtype} {shape:?}",
                path = self.path.display(),
                its_dtype = found.0,
                its_shape = found.1
            )));
        }
        self.bytes(name)
    }

    /// The bytes of a tensor, whatever its format.
    ///
    /// # Errors
    /// Exit code 2 when there is none of that name or the file cannot be read.
    pub fn bytes(&mut self, name: &str) -> Outcome<Vec<u8>> {
        let (dtype, _) = self.describe(name)?;
        let (begin, end) = self.header.info(name).map_or((0, 0), |info| info.data_offsets);
        let length = end.saturating_sub(begin);
        if let Some(frames) = &self.frames {
            return frames
                .bytes(&mut self.file, name, dtype, length)
                .map_err(|e| Failure::io("read", &self.path, &e))?
                .map_err(|what| Failure::damaged(&self.path, what));
        }
        let mut bytes = vec![0; length];
        self.file
            .seek(SeekFrom::Start(self.start + begin as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|e| Failure::io("read", &self.path, &e))?;
        Ok(bytes)
    }
}
