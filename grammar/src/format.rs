//! The one canonical layout: a clause a line, a block inline while it fits [`WIDTH`], else an option a line with the
//! values aligned. Comments and single blank lines stay, full-width forms become their ASCII twins, meaning is
//! unchanged, and a second pass changes nothing. A clause with junk or a missing bracket stays as it was typed.

use pest::Parser;

use crate::parse::generated::{RecipeParser, Rule};
use crate::tree::{Block, Call, Clause, LeafKind, Opt, Quantity, Span, Tree, Value};

/// Columns a clause may take before its block is broken.
const WIDTH: usize = 80;
/// How far an option stands in from its clause.
const INDENT: usize = 2;
/// How far a value stands in that a comment forces to a line of its own.
const CONTINUE: usize = 4;

/// The canonical text of a recipe. Ends in a newline unless empty.
pub fn format(tree: &Tree) -> String {
    let comments =
        tree.leaves().iter().filter(|leaf| leaf.kind == LeafKind::Comment).map(|leaf| leaf.span).collect();
    let layout = Layout { tree, comments };
    let mut pieces: Vec<Piece> = tree.stray().iter().map(|span| layout.verbatim(*span)).collect();
    for clause in tree.clauses() {
        pieces.extend(layout.clause(clause));
    }
    layout.write(&pieces)
}

/// What stands before a piece.
#[derive(Clone, Copy)]
enum Gap {
    /// This many spaces; the indent of the line holds should a comment break it.
    Spaces { count: usize, indent: usize },
    /// A new line; comments before it may be indented differently, blank lines may be kept.
    Line { indent: usize, comments: usize, blank: bool },
}

/// A token as it is printed, and where it was typed.
struct Piece {
    gap: Gap,
    text: String,
    span: Span,
    /// A number without a unit: a unit word after it would become its own.
    bare: bool,
}

struct Layout<'a> {
    tree: &'a Tree,
    comments: Vec<Span>,
}

