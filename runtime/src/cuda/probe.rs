//! What the driver says of a device before anything is allocated on it.
#![allow(unsafe_code)] // a foreign-function boundary: what each call needs is stated beside it

use cudarc::driver::{result, sys};

use crate::error::{Error, Result};

/// A device as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The driver's name of it: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Bytes of its memory.
    pub total: u64,
    /// Bytes that nobody holds, this process's context counted as held.
    pub free: u64,
}

/// Newest CUDA that the driver supports, 13000 for 13.0; none without a driver.
///
/// # Errors
/// When there is a driver that does not answer.
pub fn driver() -> Result<Option<u64>> {
    // SAFETY: opens and closes a library; cudarc panics later if it is absent, hence the question.
    if !unsafe { sys::is_culib_present() } {
        return Ok(None);
    }
    let mut version = 0;
    // SAFETY: `version` is valid for writes during the call.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|e| failed("tell its version", e))?;
    Ok(Some(u64::try_from(version).unwrap_or(0)))
}

/// Device `index`. Its primary context, which torch will use, is created if it is not there yet, and stays: what the
/// context takes is no longer free.
///
/// # Errors
/// When the driver refuses.
pub fn probe(index: usize) -> Result<Probe> {
    result::init().map_err(|e| failed("start", e))?;
    let ordinal = i32::try_from(index).unwrap_or(i32::MAX);
    let device = result::device::get(ordinal).map_err(|e| failed("open the device", e))?;
    // SAFETY: `device` is valid; the primary context stays retained for the life of the process.
    let context =
        unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("share its context", e))?;
    // SAFETY: a context retained above.
    unsafe { result::ctx::set_current(context) }.map_err(|e| failed("make its context current", e))?;
    let (free, total) = result::mem_get_info().map_err(|e| failed("count free memory", e))?;
    let name = result::device::get_name(device).map_err(|e| failed("name the device", e))?;
    Ok(Probe { name, total: total as u64, free: free as u64 })
}

fn failed(doing: &str, error: result::DriverError) -> Error {
    Error::Cuda(format!("the CUDA driver refused to {doing}: {error}"))
}
