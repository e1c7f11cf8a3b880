//! Measured tensor memory: what libtorch's allocator was asked for, knowing nothing of plan and arenas.

use tch::Device;

use crate::failure::Outcome;
use crate::shim;

/// Reads one device's allocator and keeps the highest mark, although peaks are reset for every instruction.
#[derive(Debug)]
pub struct Meter {
    device: Device,
    highest: u64,
}

/// What one instruction did to the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Most bytes above those live before.
    pub peak: u64,
    /// Bytes still live that were not before (negative: fewer).
    pub left: i64,
}

impl Meter {
    /// Starts measuring.
    pub fn new(device: Device) -> Meter {
        Meter { device, highest: 0 }
    }

    /// Live and peak bytes.
    fn read(&self) -> Outcome<(u64, u64)> {
        Ok(match self.device {
            Device::Cuda(index) => {
                let stats = shim::device_stats(i8::try_from(index).unwrap_or(0))?;
                (stats.live_bytes, stats.peak_bytes)
            }
            _ => {
                let stats = shim::cpu_stats();
                (stats.live_bytes, stats.peak_bytes)
            }
        })
    }

    /// Begins an instruction: returns the bytes live now, from which its peak counts.
    ///
    /// # Errors
    /// When the accelerator's statistics cannot be read.
    pub fn begin(&mut self) -> Outcome<u64> {
        let (live, peak) = self.read()?;
        self.highest = self.highest.max(peak);
        match self.device {
            Device::Cuda(index) => shim::reset_device_peak(i8::try_from(index).unwrap_or(0))?,
            _ => shim::reset_cpu_peak(),
        }
        Ok(live)
    }

    /// Ends an instruction that began with `before` bytes live.
    ///
    /// # Errors
    /// When the accelerator's statistics cannot be read.
    pub fn end(&mut self, before: u64) -> Outcome<Measured> {
        let (live, peak) = self.read()?;
        self.highest = self.highest.max(peak);
        Ok(Measured { peak: peak.saturating_sub(before), left: live as i64 - before as i64 })
    }

    /// Highest bytes ever live, since the process started.
    ///
    /// # Errors
    /// When the accelerator's statistics cannot be read.
    pub fn highest(&self) -> Outcome<u64> {
        Ok(self.highest.max(self.read()?.1))
    }
}
