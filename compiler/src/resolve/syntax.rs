//! What the parser kept but could not place, reported in one pass over every tree.

use llmc_grammar::{Block, Clause, Keyword, LeafKind, Tree, Value};

use super::cx::{Cx, span};
use crate::check::syntax::{clause as clause_rule, junk, misplaced, number, strict, unclosed};
use crate::diag::{Diagnostic, Source, nearest};

/// Reports junk, open brackets, misplaced clauses, bad numbers and strict comparisons.
pub fn report(cx: &mut Cx) {
    let mut found: Vec<Diagnostic> = Vec::new();
    for (source, tree) in cx.trees() {
        for &piece in tree.stray() {
            junk_or_clause(source, tree, piece, &mut found);
        }
        for clause in tree.clauses() {
            report_clause(source, tree, clause, &mut found);
        }
        for leaf in tree.leaves() {
            if leaf.kind == LeafKind::BadNumber {
                found.push(number::found(span(source, leaf.span), tree.slice(leaf.span)));
            }
        }
    }
    for d in found {
        cx.report(d);
    }
}

/// A piece of text that starts with a misspelt keyword is a clause; anything else is junk.
fn junk_or_clause(source: Source, tree: &Tree, piece: llmc_grammar::Span, found: &mut Vec<Diagnostic>) {
    let text = tree.slice(piece);
    let word = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next().unwrap_or("");
    let near = nearest(word, Keyword::ALL.iter().map(|k| k.text()));
    if word.is_empty() || near.is_none() {
        found.push(junk::found(span(source, piece), text));
        return;
    }
    let at = llmc_grammar::Span { start: piece.start, end: piece.start + word.len() };
    found.push(clause_rule::found(span(source, piece), span(source, at), word, near));
}

fn report_clause(source: Source, tree: &Tree, clause: &Clause, found: &mut Vec<Diagnostic>) {
    if let Some(outer) = &clause.inside {
        let (inner, outer_span) = (span(source, clause.span), span(source, outer.span));
        found.push(misplaced::found(inner, clause.keyword.value.text(), outer_span, outer.value.text()));
    }
    for piece in &clause.junk {
        // The bracket that closes the outer block is part of that finding.
        if clause.inside.is_none() {
            junk_or_clause(source, tree, *piece, found);
        }
    }
    for value in &clause.head {
        report_value(source, tree, value, found);
    }
    if let Some(block) = &clause.block {
        // The clauses inside a block follow it.
        let next = tree.clauses().partition_point(|c| c.span.start <= clause.span.start);
        let inside = tree.clauses().get(next).and_then(|c| c.inside.as_ref());
        let closed_later = inside.is_some_and(|k| k.span == clause.keyword.span);
        report_block(source, tree, block, clause.keyword.value.text(), closed_later, found);
    }
}

fn report_block(
    source: Source,
    tree: &Tree,
    block: &Block,
    owner: &str,
    closed_later: bool,
    found: &mut Vec<Diagnostic>,
) {
    if block.unclosed && !closed_later {
        found.push(unclosed::found(span(source, block.open), ("<", ">"), owner));
    }
    for piece in &block.junk {
        found.push(junk::found(span(source, *piece), tree.slice(*piece)));
    }
    for option in &block.options {
        if let Some(cmp) = &option.cmp
            && cmp.value.is_strict()
        {
            found.push(strict::found(span(source, cmp.span), &option.name.value, cmp.value.text()));
        }
        for value in &option.values {
            report_value(source, tree, value, found);
        }
        if let Some(inner) = &option.inner {
            report_block(source, tree, inner, &option.name.value, false, found);
        }
    }
}

fn report_value(source: Source, tree: &Tree, value: &Value, found: &mut Vec<Diagnostic>) {
    match value {
        Value::Call(call) => {
            if call.unclosed {
                found.push(unclosed::found(span(source, call.name.span), ("(", ")"), &call.name.value));
            }
            for piece in &call.junk {
                found.push(junk::found(span(source, *piece), tree.slice(*piece)));
            }
        }
        Value::Compare(compare) if compare.cmp.value.is_strict() => {
            found.push(strict::found(
                span(source, compare.cmp.span),
                &compare.name.value,
                compare.cmp.value.text(),
            ));
        }
        _ => {}
    }
}
