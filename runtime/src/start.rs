//! Where a run begins: at step 1, or at its newest checkpoint, and never at another run's.

use llmc_corpus::{Cursor, Stream};

use crate::checkpoint::{self, Checkpoint, State};
use crate::failure::{Failure, Outcome};
use crate::host::data_failure;
use crate::run_folder::{RunFolder, meaning};

/// The state to begin with, `stream` moved there, and the checkpoint to read when it is not the first.
///
/// # Errors
/// Exit code 2 when the folder holds another run, or one that nobody asked to go on with.
pub fn starting_state(
    folder: &RunFolder,
    stream: &mut Stream,
    resume: bool,
) -> Outcome<(State, Option<Checkpoint>)> {
    let plan = meaning(&folder.plan)?;
    let (found, damaged) = checkpoint::newest(&folder.checkpoints())?;
    for sentence in damaged {
        eprintln!("passed over: {sentence}");
    }
    let path = folder.path.display();
    let start = match found {
        Some(checkpoint) if checkpoint.state.plan != plan => {
            return Err(Failure::environment(format!(
                "{path} holds a run of another plan (model, budget, batch, optimizer, learning rate or seed differ): \
                 choose another run name or restore the plan"
            )));
        }
        Some(checkpoint) if resume => (checkpoint.state.clone(), Some(checkpoint)),
        Some(checkpoint) => {
            return Err(Failure::environment(format!(
                "{path} holds a run at step {}: add --resume to go on, or choose another run name",
                checkpoint.state.step
            )));
        }
        None => {
            if resume {
                eprintln!("{path} has no checkpoint yet: starting at step 1");
            }
            let start = stream.cursor(0).map_err(data_failure)?;
            (State::start(plan, start.data_hash, start.next_sample), None)
        }
    };
    let cursor = Cursor { next_sample: start.0.next_sample, data_hash: start.0.data.clone() };
    stream.resume(start.0.step, &cursor).map_err(data_failure)?;
    Ok(start)
}
