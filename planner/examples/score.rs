//! Prints the errors of the cost model on run tables: `cargo run --example score -- runs.csv`.
fn main() {
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return eprintln!("{path}: {error}"),
        };
        match llmc_planner::score::score(&text) {
            Err(error) => eprintln!("{path}: {error}"),
            Ok(scores) => {
                println!("{path}: {:?}", scores.overall);
                for (source, summary) in &scores.by_source {
                    println!(
                        "{source:28} {:4} rows {:3} refused  time {:.3?} median {:.3?} max {:.3?}  memory {:.3?} max {:.3?}",
                        summary.rows,
                        summary.refused,
                        summary.time_mape,
                        summary.time_median_ape,
                        summary.time_max_ape,
                        summary.memory_mape,
                        summary.memory_max_ape
                    );
                }
                for row in &scores.rows {
                    println!("{} {:?} {:?} {:?}", row.id, row.time_error, row.memory_error, row.refused);
                }
            }
        }
    }
}
