//! What a function of a row kernel fetches ahead of its use: the same elements of the next row.
//!
//! A row that comes from beyond the second-level cache is waited for in the first stage and computed with in the
//! later ones, during which memory would idle: processors look ahead within a page, and a row is about a page. So the
//! last stage that reads a row fetches the next one. Lines that will be written are not asked for: the fetches of
//! both together wait for each other (measured: a layer norm lost what a softmax gained).

use super::Binding;
use crate::cpu::analysis::Facts;
use torsh_ir::kernel::{Inst, Kernel};

/// Bytes of rows for which this pays. Of shorter ones the processor sees the next row by itself; longer ones do not
/// stay in the second-level cache until they are used.
const ROW_BYTES: std::ops::RangeInclusive<usize> = 512..=128 << 10;

/// For each stream, by binding, the bytes from an element to the one in the next row, or 0 if nothing is to be fetched.
pub(super) fn distances(k: &Kernel, facts: &Facts, s: usize, bindings: &[Binding], l2_bytes: usize) -> Vec<i32> {
    let touched = k.params.iter().map(|p| p.numel.saturating_mul(p.dtype.size())).fold(0, usize::saturating_add);
    let Some(axis) = k.grid.len().checked_sub(1).filter(|_| touched > l2_bytes && !k.inner.is_empty()) else {
        return vec![0; bindings.len()];
    };
    let along = k.grid.len() + k.inner.len() - 1;
    let reads = |stage: usize, param: u32| {
        let of_param = |inst: &Inst| matches!(inst, Inst::Load { param: p, .. } if *p == param);
        facts.order[stage].iter().any(|&v| of_param(&k.value(v).inst))
    };
    let distance = |binding: &Binding| {
        let Binding::Load(v) = *binding else { return 0 };
        let Inst::Load { param, index } = &k.value(v).inst else { return 0 };
        let size = k.params[*param as usize].dtype.size();
        let again = (0..s).any(|stage| reads(stage, *param));
        let last = !(s + 1..k.stages.len()).any(|stage| reads(stage, *param));
        if !again || !last || index.strides[along] != 1 || !ROW_BYTES.contains(&(k.row_len() * size)) {
            return 0;
        }
        index.strides[axis].checked_mul(size as i64).and_then(|d| i32::try_from(d).ok()).unwrap_or(0)
    };
    bindings.iter().map(distance).collect()
}
