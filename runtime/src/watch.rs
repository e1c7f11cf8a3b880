//! Several observers of one step.

use crate::failure::Outcome;
use crate::interpret::{Event, Observer};
use crate::meter::Measured;

/// Each of them sees every instruction. The device is waited for if any of them wants that.
pub struct Several<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Several<'_> {
    fn waits(&self) -> bool {
        self.0.iter().any(|observer| observer.waits())
    }

    fn before(&mut self, event: &Event<'_>) -> Outcome<()> {
        self.0.iter_mut().try_for_each(|observer| observer.before(event))
    }

    fn after(&mut self, event: &Event<'_>, measured: Measured, seconds: (f64, f64)) -> Outcome<()> {
        self.0.iter_mut().try_for_each(|observer| observer.after(event, measured, seconds))
    }
}
