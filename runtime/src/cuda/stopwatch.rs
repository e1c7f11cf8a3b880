//! Time on the device, between two events of the stream that everything runs on.
#![allow(unsafe_code)] // a foreign-function boundary: what each call needs is stated beside it

use cudarc::driver::{result::event, sys};

use crate::error::{Error, Result};

/// A point in the device's order of work.
#[derive(Debug)]
pub struct Mark(sys::CUevent);

impl Mark {
    /// After all work issued so far.
    ///
    /// # Errors
    /// When the driver refuses an event.
    pub fn now() -> Result<Mark> {
        let mark = Mark(event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?);
        // SAFETY: a live event; the null stream is libtorch's current one.
        unsafe { event::record(mark.0, std::ptr::null_mut()) }.map_err(failed)?;
        Ok(mark)
    }

    /// Seconds of the device from `earlier` to this. Waits until the device is there.
    ///
    /// # Errors
    /// When work before it failed.
    pub fn since(&self, earlier: &Mark) -> Result<f64> {
        // SAFETY: both events are live and were recorded on one stream.
        let milliseconds = unsafe {
            event::synchronize(self.0).map_err(failed)?;
            event::elapsed(earlier.0, self.0).map_err(failed)?
        };
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: made by `now`, not used again; a recorded event may be destroyed before it is reached.
        let _ = unsafe { event::destroy(self.0) };
    }
}

fn failed(error: cudarc::driver::result::DriverError) -> Error {
    Error::Operand { op: "event", problem: format!("CUDA driver: {error}") }
}

/// Time from its start to its stop.
#[derive(Debug)]
pub struct Stopwatch(Mark);

impl Stopwatch {
    /// Starts when the device comes to here.
    ///
    /// # Errors
    /// As [`Mark::now`].
    pub fn start() -> Result<Stopwatch> {
        Mark::now().map(Stopwatch)
    }

    /// Seconds of the device since.
    ///
    /// # Errors
    /// As [`Mark::since`].
    pub fn stop(self) -> Result<f64> {
        Mark::now()?.since(&self.0)
    }
}
