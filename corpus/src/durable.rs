//! Files that are hashed as they are written, and that the device has before anything says they are there.

use crate::error::{Error, Result};
use llmc_plan::data::FileInfo;
use std::fs::File;
use std::io::{BufReader, ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use twox_hash::XxHash3_128;

const BUFFER_BYTES: usize = 1 << 20;
/// What the system gets at a time, at least: 17.6 MB in pieces of 36 kB, as groups of documents give
/// them, cost ext4 7.8 ms and the flush 2.1 ms of CPU time, and 3.8 and 1.0 ms in these (median of 9, Linux 6.18, 2-core
/// AMD EPYC VM, 2026-11-30).
const PIECE_BYTES: usize = 256 << 10;
/// And up to a multiple of this: a page that is written twice costs twice.
const PAGE_BYTES: u64 = 4 << 10;
/// The file system is asked for the blocks of so much at once: 17.6 MB cost 3.1 instead of 4.1 ms of CPU time, and 10.3
/// instead of 11.4 ms until the device has them (medians of 25, same machine and day).
const RESERVED_BYTES: u64 = 32 << 20;
/// After this much the device is asked to take it, so that little is left to wait for at the end.
const ASK_BYTES: u64 = 8 << 20;

/// A file that is hashed as it is written.
pub struct HashingFile {
    path: PathBuf,
    file: File,
    /// The beginning of a piece.
    waiting: Vec<u8>,
    hash: Box<XxHash3_128>,
    bytes: u64,
    /// Length for which there are blocks, and whether some are to be given back.
    reserved: u64,
    surplus: bool,
    /// Length up to which the device was asked to take it, and the thread that waits for that.
    asked: u64,
    asking: Option<JoinHandle<()>>,
}

impl HashingFile {
    /// Creates `path`, replacing it.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        let (path, hash) = (path.to_owned(), Box::new(XxHash3_128::new()));
        Ok(Self::new(path, file, hash, 0))
    }

    /// Goes on with a file that was written up to `info`; what came after is cut off. `None` if its
    /// beginning is not what it was.
    ///
    /// # Errors
    /// The system's.
    pub fn reopen(path: &Path, info: &FileInfo) -> Result<Option<Self>> {
        let mut hash = Box::new(XxHash3_128::new());
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io("open", path))?,
        };
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file).take(info.bytes);
        let read = std::io::copy(&mut reader, &mut HashOnly(&mut hash)).map_err(Error::io("read", path))?;
        if read != info.bytes || digest(&hash) != info.xxh3 {
            return Ok(None);
        }
        let mut file = reader.into_inner().into_inner();
        let cut = file.set_len(read).and_then(|()| file.seek(SeekFrom::Start(read)));
        cut.map_err(Error::io("write", path))?;
        let path = path.to_owned();
        Ok(Some(Self::new(path, file, hash, read)))
    }

    fn new(path: PathBuf, file: File, hash: Box<XxHash3_128>, bytes: u64) -> Self {
        let (waiting, reserved) = (Vec::new(), bytes);
        Self { path, file, waiting, hash, bytes, reserved, surplus: false, asked: bytes, asking: None }
    }

    /// What is written so far, handed to the system.
    ///
    /// # Errors
    /// The system's.
    pub fn so_far(&mut self) -> Result<FileInfo> {
        self.file.write_all(&self.waiting).map_err(Error::io("write", &self.path))?;
        self.waiting.clear();
        Ok(FileInfo { bytes: self.bytes, xxh3: digest(&self.hash) })
    }

    /// Appends.
    ///
    /// # Errors
    /// The system's: a full disk, for instance.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(&[bytes])
    }

    /// Appends one after the other, without a copy of all in one piece where they are long enough.
    ///
    /// # Errors
    /// As [`HashingFile::write`].
    pub fn write_all(&mut self, parts: &[&[u8]]) -> Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        parts.iter().for_each(|part| self.hash.write(part));
        self.bytes += length as u64;
        match parts.split_last() {
            Some((last, others)) if self.waiting.len() + length >= PIECE_BYTES => {
                let later = last.len().min((self.bytes % PAGE_BYTES) as usize);
                let (now, later) = last.split_at(last.len() - later);
                self.reserve();
                let first = std::iter::once(self.waiting.as_slice());
                let slices = first.chain(others.iter().copied()).chain([now]).map(IoSlice::new);
                write_slices(&mut self.file, &mut slices.collect::<Vec<_>>())
                    .map_err(Error::io("write", &self.path))?;
                self.waiting.clear();
                self.waiting.extend_from_slice(later);
            }
            _ => parts.iter().for_each(|part| self.waiting.extend_from_slice(part)),
        }
        if self.bytes - self.asked >= ASK_BYTES && self.asking.as_ref().is_none_or(JoinHandle::is_finished) {
            let file = self.file.try_clone().map_err(Error::io("write", &self.path))?;
            // An error shows again at the end.
            self.asking = Some(std::thread::spawn(move || drop(file.sync_data())));
            self.asked = self.bytes;
        }
        Ok(())
    }

    /// Asks for the blocks of what is written now and next. A file system that has none, or no such call, is not asked
    /// again: the write itself says what is wrong.
    fn reserve(&mut self) {
        #[cfg(target_os = "linux")]
        if self.reserved < self.bytes {
            let (from, flags) = (self.reserved, rustix::fs::FallocateFlags::KEEP_SIZE);
            let length = RESERVED_BYTES.max(self.bytes - from);
            let given = rustix::fs::fallocate(&self.file, flags, from, length).is_ok();
            self.reserved = if given { from + length } else { u64::MAX };
            self.surplus |= given;
        }
    }

    /// Hands what is left to the system.
    ///
    /// # Errors
    /// The system's.
    pub fn close(mut self) -> Result<(FileInfo, Written)> {
        let info = self.so_far()?;
        if self.surplus {
            self.file.set_len(info.bytes).map_err(Error::io("write", &self.path))?;
        }
        Ok((info, Written { path: self.path, file: self.file }))
    }

    /// Flushes to the device, so that a later rename cannot publish an empty file after a power cut.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self) -> Result<FileInfo> {
        let (info, file) = self.close()?;
        file.settle()?;
        Ok(info)
    }
}

