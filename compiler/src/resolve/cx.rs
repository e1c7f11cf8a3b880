//! The context of resolving: trees, the mark on every consumed token, and the findings.
//!
//! Not here: how clauses of several sources become one (`merge.rs`), what they mean (the files of each clause).

use llmc_grammar::{LeafKind, Tree};

use crate::diag::{Diagnostic, Source, Span};

/// One parsed text with a mark for each token.
struct Marked {
    source: Source,
    tree: Tree,
    used: Vec<bool>,
}

/// The recipe and each `--set`, being read.
pub struct Cx {
    texts: Vec<Marked>,
    /// What was found so far.
    pub diagnostics: Vec<Diagnostic>,
}

impl Cx {
    /// Parses the recipe and the small recipes that `--set` stands for.
    pub fn new(recipe: &str, sets: &[String]) -> Self {
        let mut texts = Vec::new();
        let all = std::iter::once((Source::Recipe, recipe))
            .chain(sets.iter().enumerate().map(|(i, text)| (Source::Set(i + 1), text.as_str())));
        for (source, text) in all {
            let tree = llmc_grammar::parse(text);
            let used = vec![false; tree.leaves().len()];
            texts.push(Marked { source, tree, used });
        }
        Cx { texts, diagnostics: Vec::new() }
    }

    /// Every tree with its source, the recipe first.
    pub fn trees(&self) -> impl Iterator<Item = (Source, &Tree)> {
        self.texts.iter().map(|t| (t.source, &t.tree))
    }

    /// The text under a span.
    pub fn slice(&self, span: Span) -> &str {
        let tree = self.texts.iter().find(|t| t.source == span.source).map(|t| &t.tree);
        tree.and_then(|t| t.text().get(span.start..span.end)).unwrap_or("")
    }

    /// Marks every token inside the span as consumed.
    pub fn mark(&mut self, span: Span) {
        let Some(text) = self.texts.iter_mut().find(|t| t.source == span.source) else { return };
        let leaves = text.tree.leaves();
        let first = leaves.partition_point(|leaf| leaf.span.start < span.start);
        for (leaf, used) in leaves.iter().zip(text.used.iter_mut()).skip(first) {
            if leaf.span.start >= span.end {
                break;
            }
            *used |= leaf.span.end <= span.end;
        }
    }

    /// Adds a finding.
    pub fn report(&mut self, d: Diagnostic) {
        self.diagnostics.push(d);
    }

    /// Runs of neighbouring tokens that no rule consumed and no finding's span holds, in order.
    pub fn leftovers(&self) -> Vec<Span> {
        let mut out: Vec<Span> = Vec::new();
        for text in &self.texts {
            let mut held: Vec<(usize, usize)> = (self.diagnostics.iter())
                .flat_map(|d| &d.labels)
                .filter(|label| label.source == text.source)
                .map(|label| (label.start, label.end))
                .collect();
            held.sort_unstable();
            let mut open: Option<Span> = None;
            let (mut next, mut reach) = (0, 0);
            for (leaf, used) in text.tree.leaves().iter().zip(&text.used) {
                if leaf.kind.is_trivia() {
                    continue;
                }
                // The furthest end of all labels that start at or before this token.
                while let Some((_, end)) = held.get(next).filter(|(start, _)| *start <= leaf.span.start) {
                    reach = reach.max(*end);
                    next += 1;
                }
                if *used || reach >= leaf.span.end {
                    out.extend(open.take());
                    continue;
                }
                let span = Span { source: text.source, start: leaf.span.start, end: leaf.span.end };
                if leaf.kind == LeafKind::Keyword {
                    out.extend(open.take());
                }
                open = Some(open.map_or(span, |o| o.join(span)));
            }
            out.extend(open);
        }
        out
    }
}

/// A grammar span in its source.
pub fn span(source: Source, s: llmc_grammar::Span) -> Span {
    Span { source, start: s.start, end: s.end }
}