impl Layout<'_> {
    fn piece(&self, gap: Gap, span: Span) -> Piece {
        Piece { gap, text: self.tree.slice(span).to_owned(), span, bare: false }
    }

    fn verbatim(&self, span: Span) -> Piece {
        self.piece(Gap::Line { indent: 0, comments: 0, blank: true }, span)
    }

    fn has_comment(&self, span: Span) -> bool {
        let first = self.comments.partition_point(|comment| comment.start < span.start);
        self.comments.get(first).is_some_and(|comment| comment.start < span.end)
    }

    fn clause(&self, clause: &Clause) -> Vec<Piece> {
        if !clause.is_whole() {
            return vec![self.verbatim(clause.span)];
        }
        let mut pieces = vec![self.verbatim(clause.keyword.span)];
        for (at, value) in clause.head.iter().enumerate() {
            let wide = at > 0 && matches!(value, Value::Compare(_));
            self.value(value, Gap::Spaces { count: if wide { 2 } else { 1 }, indent: 0 }, &mut pieces);
        }
        if let Some(block) = &clause.block {
            self.block(block, 0, &mut pieces);
        }
        separate_units(&mut pieces);
        pieces
    }

    /// Inline when the line so far, the block included, fits and no comment stands inside; else broken.
    fn block(&self, block: &Block, indent: usize, pieces: &mut Vec<Piece>) {
        let before = pieces.len();
        self.inline(block, indent, pieces);
        if indent + columns(pieces) <= WIDTH && !self.has_comment(block.span) {
            return;
        }
        pieces.truncate(before + 1);
        let names = block.options.iter().map(|option| columns_of(&option.name.value)).max().unwrap_or(0);
        let inner = indent + INDENT;
        for (at, option) in block.options.iter().enumerate() {
            let mut line = Vec::new();
            let gap = Gap::Spaces { count: 0, indent: inner };
            self.option(option, gap, names, &mut line);
            if let Some(block) = &option.inner {
                self.block(block, inner, &mut line);
            }
            if let Some(first) = line.first_mut() {
                first.gap = Gap::Line { indent: inner, comments: inner, blank: at > 0 };
            }
            pieces.extend(line);
        }
        pieces.push(self.close(Gap::Line { indent, comments: inner, blank: false }, ">", block.span));
    }

    fn inline(&self, block: &Block, indent: usize, pieces: &mut Vec<Piece>) {
        let space = |count| Gap::Spaces { count, indent };
        pieces.push(Piece { text: "<".to_owned(), ..self.piece(space(1), block.open) });
        for (at, option) in block.options.iter().enumerate() {
            self.option(option, space(if at > 0 { 2 } else { 1 }), 0, pieces);
            if let Some(inner) = &option.inner {
                self.inline(inner, indent, pieces);
            }
        }
        pieces.push(self.close(space(1), ">", block.span));
    }

    /// The bracket that ends a span.
    fn close(&self, gap: Gap, bracket: &str, span: Span) -> Piece {
        Piece { text: bracket.to_owned(), ..self.piece(gap, Span { start: span.end, end: span.end }) }
    }

    /// An option without its block. What follows the name stands at column `names` or right after the name.
    fn option(&self, option: &Opt, gap: Gap, names: usize, pieces: &mut Vec<Piece>) {
        let (Gap::Spaces { indent, .. } | Gap::Line { indent, .. }) = gap;
        pieces.push(self.piece(gap, option.name.span));
        let second = pieces.len();
        let space = Gap::Spaces { count: 1, indent };
        if let Some(cmp) = &option.cmp {
            pieces.push(Piece { text: cmp.value.text().to_owned(), ..self.piece(space, cmp.span) });
        }
        for value in &option.values {
            self.value(value, space, pieces);
        }
        if let Some(piece) = pieces.get_mut(second) {
            let pad = names.saturating_sub(columns_of(&option.name.value));
            piece.gap = Gap::Spaces { count: 1 + pad, indent };
        }
    }

    fn value(&self, value: &Value, gap: Gap, pieces: &mut Vec<Piece>) {
        let (Gap::Spaces { indent, .. } | Gap::Line { indent, .. }) = gap;
        match value {
            Value::Quantity(quantity) => {
                let bare = quantity.unit.is_none();
                pieces.push(Piece { text: self.quantity(quantity), bare, ..self.piece(gap, quantity.span) });
            }
            Value::Cluster(cluster) => {
                let text = self.tree.slice(cluster.span).replace('×', "x");
                pieces.push(Piece { text, ..self.piece(gap, cluster.span) });
            }
            Value::Call(call) => self.call(call, gap, indent, pieces),
            Value::Compare(compare) => {
                let space = Gap::Spaces { count: 1, indent };
                pieces.push(self.piece(gap, compare.name.span));
                let text = compare.cmp.value.text().to_owned();
                pieces.push(Piece { text, ..self.piece(space, compare.cmp.span) });
                self.value(&compare.value, space, pieces);
            }
            Value::BadNumber(text) => pieces.push(Piece { bare: true, ..self.piece(gap, text.span) }),
            Value::Size(text) | Value::String(text) | Value::Word(text) => {
                pieces.push(self.piece(gap, text.span))
            }
        }
    }

    fn call(&self, call: &Call, gap: Gap, indent: usize, pieces: &mut Vec<Piece>) {
        let tight = Gap::Spaces { count: 0, indent };
        pieces.push(Piece { text: format!("{}(", call.name.value), ..self.piece(gap, call.name.span) });
        for (at, arg) in call.args.iter().enumerate() {
            let gap = if at > 0 { Gap::Spaces { count: 1, indent } } else { tight };
            match &arg.name {
                Some(name) => {
                    pieces.push(Piece { text: format!("{}=", name.value), ..self.piece(gap, name.span) });
                    self.value(&arg.value, tight, pieces);
                }
                None => self.value(&arg.value, gap, pieces),
            }
            if let Some(piece) = pieces.last_mut().filter(|_| at + 1 < call.args.len()) {
                piece.text.push(',');
            }
        }
        pieces.push(self.close(tight, ")", call.span));
    }

    fn quantity(&self, quantity: &Quantity) -> String {
        let Some(unit) = &quantity.unit else {
            return self.tree.slice(quantity.span).replace('￥', "¥");
        };
        let number = self.tree.slice(Span { start: quantity.span.start, end: unit.span.start });
        let tight = matches!(unit.value.as_str(), "%" | "x") || unit.value.starts_with('/');
        let space = if tight { "" } else { " " };
        format!("{}{space}{}", number.trim_end().replace('￥', "¥"), unit.value)
    }

    /// Joins the pieces, putting each comment back into the gap it was typed in.
    fn write(&self, pieces: &[Piece]) -> String {
        let mut out = String::with_capacity(self.tree.text().len() * 2);
        let (mut at, mut comments) = (0, self.comments.as_slice());
        let end = Span { start: self.tree.text().len(), end: self.tree.text().len() };
        let last = Piece {
            gap: Gap::Line { indent: 0, comments: 0, blank: true },
            text: String::new(),
            span: end,
            bare: false,
        };
        for piece in pieces.iter().chain([&last]) {
            let (next, of_comments, keep_blank) = match piece.gap {
                Gap::Spaces { indent, .. } => (indent + CONTINUE, indent + CONTINUE, false),
                Gap::Line { indent, comments, blank } => (indent, comments, blank),
            };
            let mut broken = matches!(piece.gap, Gap::Line { .. });
            while let Some((comment, rest)) =
                comments.split_first().filter(|(first, _)| first.start < piece.span.start)
            {
                comments = rest;
                if comment.start < at {
                    continue; // inside a piece printed as it was typed
                }
                let lines = self.lines(at, comment.start);
                if lines == 0 && !out.is_empty() {
                    out.push_str("  ");
                } else {
                    new_line(&mut out, of_comments, keep_blank && lines > 1);
                }
                out.push_str(self.tree.slice(*comment).trim_end());
                at = comment.end;
                broken = true;
            }
            if !piece.text.is_empty() {
                match piece.gap {
                    Gap::Spaces { count, .. } if !broken => out.extend(std::iter::repeat_n(' ', count)),
                    _ => new_line(&mut out, next, keep_blank && self.lines(at, piece.span.start) > 1),
                }
                out.push_str(&piece.text);
            }
            at = piece.span.end.max(at);
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out
    }

    /// How many line ends lie between two places.
    fn lines(&self, start: usize, end: usize) -> usize {
        let text = self.tree.slice(Span { start, end });
        text.matches(['\n', '\r']).count() - text.matches("\r\n").count()
    }
}

