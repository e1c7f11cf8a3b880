//! Where a run begins: at step 1, or at its newest checkpoint, and never at another run's.

use llmc_corpus::{Cursor, Stream};

use crate::checkpoint::{self, Checkpoint, State};
use crate::failure::{Failure, Outcome};
use crate::host::data_failure;
use crate::run_folder::{RunFolder, meaning};
use llmc_plan::lang::{Lang, Said};
use llmc_plan::say;

/// What is said of a damaged checkpoint that an older one stands in for.
pub fn passed_over(damaged: &Said) -> Said {
    say!("passed over: {damaged}", "已跳过：{damaged}", damaged)
}

/// The state to begin with, `stream` moved there, and the checkpoint to read when it is not the first.
///
/// # Errors
/// Exit code 2 when the folder holds another run, or one that nobody asked to go on with.
pub fn starting_state(
    folder: &RunFolder,
    stream: &mut Stream,
    resume: bool,
    lang: Lang,
) -> Outcome<(State, Option<Checkpoint>)> {
    let plan = meaning(&folder.plan)?;
    let (found, damaged) = checkpoint::newest(&folder.checkpoints())?;
    for sentence in damaged {
        eprintln!("{}", passed_over(&sentence).text(lang));
    }
    let path = folder.path.display();
    let start = match found {
        Some(checkpoint) if checkpoint.state.plan != plan => {
            return Err(Failure::environment(say!(
                "{path} holds a run of another plan (model, budget, batch, optimizer, learning rate or seed differ): \
                 choose another run name or restore the plan",
                "{path} 中是另一个计划的运行（模型、预算、批大小、优化器、学习率或种子不同）：请另选运行名称，或恢复该计划"
            )));
        }
        Some(checkpoint) if resume => (checkpoint.state.clone(), Some(checkpoint)),
        Some(checkpoint) => {
            return Err(Failure::environment(say!(
                "{path} holds a run at step {step}: add --resume to go on, or choose another run name",
                "{path} 中已有运行到第 {step} 步：加上 --resume 继续，或另选运行名称",
                step = checkpoint.state.step
            )));
        }
        None => {
            if resume {
                let said = say!(
                    "{path} has no checkpoint yet: starting at step 1",
                    "{path} 中还没有检查点：从第 1 步开始"
                );
                eprintln!("{}", said.text(lang));
            }
            let start = stream.cursor(0).map_err(data_failure)?;
            (State::start(plan, start.data_hash, start.next_sample), None)
        }
    };
    let cursor = Cursor { next_sample: start.0.next_sample, data_hash: start.0.data.clone() };
    stream.resume(start.0.step, &cursor).map_err(data_failure)?;
    Ok(start)
}
