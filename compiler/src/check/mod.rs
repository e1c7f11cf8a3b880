//! Every diagnostic of the compiler, one file a rule, in one ordered list.
//!
//! A file holds the rule's words in both languages, its long page, and either `found` (called where the fault is met)
//! or `check` (run over the resolved recipe once rules have derived the rest).

pub mod meaning {
    //! What a well-formed recipe may still get wrong.
    pub mod base_absent;
    pub mod base_shape;
    pub mod batch_layout;
    pub mod batch_whole;
    pub mod budget_over;
    pub mod cluster;
    pub mod corpus;
    pub mod eval_window;
    pub mod expectation;
    pub mod fp8;
    pub mod gradients;
    pub mod impossible;
    pub mod in_place;
    pub mod layout;
    pub mod lr_high;
    pub mod master;
    pub mod mixture;
    pub mod mixture_limit;
    pub mod mount;
    pub mod multiple;
    pub mod no_hardware;
    pub mod no_model;
    pub mod profile;
    pub mod published;
    pub mod ratio;
    pub mod repeated;
    pub mod rope_beyond;
    pub mod rope_factor;
    pub mod rope_scratch;
    pub mod shape_unknown;
    pub mod shape_whole;
    pub mod shares;
    pub mod size_off;
    pub mod table_absent;
    pub mod table_rows;
    pub mod too_large;
    pub mod unfit;
    pub mod warmup;
}
pub mod names {
    //! Names that are on no list, with the nearest that is.
    pub mod argument;
    pub mod choice;
    pub mod hardware;
    pub mod option;
    pub mod source;
    pub mod unit;
}
pub mod syntax {
    //! What the parser kept but could not place.
    pub mod clause;
    pub mod junk;
    pub mod leftover;
    pub mod misplaced;
    pub mod number;
    pub mod set;
    pub mod size;
    pub mod strict;
    pub mod unclosed;
    pub mod valueless;
}
pub mod values {
    //! Quantities and words that do not fit their place.
    pub mod currency;
    pub mod dimension;
    pub mod kind;
    pub mod range;
    pub mod twice;
    pub mod whole;
}

use crate::diag::{Diagnostic, Rule};
use crate::resolve::Resolved;

/// Every rule, by code.
pub const RULES: &[&Rule] = &[
    &syntax::junk::RULE,
    &syntax::unclosed::RULE,
    &syntax::number::RULE,
    &syntax::strict::RULE,
    &syntax::misplaced::RULE,
    &syntax::valueless::RULE,
    &syntax::clause::RULE,
    &syntax::leftover::RULE,
    &syntax::set::RULE,
    &syntax::size::RULE,
    &names::option::RULE,
    &names::choice::RULE,
    &names::hardware::RULE,
    &names::unit::RULE,
    &names::argument::RULE,
    &names::source::RULE,
    &values::dimension::RULE,
    &values::range::RULE,
    &values::whole::RULE,
    &values::kind::RULE,
    &values::twice::RULE,
    &values::currency::RULE,
    &meaning::no_model::RULE,
    &meaning::no_hardware::RULE,
    &meaning::shape_unknown::RULE,
    &meaning::shape_whole::RULE,
    &meaning::size_off::RULE,
    &meaning::rope_factor::RULE,
    &meaning::rope_scratch::RULE,
    &meaning::rope_beyond::RULE,
    &meaning::too_large::RULE,
    &meaning::base_shape::RULE,
    &meaning::published::RULE,
    &meaning::cluster::RULE,
    &meaning::budget_over::RULE,
    &meaning::ratio::RULE,
    &meaning::batch_whole::RULE,
    &meaning::batch_layout::RULE,
    &meaning::warmup::RULE,
    &meaning::multiple::RULE,
    &meaning::lr_high::RULE,
    &meaning::fp8::RULE,
    &meaning::master::RULE,
    &meaning::gradients::RULE,
    &meaning::corpus::RULE,
    &meaning::base_absent::RULE,
    &meaning::shares::RULE,
    &meaning::eval_window::RULE,
    &meaning::mixture::RULE,
    &meaning::table_absent::RULE,
    &meaning::table_rows::RULE,
    &meaning::mount::RULE,
    &meaning::in_place::RULE,
    &meaning::mixture_limit::RULE,
    &meaning::profile::RULE,
    &meaning::repeated::RULE,
    &meaning::layout::RULE,
    &meaning::unfit::RULE,
    &meaning::impossible::RULE,
    &meaning::expectation::RULE,
];

/// Checks over the resolved recipe, in the order their findings are shown.
const CHECKS: &[fn(&Resolved, &mut Vec<Diagnostic>)] = &[
    meaning::no_model::check,
    meaning::shape_unknown::check,
    meaning::shape_whole::check,
    meaning::too_large::check,
    meaning::size_off::check,
    meaning::published::check,
    meaning::rope_scratch::check,
    meaning::rope_factor::check,
    meaning::rope_beyond::check,
    meaning::ratio::check,
    meaning::batch_whole::check,
    meaning::batch_layout::check,
    meaning::warmup::check,
    meaning::multiple::check,
    meaning::lr_high::check,
    meaning::fp8::check,
    meaning::master::check,
    meaning::gradients::check,
    meaning::shares::check,
    meaning::mixture::check,
    meaning::mixture_limit::check,
    meaning::repeated::check,
    meaning::in_place::check,
    meaning::eval_window::check,
    meaning::layout::check,
];

/// The rule of a code.
pub fn rule(code: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.code == code).copied()
}

/// Runs every check over a recipe whose rules have run.
pub fn run(r: &Resolved) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for check in CHECKS {
        check(r, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::{Text, names};

    #[test]
    fn codes_are_unique_and_ascending() {
        let codes: Vec<&str> = RULES.iter().map(|r| r.code).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert!(codes.iter().all(|c| c.len() == 7 && c.starts_with("LLM0")), "{codes:?}");
    }

    #[test]
    fn templates_name_only_declared_arguments_and_speak_both_languages() {
        for r in RULES {
            let pages = [r.page.what, r.page.why];
            let texts: Vec<&Text> = std::iter::once(&r.message).chain(r.labels).chain(r.help).collect();
            for t in &texts {
                let (mut en, mut zh) = (names(t.en), names(t.zh));
                for name in &en {
                    assert!(r.args.contains(name), "{}: {{{name}}} is not declared", r.code);
                }
                en.sort_unstable();
                en.dedup();
                zh.sort_unstable();
                zh.dedup();
                assert_eq!(en, zh, "{}: {} | {}", r.code, t.en, t.zh);
            }
            for t in texts.into_iter().chain(&pages).filter(|t| !t.en.is_empty() && !t.en.starts_with('{')) {
                assert!(t.zh.chars().any(|c| ('\u{4e00}'..'\u{9fff}').contains(&c)), "{}: {}", r.code, t.en);
            }
            assert!(!r.help.is_empty(), "{} has no next step", r.code);
            assert!(
                !r.page.example.is_empty() && !r.page.instead.is_empty() && r.page.example != r.page.instead
            );
        }
    }
}
