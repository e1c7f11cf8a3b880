//! Passes Program → Program: changes of policy after lowering. `arena::assign` must run again afterwards.

use crate::lower::policy_name;
use crate::plan::Recompute;
use crate::program::{Program, SegmentId};

/// Gives one layer another recompute policy, by calling the segments written for it.
///
/// # Errors
/// One sentence when the program has no such segments.
pub fn set_recompute(program: &mut Program, layer: u64, policy: Recompute) -> Result<(), String> {
    let policies = [Recompute::None, Recompute::Selective, Recompute::Full].map(policy_name);
    let wanted = policy_name(policy);
    let mut changed = Vec::new();
    for (index, call) in program.step.iter().enumerate().filter(|(_, call)| call.layer == layer) {
        let Some(segment) = program.segment(call.segment) else { continue };
        let parts: Vec<&str> = segment.name.split('.').collect();
        if !parts.contains(&"block") || !parts.iter().any(|part| policies.contains(part)) {
            continue;
        }
        let renamed = parts.iter().map(|part| if policies.contains(part) { wanted } else { part });
        let name = renamed.collect::<Vec<_>>().join(".");
        let found =
            program.segment_named(&name).ok_or_else(|| format!("the program has no segment {name}"))?;
        changed.push((index, found));
    }
    if changed.is_empty() {
        return Err(format!("no call of layer {layer} has a recompute policy"));
    }
    let set = |(index, segment): (usize, SegmentId)| {
        if let Some(call) = program.step.get_mut(index) {
            call.segment = segment;
        }
    };
    changed.into_iter().for_each(set);
    Ok(())
}
