//! The tree of a recipe: what was typed, where, and nothing of what it means.
//!
//! Every span is trimmed and counted in bytes of [`Tree::text`]. Nodes carry canonical text (`％` is `%`); the text as
//! typed is [`Tree::slice`] of the span. What fits nowhere is kept as junk beside the nodes, so a checker can point
//! at it. Not here: how the text becomes a tree (`parse.rs`), what a keyword or an option means (the compiler).

use crate::Keyword;

/// A range of bytes of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The smallest span that holds both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Whether `other` lies inside.
    pub fn contains(self, other: Span) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// A value and where it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was typed.
    pub span: Span,
}

/// A parsed recipe. Its [`leaves`](Tree::leaves), joined, are the source again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub(crate) text: String,
    pub(crate) clauses: Vec<Clause>,
    pub(crate) stray: Vec<Span>,
    pub(crate) leaves: Vec<Leaf>,
}

impl Tree {
    /// The source, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The clauses in source order.
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// What stands before the first keyword and belongs to no clause.
    pub fn stray(&self) -> &[Span] {
        &self.stray
    }

    /// Every byte of the source, as tokens, blanks, commas and comments in order.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// The text of a span; empty when the span is not of this tree.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    /// All junk, in source order: each piece must be reported by a checker.
    pub fn junk(&self) -> Vec<Span> {
        let mut all = self.stray.clone();
        for clause in &self.clauses {
            all.extend(clause.all_junk());
        }
        all.sort();
        all
    }
}

/// `KEYWORD value* block?`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// The word that starts it.
    pub keyword: Spanned<Keyword>,
    /// The positional values before `<`.
    pub head: Vec<Value>,
    /// The named options.
    pub block: Option<Block>,
    /// Pieces among the positional values or after the block that fit nowhere.
    pub junk: Vec<Span>,
    /// Set when the clause stands inside the block of another one, as in `optimizer adamw < lr 3e-4 >`: the keyword
    /// of that one. Its block is then `unclosed`, and the `>` is junk of this clause.
    pub inside: Option<Spanned<Keyword>>,
    /// From the keyword to the last token.
    pub span: Span,
}

impl Clause {
    /// The option of that name, the first if there are several.
    pub fn option(&self, name: &str) -> Option<&Opt> {
        self.options().iter().find(|option| option.name.value == name)
    }

    /// The options of the block; none without a block.
    pub fn options(&self) -> &[Opt] {
        self.block.as_ref().map_or(&[], |block| &block.options)
    }

    /// Junk of the clause, its calls, its block and the blocks inside, in no particular order.
    pub fn all_junk(&self) -> Vec<Span> {
        let mut all = self.junk.clone();
        all.extend(self.head.iter().flat_map(Value::junk));
        if let Some(block) = &self.block {
            block.collect_junk(&mut all);
        }
        all
    }

    /// Whether nothing is missing or left over: no junk, every bracket closed.
    pub fn is_whole(&self) -> bool {
        self.junk.is_empty()
            && self.inside.is_none()
            && self.head.iter().all(Value::is_whole)
            && self.block.as_ref().is_none_or(Block::is_whole)
    }
}

/// `< option* >`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The options in source order; names may repeat.
    pub options: Vec<Opt>,
    /// Pieces that are no option.
    pub junk: Vec<Span>,
    /// The `<`.
    pub open: Span,
    /// Whether the `>` is missing.
    pub unclosed: bool,
    /// From `<` to `>`, or to the last token when unclosed.
    pub span: Span,
}

impl Block {
    fn collect_junk(&self, all: &mut Vec<Span>) {
        all.extend(&self.junk);
        for option in &self.options {
            all.extend(option.values.iter().flat_map(Value::junk));
            if let Some(inner) = &option.inner {
                inner.collect_junk(all);
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.junk.is_empty()
            && !self.unclosed
            && self.options.iter().all(|option| {
                option.values.iter().all(Value::is_whole) && option.inner.as_ref().is_none_or(Block::is_whole)
            })
    }
}

/// `NAME cmp? value inner?`. Several values only when all are numbers. No value at all is an error to report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opt {
    /// Its name.
    pub name: Spanned<String>,
    /// A bound, as in `code >= 10%`.
    pub cmp: Option<Spanned<Cmp>>,
    /// What follows the name.
    pub values: Vec<Value>,
    /// The block of this option; its options have no block.
    pub inner: Option<Block>,
    /// From the name to the last token.
    pub span: Span,
}

/// A comparison. The language has only [`Le`](Cmp::Le) and [`Ge`](Cmp::Ge); the strict ones are kept so that a checker
/// can say: write `<=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cmp {
    /// `<=`
    Le,
    /// `>=`
    Ge,
    /// `<` before a number: an error.
    Lt,
    /// `>` before a number: an error.
    Gt,
}

