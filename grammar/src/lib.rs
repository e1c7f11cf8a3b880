//! Recipe text to a lossless tree, and back to canonical text.
//!
//! [`parse`] never fails: what fits nowhere is kept as junk with its span, and the compiler reports it.
//! Not here: what anything means. The language on one screen is `llm.pest`.

mod keyword;
mod parse;
mod tree;

pub use keyword::Keyword;
pub use parse::parse;
pub use tree::{
    Arg, Block, Call, Clause, Cluster, Cmp, Compare, Leaf, LeafKind, Opt, Quantity, Span, Spanned, Tree, Value,
};