/// For libraries that write.
impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        HashingFile::write(self, bytes).map(|()| bytes.len()).map_err(bare)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.so_far().map(drop).map_err(bare)
    }
}

/// As `Write::write_all_vectored`, which is not stable.
fn write_slices(file: &mut File, mut slices: &mut [IoSlice]) -> std::io::Result<()> {
    // Without those that are empty.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The system's error without the file it is about.
fn bare(error: Error) -> std::io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => std::io::Error::other(other.to_string()),
    }
}

fn digest(hash: &XxHash3_128) -> String {
    format!("{:032x}", hash.finish_128())
}

struct HashOnly<'a>(&'a mut XxHash3_128);

impl Write for HashOnly<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file that the system has in full, and the device perhaps not yet.
pub struct Written {
    path: PathBuf,
    file: File,
}

impl Written {
    fn settle(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }
}

/// Waits until the device has all of some files. They ask for it at once: the file system commits together what is
/// asked for together, and one after another each would wait for a commit of its own.
///
/// # Errors
/// The system's, of one of them.
pub fn settle_all(files: &[Written]) -> Result<()> {
    std::thread::scope(|scope| {
        let ask = |file| {
            let waiting = std::thread::Builder::new().spawn_scoped(scope, move || Written::settle(file));
            waiting.map_err(|_| file)
        };
        let Some((last, others)) = files.split_last() else { return Ok(()) };
        let asked: Vec<_> = others.iter().map(ask).collect();
        let mut all = last.settle();
        for waiting in asked {
            all = all.and(match waiting {
                Ok(waiting) => waiting.join().unwrap_or(Err(Error::Stopped)),
                // There was no thread to be had.
                Err(file) => file.settle(),
            });
        }
        all
    })
}

/// Files that the device is being asked to take, and what comes after that. Nothing of it goes on once this is dropped.
pub struct Settling(Option<JoinHandle<Result<()>>>);

impl Settling {
    /// Does something as soon as the device has all of some files.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn begin(files: Vec<Written>, then: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let thread = std::thread::Builder::new().spawn(move || settle_all(&files).and_then(|()| then()));
        thread.map(|thread| Self(Some(thread))).map_err(Error::io("flush", &path))
    }

    /// Waits until all is done.
    ///
    /// # Errors
    /// Those of [`settle_all`] and of what came after.
    pub fn wait(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Err(Error::Stopped)))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        // An error is for who waits.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_and_can_be_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..5 * PIECE_BYTES + 7).map(|n| (n % 251) as u8).collect();
        let (mut file, mut rest, mut wanted) = (HashingFile::create(&path).unwrap(), &bytes[..], 1);
        while !rest.is_empty() {
            let (now, after) = rest.split_at(wanted.min(rest.len()));
            let (a, b) = now.split_at(now.len() / 3);
            file.write_all(&[a, &[], b]).unwrap();
            (rest, wanted) = (after, wanted * 3);
            if after.len() < bytes.len() / 2 && now.len() > bytes.len() / 4 {
                let info = file.so_far().unwrap();
                file.write(b"lost").unwrap();
                file.so_far().unwrap();
                file = HashingFile::reopen(&path, &info).unwrap().unwrap();
            }
        }
        let info = file.finish().unwrap();
        assert_eq!((info.bytes, std::fs::read(&path).unwrap()), (bytes.len() as u64, bytes));
        assert!(HashingFile::reopen(&path, &FileInfo { bytes: 3, ..info.clone() }).unwrap().is_none());
        assert!(HashingFile::reopen(&dir.path().join("none"), &info).unwrap().is_none());
    }

    #[test]
    fn what_comes_after_comes_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let after = dir.path().join("after");
        for waits in [true, false] {
            let files = ["a", "b", "c"].map(|name| HashingFile::create(&dir.path().join(name)).unwrap());
            let files = files.map(|file| file.close().unwrap().1).into();
            let to = after.clone();
            let then = move || std::fs::write(&to, "x").map_err(Error::io("write", &to));
            let settling = Settling::begin(files, then).unwrap();
            if waits {
                settling.wait().unwrap()
            } else {
                drop(settling)
            }
            std::fs::remove_file(&after).unwrap();
        }
        let failing = Settling::begin(Vec::new(), || Err(Error::inner("no"))).unwrap();
        assert!(failing.wait().is_err());
    }
}
