//! When a step may write its result over an operand.

use crate::fuse::items::ItemId;
use crate::lower::{Step, Work};
use torsh_ir::kernel::{Inst, Kernel};
use torsh_ir::program::LibCall;

/// True when `step` may write `to` over the memory of `from`, of the same size in bytes.
pub fn may_overwrite(step: &Step, from: ItemId, to: ItemId) -> bool {
    match &step.work {
        Work::Kernel(kernel, args) => {
            let at = |item: ItemId| args.iter().position(|&a| a == item).map(|p| p as u32);
            match (at(from), at(to)) {
                (Some(load), Some(store)) => kernel_may(kernel, load, store),
                _ => false,
            }
        }
        Work::Dot(..) => false,
        // These begin with a copy of their base, and check all indices before they write.
        Work::Lib(LibCall::Scatter { .. } | LibCall::IndexPut { .. }, args) => {
            args.first().is_some_and(|a| a.0 == from) && args[1..].iter().all(|a| a.0 != from)
        }
        Work::Lib(..) => false,
    }
}

/// Every load of `load` and the one store of `store` touch the same element at each point, and no load comes
/// after the store.
fn kernel_may(kernel: &Kernel, load: u32, store: u32) -> bool {
    if kernel.params[load as usize].dtype != kernel.params[store as usize].dtype {
        return false;
    }
    let mut found = None;
    for (s, stage) in kernel.stages.iter().enumerate() {
        for st in stage.stores.iter().filter(|st| st.param == store) {
            if found.replace((s, stage.domain, &st.index)).is_some() {
                return false;
            }
        }
    }
    let Some((at, domain, index)) = found else { return false };
    for (s, stage) in kernel.stages.iter().enumerate() {
        for &id in &stage.insts {
            if let Inst::Load { param, index: from } = &kernel.value(id).inst
                && *param == load
                && (from != index || stage.domain != domain || s > at)
            {
                return false;
            }
        }
    }
    true
}
