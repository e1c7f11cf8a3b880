//! The first SIGINT or SIGTERM asks the run to finish its step and save; a second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, Outcome};
use llmc_plan::say;

/// Whether and by which signal the run was asked to stop.
#[derive(Debug, Clone)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Installs the handlers.
    ///
    /// # Errors
    /// Exit code 2 when the system refuses.
    pub fn install() -> Outcome<Stop> {
        let (signal, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        for number in [SIGINT, SIGTERM] {
            // In this order: the shutdown looks at the flag that an earlier signal has set.
            flag::register_conditional_shutdown(number, 128 + number, asked.clone())
                .and_then(|_| flag::register(number, asked.clone()))
                .and_then(|_| flag::register_usize(number, signal.clone(), number as usize))
                .map_err(|e| Failure::environment(say!("cannot handle signals: {e}", "无法处理信号：{e}")))?;
        }
        Ok(Stop { signal })
    }

    /// Exit code of the signal that asked, 128 + its number.
    pub fn asked(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number => Some(128 + number as u8),
        }
    }
}
