//! Streams beside the one that computes, events between them, and copies between host and device.
//!
//! libtorch computes on the null stream. What the program puts on another stream is either a copy, made here, or a
//! kernel of ours that allocates nothing; so libtorch's allocator never sees a second stream.
#![allow(unsafe_code)] // a foreign-function boundary: what each call needs is stated beside it

use std::collections::BTreeMap;

use cudarc::driver::{result, sys};
use tch::{Device, Tensor};

use super::Stream;
use crate::error::{Error, Result};

/// An event of a program: which, of which layer, of which micro-batch.
pub type Key = (u32, u64, u64);

/// The streams of one program and the events raised so far. Lives as long as the process drives its device.
pub struct Streams {
    handles: Vec<Stream>,
    events: BTreeMap<Key, sys::CUevent>,
}

fn failed(doing: &str, error: result::DriverError) -> Error {
    Error::Cuda(format!("the CUDA driver refused to {doing}: {error}"))
}

impl Streams {
    /// As many as the program names; the first computes. They do not wait for each other unless told to.
    ///
    /// # Errors
    /// When the driver has no more streams.
    pub fn new(count: usize) -> Result<Streams> {
        let mut handles = vec![Stream::DEFAULT];
        for _ in 1..count {
            let kind = result::stream::StreamKind::NonBlocking;
            let handle = result::stream::create(kind).map_err(|e| failed("make a stream", e))?;
            handles.push(Stream::from_raw(handle as usize));
        }
        Ok(Streams { handles, events: BTreeMap::new() })
    }

    /// The stream of this number.
    pub fn get(&self, stream: u32) -> Stream {
        self.handles.get(stream as usize).copied().unwrap_or(Stream::DEFAULT)
    }

    /// What is issued on `stream` from here on waits for the event, if it was ever raised. What was raised before the
    /// wait is issued is what it waits for: a later raise does not count.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn wait(&self, stream: Stream, key: Key) -> Result<()> {
        let Some(event) = self.events.get(&key) else { return Ok(()) };
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: a live stream and a live event.
        unsafe { result::stream::wait_event(stream.handle(), *event, flags) }
            .map_err(|e| failed("wait for an event", e))
    }

    /// Raises the event when what was issued on `stream` is done.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn signal(&mut self, stream: Stream, key: Key) -> Result<()> {
        let event = match self.events.get(&key) {
            Some(event) => *event,
            None => {
                let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
                let event = result::event::create(flags).map_err(|e| failed("make an event", e))?;
                self.events.insert(key, event);
                event
            }
        };
        // SAFETY: a live stream and a live event.
        unsafe { result::event::record(event, stream.handle()) }.map_err(|e| failed("record an event", e))
    }
}

/// Copies between two tensors of equal bytes without waiting, on `stream`. Host memory must be pinned.
///
/// # Errors
/// Tensors of different sizes, or strided.
pub fn copy(source: &Tensor, destination: &Tensor, stream: Stream) -> Result<()> {
    let bytes = |t: &Tensor| t.numel() * t.kind().elt_size_in_bytes();
    let fits = source.is_contiguous() && destination.is_contiguous() && source.kind() == destination.kind();
    if !fits || bytes(source) != bytes(destination) {
        let problem = format!("cannot copy {:?} over {:?}", source.size(), destination.size());
        return Err(Error::Operand { op: "copy", problem });
    }
    // SAFETY: both tensors hold that many bytes and stay alive with the program's memory; the order of accesses is
    // the program's, by its events.
    unsafe {
        sys::cuMemcpyAsync(
            destination.data_ptr() as sys::CUdeviceptr,
            source.data_ptr() as sys::CUdeviceptr,
            bytes(source),
            stream.handle(),
        )
    }
    .result()
    .map_err(|e| failed("copy", e))
}

/// Whether a copy crosses between host and device.
pub fn crosses(source: &Tensor, destination: &Tensor) -> bool {
    (source.device() == Device::Cpu) != (destination.device() == Device::Cpu)
}

/// Pins the memory of a host tensor for the life of the process, so that copies need not wait.
///
/// # Errors
/// When the system does not allow that much locked memory.
pub fn pin(tensor: &Tensor) -> Result<()> {
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the range is one live allocation, held by the program's memory until the process ends.
    unsafe { sys::cuMemHostRegister_v2(tensor.data_ptr(), bytes, 0) }
        .result()
        .map_err(|e| failed(&format!("pin {bytes} bytes of host memory (see `ulimit -l`)"), e))
}
