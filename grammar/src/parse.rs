//! From pest's pairs to the tree. Total: the grammar has a place for every byte, and should it ever not, the text
//! becomes one piece of junk.

use pest::Parser;
use pest::iterators::Pair;

use crate::Keyword;
use crate::tree::{
    Arg, Block, Call, Clause, Cluster, Cmp, Compare, Leaf, LeafKind, Opt, Quantity, Span, Spanned, Tree,
    Value,
};

/// The generated parser. Its rules are named to users by `symbol.rs` only.
#[allow(missing_docs)] // pest derives the variants from the grammar file, where each is explained
pub(crate) mod generated {
    #[derive(pest_derive::Parser)]
    #[grammar = "llm.pest"]
    pub struct RecipeParser;
}
use generated::{RecipeParser, Rule};

/// Parses a recipe. Never fails and never panics; time is linear in the length of the text.
pub fn parse(text: &str) -> Tree {
    let mut builder = Builder { leaves: Vec::new() };
    let (mut clauses, mut stray) = (Vec::new(), Vec::new());
    match RecipeParser::parse(Rule::recipe, text) {
        Ok(recipe) => {
            for pair in recipe.flat_map(Pair::into_inner) {
                match pair.as_rule() {
                    Rule::clause => clauses.extend(builder.clause(pair)),
                    Rule::stray => builder.junk(&pair, &mut stray),
                    _ => {}
                }
            }
        }
        Err(_) => {
            let trimmed = text.trim();
            let start = text.len() - text.trim_start().len();
            stray.push(Span { start, end: start + trimmed.len() });
            builder
                .leaves
                .push(Leaf { kind: LeafKind::Junk, span: Span { start, end: start + trimmed.len() } });
        }
    }
    mark_misplaced(&mut clauses, text);
    Tree { text: text.to_owned(), clauses, stray, leaves: with_trivia(text, &builder.leaves) }
}

/// Collects the leaves while nodes are built, so that a node ends where its last leaf ends: pest's own spans of
/// normal rules include trailing blanks.
struct Builder {
    leaves: Vec<Leaf>,
}

impl Builder {
    fn leaf(&mut self, kind: LeafKind, pair: &Pair<'_, Rule>) -> Span {
        let span = span_of(pair);
        self.leaves.push(Leaf { kind, span });
        span
    }

    fn named(&mut self, kind: LeafKind, pair: &Pair<'_, Rule>) -> Spanned<String> {
        Spanned { value: pair.as_str().to_owned(), span: self.leaf(kind, pair) }
    }

    /// Neighbouring pieces of junk become one.
    fn junk(&mut self, pair: &Pair<'_, Rule>, pieces: &mut Vec<Span>) {
        let last = self.leaves.last().map(|leaf| leaf.span);
        let span = self.leaf(LeafKind::Junk, pair);
        match pieces.last_mut() {
            Some(piece) if last.is_some_and(|last| last.end == piece.end) => piece.end = span.end,
            _ => pieces.push(span),
        }
    }

    /// From a start to the end of the last leaf.
    fn since(&self, start: usize) -> Span {
        Span { start, end: self.leaves.last().map_or(start, |leaf| leaf.span.end) }
    }

