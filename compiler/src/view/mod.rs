//! A plan for people. Everything here is rendered from the [`llmc_plan::plan::Plan`] alone, never from the compiler's
//! own state, so a plan file shows what the compiler showed.

mod detail;
mod human;
mod markdown;
mod words;

pub use human::{LABEL, human, human_verbose};
pub use markdown::{markdown, markdown_template};
pub use words::{layout_words, schedule_word};