fn new_line(out: &mut String, indent: usize, blank: bool) {
    if !out.is_empty() {
        out.push_str(if blank { "\n\n" } else { "\n" });
    }
    out.extend(std::iter::repeat_n(' ', indent));
}

/// `keep 3` before an option named `min` is not three minutes: a comma keeps them apart on one line.
/// The lexer itself decides, as it will on the next pass.
fn separate_units(pieces: &mut [Piece]) {
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).chain([""]).collect();
    let is_unit = |ahead: &[&str]| RecipeParser::parse(Rule::unit, &ahead.join(" ")).is_ok();
    let follows: Vec<bool> = texts.windows(2).skip(1).map(is_unit).collect();
    for (piece, unit_follows) in pieces.iter_mut().zip(follows) {
        if piece.bare && unit_follows && !piece.text.ends_with(',') {
            piece.text.push(',');
        }
    }
}

/// Columns since the last line break.
fn columns(pieces: &[Piece]) -> usize {
    let mut sum = 0;
    for piece in pieces {
        match piece.gap {
            Gap::Spaces { count, .. } => sum += count,
            Gap::Line { .. } => sum = 0,
        }
        sum += columns_of(&piece.text);
    }
    sum
}

/// Columns in a terminal: from Hangul Jamo (U+1100) on, scripts are almost all wide.
fn columns_of(text: &str) -> usize {
    text.chars().map(|c| if c < '\u{1100}' { 1 } else { 2 }).sum()
}
