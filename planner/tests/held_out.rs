//! The page of errors says of the rows never fitted what the committed profiles do.
#![allow(clippy::unwrap_used)] // a page that is not there is a broken test

use llmc_planner::accuracy::{HELD_OUT, PEERS, held_out, held_out_peaks, peers};
use llmc_planner::score::score;

#[test]
fn the_page_is_true_of_rows_never_fitted() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/accuracy.md")).unwrap();
    for section in [held_out(), held_out_peaks(), peers()] {
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

/// Of runs whose every setting is known, the closed form is held to more than published peaks allow.
#[test]
fn peers_that_say_everything_are_predicted_closely() {
    let scores = score(PEERS).unwrap();
    assert_eq!((scores.rows.len(), scores.overall.refused), (102, 0));
    let errors = |kind: &str| -> Vec<f64> {
        let of = scores.rows.iter().filter(|row| row.id.ends_with(kind));
        of.map(|row| row.memory_error.unwrap().abs()).collect()
    };
    let mean = |errors: &[f64]| errors.iter().sum::<f64>() / errors.len() as f64;
    let (allocated, reserved) = (errors("allocated"), errors("reserved"));
    assert!(mean(&allocated) < 0.01 && allocated.iter().all(|e| *e < 0.035), "{allocated:?}");
    assert!(mean(&reserved) < 0.04 && reserved.iter().all(|e| *e < 0.13), "{reserved:?}");
}