    fn clause(&mut self, pair: Pair<'_, Rule>) -> Option<Clause> {
        let start = pair.as_span().start();
        let (mut keyword, mut head, mut block, mut junk) = (None, Vec::new(), None, Vec::new());
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::keyword | Rule::expect => {
                    let span = self.leaf(LeafKind::Keyword, &part);
                    keyword = Keyword::from_text(part.as_str()).map(|value| Spanned { value, span });
                }
                Rule::block => block = Some(self.block(part)),
                Rule::head_junk | Rule::stray => self.junk(&part, &mut junk),
                _ => head.extend(self.value(part)),
            }
        }
        Some(Clause { keyword: keyword?, head, block, junk, inside: None, span: self.since(start) })
    }

    fn block(&mut self, pair: Pair<'_, Rule>) -> Block {
        let start = pair.as_span().start();
        let (mut options, mut junk, mut open, mut unclosed) = (Vec::new(), Vec::new(), Span::default(), true);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::open => open = self.leaf(LeafKind::Open, &part),
                Rule::close => {
                    self.leaf(LeafKind::Close, &part);
                    unclosed = false;
                }
                Rule::block_junk => self.junk(&part, &mut junk),
                _ => options.extend(self.option(part)),
            }
        }
        Block { options, junk, open, unclosed, span: self.since(start) }
    }

    fn option(&mut self, pair: Pair<'_, Rule>) -> Option<Opt> {
        let start = pair.as_span().start();
        let (mut name, mut cmp, mut values, mut inner) = (None, None, Vec::new(), None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.named(LeafKind::Name, &part)),
                Rule::cmp | Rule::strict_cmp => cmp = Some(self.cmp(&part)),
                Rule::inner => inner = Some(self.block(part)),
                _ => values.extend(self.value(part)),
            }
        }
        Some(Opt { name: name?, cmp, values, inner, span: self.since(start) })
    }

    fn cmp(&mut self, pair: &Pair<'_, Rule>) -> Spanned<Cmp> {
        let less = pair.as_str().starts_with(['<', '＜']);
        let value = match (pair.as_rule(), less) {
            (Rule::cmp, true) => Cmp::Le,
            (Rule::cmp, false) => Cmp::Ge,
            (_, true) => Cmp::Lt,
            (_, false) => Cmp::Gt,
        };
        Spanned { value, span: self.leaf(LeafKind::Cmp, pair) }
    }

    fn value(&mut self, pair: Pair<'_, Rule>) -> Option<Value> {
        Some(match pair.as_rule() {
            Rule::quantity => Value::Quantity(self.quantity(pair)),
            Rule::bad_number => {
                let span = self.leaf(LeafKind::BadNumber, &pair);
                Value::BadNumber(Spanned { value: pair.into_inner().next()?.as_str().to_owned(), span })
            }
            Rule::size => Value::Size(self.named(LeafKind::Size, &pair)),
            Rule::cluster => Value::Cluster(self.cluster(pair)?),
            Rule::string => {
                let span = self.leaf(LeafKind::String, &pair);
                Value::String(Spanned { value: pair.as_str().trim_matches('"').to_owned(), span })
            }
            Rule::word => Value::Word(self.named(LeafKind::Name, &pair.into_inner().next()?)),
            Rule::optimizer => Value::Word(self.named(LeafKind::Name, &pair)),
            Rule::call => Value::Call(self.call(pair)?),
            Rule::compare | Rule::strict => Value::Compare(self.compare(pair)?),
            _ => return None,
        })
    }

    fn quantity(&mut self, pair: Pair<'_, Rule>) -> Quantity {
        let span = self.leaf(LeafKind::Quantity, &pair);
        let mut quantity = Quantity { currency: None, number: String::new(), suffix: None, unit: None, span };
        for part in pair.into_inner() {
            let text = part.as_str();
            match part.as_rule() {
                Rule::currency => {
                    quantity.currency = text.chars().next().map(|c| if c == '￥' { '¥' } else { c })
                }
                Rule::num => quantity.number = text.replace('_', ""),
                Rule::suffix => quantity.suffix = text.chars().next(),
                Rule::ratio => {
                    let value = if matches!(text, "x" | "×") { "x" } else { "%" };
                    quantity.unit = Some(Spanned { value: value.to_owned(), span: span_of(&part) });
                }
                _ => quantity.unit = Some(Spanned { value: text.to_owned(), span: span_of(&part) }),
            }
        }
        quantity
    }

    fn cluster(&mut self, pair: Pair<'_, Rule>) -> Option<Cluster> {
        let span = self.leaf(LeafKind::Cluster, &pair);
        let (mut counts, mut sku) = (Vec::new(), None);
        for part in pair.into_inner() {
            let text = Spanned { value: part.as_str().to_owned(), span: span_of(&part) };
            match part.as_rule() {
                Rule::count => counts.push(text),
                _ => sku = Some(text),
            }
        }
        Some(Cluster { counts, sku: sku?, span })
    }

    fn call(&mut self, pair: Pair<'_, Rule>) -> Option<Call> {
        let start = pair.as_span().start();
        let (mut name, mut args, mut junk, mut unclosed) = (None, Vec::new(), Vec::new(), true);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::callee => name = Some(self.named(LeafKind::Callee, &part)),
                Rule::lparen => drop(self.leaf(LeafKind::OpenParen, &part)),
                Rule::rparen => {
                    self.leaf(LeafKind::CloseParen, &part);
                    unclosed = false;
                }
                Rule::call_junk => self.junk(&part, &mut junk),
                _ => args.extend(self.arg(part)),
            }
        }
        Some(Call { name: name?, args, junk, unclosed, span: self.since(start) })
    }

    fn arg(&mut self, pair: Pair<'_, Rule>) -> Option<Arg> {
        let start = pair.as_span().start();
        let (mut name, mut value) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.named(LeafKind::Name, &part)),
                Rule::equals => drop(self.leaf(LeafKind::Equals, &part)),
                _ => value = self.value(part),
            }
        }
        Some(Arg { name, value: value?, span: self.since(start) })
    }

    fn compare(&mut self, pair: Pair<'_, Rule>) -> Option<Compare> {
        let start = pair.as_span().start();
        let (mut name, mut cmp, mut value) = (None, None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.named(LeafKind::Name, &part)),
                Rule::cmp | Rule::strict_cmp => cmp = Some(self.cmp(&part)),
                _ => value = self.value(part),
            }
        }
        Some(Compare { name: name?, cmp: cmp?, value: Box::new(value?), span: self.since(start) })
    }
}

