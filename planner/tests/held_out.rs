//! The page of errors says of the rows never fitted what the committed profiles do.
#![allow(clippy::unwrap_used)] // a page that is not there is a broken test

use llmc_planner::accuracy::{HELD_OUT, held_out, held_out_peaks};
use llmc_planner::score::score;

#[test]
fn the_page_is_true_of_rows_never_fitted() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/accuracy.md")).unwrap();
    for section in [held_out(), held_out_peaks()] {
        let section = section.unwrap();
        assert!(page.contains(&section), "docs/accuracy.md lacks:\n{section}");
    }
    let scores = score(HELD_OUT).unwrap();
    assert_eq!(scores.overall.refused, 0);
    for row in &scores.rows {
        // A row gives a time, a peak or both.
        assert!(row.time_error.or(row.memory_error).is_some(), "{row:?}");
        assert!(row.time_error.unwrap_or(0.0).abs() < 1.0, "{row:?}");
    }
}
