//! Made-up text, for what needs none: text that a model can learn, in which each token mostly decides the next, or
//! uniformly random tokens.

use llmc_plan::batch::Batch;
use llmc_plan::op::Op;
use llmc_plan::plan::Plan;
use llmc_plan::say;
use tch::Tensor;

use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::ops::Host;

/// Batches without a corpus, the same on every device.
pub struct Synthetic {
    vocab: u64,
    context: u64,
    sequences: u64,
    /// One token in so many is a surprise; the rest follow from the one before.
    surprise: u64,
    /// Tokens there are.
    tokens: u64,
    /// State of the number generator.
    state: u64,
}

impl Synthetic {
    /// The learnable batches of a step.
    pub fn learnable(plan: &Plan, step: u64) -> Synthetic {
        let vocab = plan.model.vocab;
        Synthetic { surprise: 8, tokens: vocab.clamp(1, 64), ..Synthetic::uniform(plan, step) }
    }

    /// Batch after batch of uniformly random tokens.
    pub fn uniform(plan: &Plan, seed: u64) -> Synthetic {
        Synthetic {
            vocab: plan.model.vocab,
            context: plan.model.context,
            sequences: plan.batch.micro_batch_sequences,
            surprise: 1,
            tokens: plan.model.vocab,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Marsaglia's xorshift64 (2003).
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

impl Host for Synthetic {
    fn next_batch(&mut self) -> Result<Batch> {
        let mut batch = Batch::default();
        for sequence in 0..self.sequences {
            batch.cu_seqlens.push((sequence * self.context) as u32);
            let mut token = self.random() % self.vocab;
            for position in 0..self.context {
                batch.ids.push(token as u32);
                batch.positions.push(position as u32);
                let random = self.random();
                let surprising = random.is_multiple_of(self.surprise);
                token = if surprising { random / self.surprise } else { token * 31 + 7 } % self.tokens;
                batch.targets.push(token as u32);
                batch.weights.push(1.0);
            }
        }
        batch.cu_seqlens.push((self.sequences * self.context) as u32);
        Ok(batch)
    }

    fn snapshot(&mut self, _tensors: &[Tensor]) -> Result<()> {
        Ok(())
    }

    fn exchange(&mut self, op: &Op, _inputs: &[Tensor], _outputs: &[Tensor]) -> Result<()> {
        Err(Error::Host(Failure::environment(say!(
            "{op} needs other ranks",
            "{op} 需要其他 rank",
            op = op.key()
        ))))
    }
}