fn span_of(pair: &Pair<'_, Rule>) -> Span {
    let span = pair.as_span();
    Span { start: span.start(), end: span.end() }
}

/// A clause without a block that holds a stray `>`, after a clause whose block lacks one, stands inside that block;
/// so do the clauses between the two.
fn mark_misplaced(clauses: &mut [Clause], text: &str) {
    let mut open: Option<(usize, Spanned<Keyword>)> = None;
    for at in 0..clauses.len() {
        let Some(clause) = clauses.get(at) else { break };
        if let Some(block) = &clause.block {
            open = block.unclosed.then(|| (at, clause.keyword.clone()));
            continue;
        }
        let closes =
            |span: &Span| text.get(span.start..span.end).is_some_and(|piece| piece.contains(['>', '＞']));
        if clause.junk.iter().any(closes)
            && let Some((from, keyword)) = open.take()
        {
            for clause in clauses.iter_mut().take(at + 1).skip(from + 1) {
                clause.inside = Some(keyword.clone());
            }
        }
    }
}

/// Fills the gaps between tokens with blanks, commas and comments, so that the leaves are the source.
fn with_trivia(text: &str, tokens: &[Leaf]) -> Vec<Leaf> {
    let mut leaves = Vec::with_capacity(tokens.len() * 2 + 1);
    let mut at = 0;
    for token in tokens {
        trivia(text, at, token.span.start, &mut leaves);
        leaves.push(*token);
        at = token.span.end;
    }
    trivia(text, at, text.len(), &mut leaves);
    leaves
}

fn trivia(text: &str, mut at: usize, end: usize, leaves: &mut Vec<Leaf>) {
    let class = |c: char| match c {
        '#' => LeafKind::Comment,
        ',' | '，' => LeafKind::Comma,
        ' ' | '\t' | '\r' | '\n' | '\u{3000}' | '\u{A0}' | '\u{FEFF}' => LeafKind::Blank,
        _ => LeafKind::Junk,
    };
    while let Some(rest) = text.get(at..end).filter(|rest| !rest.is_empty()) {
        let kind = rest.chars().next().map_or(LeafKind::Junk, class);
        let stop = |c: char| match kind {
            LeafKind::Comment => c == '\n' || c == '\r',
            _ => class(c) != kind,
        };
        let length = rest.find(stop).unwrap_or(rest.len());
        leaves.push(Leaf { kind, span: Span { start: at, end: at + length } });
        at += length;
    }
}
