//! The only door to the outside: what a recipe's plan may depend on besides its text.

use llmc_planner::hardware::Hardware;

/// Files beside the recipe and hardware files named on the command line. Paths are as the recipe writes them,
/// relative to the recipe's folder. Implementations must answer alike when asked twice.
pub trait World {
    /// Text of a file; `None` when it is absent or unreadable.
    fn read(&self, path: &str) -> Option<String>;

    /// Does anything match this path or glob? `None` when it cannot be told.
    fn matches(&self, glob: &str) -> Option<bool>;

    /// Hardware described in files, found before the presets.
    fn hardware(&self) -> &[Hardware];

    /// `manifest.json` of the corpus that was built from this recipe, where there is one.
    fn manifest(&self) -> Option<String> {
        None
    }
}

/// A world without files: every answer is "cannot be told".
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl World for Nowhere {
    fn read(&self, _: &str) -> Option<String> {
        None
    }

    fn matches(&self, _: &str) -> Option<bool> {
        None
    }

    fn hardware(&self) -> &[Hardware] {
        &[]
    }
}
