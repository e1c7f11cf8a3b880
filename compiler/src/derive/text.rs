//! Parts of a plan that are no decision; the reasons only have a name here, the values are joined in `compile.rs`.

use super::Rule;

/// The version of the file format.
pub const FORMAT: Rule = Rule {
    id: "plan.format",
    reads: &[],
    writes: &["format_version"],
    cite: "plan/src/plan.rs, FORMAT_VERSION",
    doc: "The version of the plan format that this build writes.",
    run: |_, _| {},
};

/// The recipe's text and its hash.
pub const TEXT: Rule = Rule {
    id: "recipe.text",
    reads: &[],
    writes: &["recipe.hash", "recipe.text"],
    cite: "SHA-256 of the text",
    doc: "The recipe as it was read, and its hash.",
    run: |_, _| {},
};

/// Nothing is frozen.
pub const FREEZE: Rule = Rule {
    id: "freeze.nothing",
    reads: &[],
    writes: &["freeze"],
    cite: "docs/language.md",
    doc: "Everything trains unless `freeze` names it.",
    run: |_, _| {},
};
