//! Recipe text to a lossless tree, and back to canonical text.
//!
//! [`parse`] never fails: what fits nowhere is kept as junk with its span, and the compiler reports it.
//! Not here: what anything means. The language on one screen is `llm.pest`.

mod format;
mod keyword;
mod nearest;
mod parse;
mod symbol;
mod tree;

pub use format::format;
pub use keyword::Keyword;
pub use nearest::nearest;
pub use parse::parse;
pub use symbol::Symbol;
pub use tree::{
    Arg, Block, Call, Clause, Cluster, Cmp, Compare, Leaf, LeafKind, Opt, Quantity, Span, Spanned, Tree,
    Value,
};