impl Cmp {
    /// As it is typed.
    pub fn text(self) -> &'static str {
        match self {
            Cmp::Le => "<=",
            Cmp::Ge => ">=",
            Cmp::Lt => "<",
            Cmp::Gt => ">",
        }
    }

    /// Whether it is one of the two that the language lacks.
    pub fn is_strict(self) -> bool {
        matches!(self, Cmp::Lt | Cmp::Gt)
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `4_194_304 tokens`, `¥18/h`, `10%`
    Quantity(Quantity),
    /// A number with a tail that means nothing: `8kk`, `1t`. An error to report. The span holds a unit that follows, the
    /// text does not.
    BadNumber(Spanned<String>),
    /// `7b`, `350m`: the size of a model, never arithmetic.
    Size(Spanned<String>),
    /// `64xH100`, `8x8xH100`
    Cluster(Cluster),
    /// The text between the quotes; the span holds the quotes.
    String(Spanned<String>),
    /// `yarn(s=2)`
    Call(Call),
    /// `adamw`
    Word(Spanned<String>),
    /// `memory <= 76 GiB`, only in a head.
    Compare(Compare),
}

impl Value {
    /// Where it was typed.
    pub fn span(&self) -> Span {
        match self {
            Value::Quantity(quantity) => quantity.span,
            Value::Cluster(cluster) => cluster.span,
            Value::Call(call) => call.span,
            Value::Compare(compare) => compare.span,
            Value::BadNumber(text) | Value::Size(text) | Value::String(text) | Value::Word(text) => text.span,
        }
    }

    /// The word, if it is one.
    pub fn as_word(&self) -> Option<&str> {
        match self {
            Value::Word(word) => Some(&word.value),
            _ => None,
        }
    }

    fn junk(&self) -> &[Span] {
        match self {
            Value::Call(call) => &call.junk,
            _ => &[],
        }
    }

    fn is_whole(&self) -> bool {
        !matches!(self, Value::Call(call) if call.unclosed || !call.junk.is_empty())
    }
}

/// `currency? number suffix? unit?`, as text: the dimension is the compiler's matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    /// `¥`, `$` or `€`.
    pub currency: Option<char>,
    /// The number without `_`: `-3`, `0.7`, `3e-4`; `str::parse::<f64>` reads it.
    pub number: String,
    /// `k`, `M`, `B` or `T`.
    pub suffix: Option<char>,
    /// `%`, `x`, a unit word (`tokens`, `GiB`), a rate (`/h`) or both (`GiB/s`).
    pub unit: Option<Spanned<String>>,
    /// From currency to unit.
    pub span: Span,
}

/// `NxSKU` or `NODESxGPUSxSKU`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// One or two counts as typed: digits only, of any length.
    pub counts: Vec<Spanned<String>>,
    /// `H100`
    pub sku: Spanned<String>,
    /// The whole token.
    pub span: Span,
}

/// `name(args)`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The name before `(`.
    pub name: Spanned<String>,
    /// The arguments in source order.
    pub args: Vec<Arg>,
    /// Pieces that are no argument.
    pub junk: Vec<Span>,
    /// Whether the `)` is missing.
    pub unclosed: bool,
    /// From the name to `)`.
    pub span: Span,
}

/// `s=2` or `0.7`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// The name before `=`.
    pub name: Option<Spanned<String>>,
    /// A quantity, bad number, string or word.
    pub value: Value,
    /// From the name to the value.
    pub span: Span,
}

/// `memory <= 76 GiB`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The metric.
    pub name: Spanned<String>,
    /// The bound's direction.
    pub cmp: Spanned<Cmp>,
    /// The bound: a quantity or a bad number.
    pub value: Box<Value>,
    /// From the name to the value.
    pub span: Span,
}

/// One piece of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// What it is.
    pub kind: LeafKind,
    /// Where.
    pub span: Span,
}

/// What a [`Leaf`] is. The last three are trivia.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeafKind {
    /// A word that starts a clause.
    Keyword,
    /// A name or word.
    Name,
    /// The name of a call.
    Callee,
    /// A quantity with all its parts.
    Quantity,
    /// A number with a meaningless tail.
    BadNumber,
    /// The size of a model.
    Size,
    /// A cluster with all its parts.
    Cluster,
    /// A string with its quotes.
    String,
    /// `<=`, `>=`, or a strict comparison.
    Cmp,
    /// `<`
    Open,
    /// `>`
    Close,
    /// `(`
    OpenParen,
    /// `)`
    CloseParen,
    /// `=`
    Equals,
    /// What fits nowhere.
    Junk,
    /// Blanks and newlines.
    Blank,
    /// A separator that is no blank.
    Comma,
    /// From `#` to the end of the line.
    Comment,
}

impl LeafKind {
    /// Whether it carries no meaning.
    pub fn is_trivia(self) -> bool {
        matches!(self, LeafKind::Blank | LeafKind::Comma | LeafKind::Comment)
    }
}
