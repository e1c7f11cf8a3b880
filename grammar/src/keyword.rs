//! The words that start a clause. Reserved everywhere: no option, metric or dataset bears one.

use std::fmt;

macro_rules! keywords {
    ($($variant:ident $text:literal $doc:literal,)*) => {
        /// A word that starts a clause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Keyword { $(#[doc = $doc] $variant,)* }

        impl Keyword {
            /// Every keyword, in the order of the reference.
            pub const ALL: &'static [Keyword] = &[$(Keyword::$variant,)*];

            /// As it is typed.
            pub fn text(self) -> &'static str {
                match self { $(Keyword::$variant => $text,)* }
            }

            /// What the clause says, in one line; for hover and help.
            pub fn doc(self) -> &'static str {
                match self { $(Keyword::$variant => $doc,)* }
            }

            /// The keyword typed exactly so, if it is one.
            pub fn from_text(text: &str) -> Option<Keyword> {
                match text { $($text => Some(Keyword::$variant),)* _ => None }
            }
        }
    };
}

keywords! {
    Edition "edition" "The edition of the language.",
    Model "model" "Family and size, or a shape.",
    From "from" "The checkpoint to start from.",
    Budget "budget" "Tokens, time, money or FLOPs to spend.",
    On "on" "The hardware.",
    Seed "seed" "The number every random draw is keyed by.",
    Batch "batch" "The global batch.",
    Tokenizer "tokenizer" "How text becomes tokens.",
    Data "data" "The named sources of text.",
    Clean "clean" "What is filtered and deduplicated.",
    Pack "pack" "How documents are packed into sequences.",
    Mix "mix" "In which proportion sources are drawn.",
    Optimizer "optimizer" "The optimizer and its settings.",
    Lr "lr" "Peak learning rate and schedule.",
    Precision "precision" "The arithmetic of the matrix products.",
    Determinism "determinism" "Fast or bit-equal runs.",
    Freeze "freeze" "What is not trained.",
    Layout "layout" "What of the parallel layout is pinned.",
    Checkpoint "checkpoint" "When and how state is saved.",
    Eval "eval" "What is measured, and how often.",
    Price "price" "What GPU hours and electricity cost.",
    Expect "expect" "Bounds the plan must meet.",
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
