//! Passes Program → Program: changes of policy after lowering. `arena::assign` must run again afterwards.

use crate::lower::policy_name;
use crate::plan::Recompute;
use crate::program::Program;

/// Gives one layer another recompute policy, by calling the segments written for it; events follow.
///
/// # Errors
/// One sentence when the program has no such segments. The program is then unchanged but for its events.
pub fn set_recompute(program: &mut Program, layer: u64, policy: Recompute) -> Result<(), String> {
    crate::sync::merge_copies(program);
    let policies = [Recompute::None, Recompute::Selective, Recompute::Full].map(policy_name);
    let wanted = policy_name(policy);
    let mut changed = Vec::new();
    for (index, call) in program.step.iter().enumerate().filter(|(_, call)| call.layer == layer) {
        let Some(segment) = program.segment(call.segment) else { continue };
        let parts: Vec<&str> = segment.name.split('.').collect();
        if parts.first() != Some(&"block") || !parts.iter().any(|part| policies.contains(part)) {
            continue;
        }
        let renamed = parts.iter().map(|part| if policies.contains(part) { wanted } else { part });
        let name = renamed.collect::<Vec<_>>().join(".");
        match program.segment_named(&name) {
            Some(segment) => changed.push((index, segment)),
            None => {
                crate::sync::derive(program);
                return Err(format!("the program has no segment {name}"));
            }
        }
    }
    let found = !changed.is_empty();
    for (index, segment) in changed {
        if let Some(call) = program.step.get_mut(index) {
            call.segment = segment;
        }
    }
    crate::sync::derive(program);
    if found { Ok(()) } else { Err(format!("no call of layer {layer} has a recompute policy")) }
}
