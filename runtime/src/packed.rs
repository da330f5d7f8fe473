//! Packed copies of operands of matrix products that stay the same from run to run, such as weights.
//!
//! A copy belongs to the buffer that it was made from: it goes with the buffer, and when a run takes the buffer to
//! overwrite it in place. So it is never stale, whichever executables use the buffer and however a parameter is
//! replaced. It is made when a product reads the same operand for the second time; who never comes back, as a
//! training step that has just updated its weights, pays nothing. Copies are counted as live memory, take a quarter
//! of the limit at most and only what is spare, and are given up before a run is refused memory.

use crate::lib_calls::PackKey;
use crate::memory::{Loan, Pool};
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, PoisonError};
use torsh_ir::Result;

/// Products that read a buffer in different ways, at most: the last ones count.
const WAYS: usize = 2;

/// The panels of an operand.
pub(crate) struct Panels {
    loan: Loan,
    pool: Pool,
    bytes: usize,
}

impl Panels {
    /// The panels.
    pub fn bytes(&self) -> &[u8] {
        self.loan.bytes(self.bytes)
    }
}

impl Drop for Panels {
    fn drop(&mut self) {
        self.pool.count_packed(-(self.bytes as i64));
    }
}

/// A way in which products read a buffer.
struct Way {
    key: PackKey,
    panels: Option<Arc<Panels>>,
}

/// The packed copies of a buffer.
#[derive(Default)]
pub(crate) struct Copies(Mutex<SmallVec<[Way; WAYS]>>);

impl Copies {
    /// The panels of a key: made by `pack` the second time, if memory is spare; `None` the first time, and while another
    /// thread is at it.
    pub fn panels(
        self: &Arc<Copies>,
        key: &PackKey,
        pool: &Pool,
        pack: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Option<Arc<Panels>>> {
        let Ok(mut ways) = self.0.try_lock() else { return Ok(None) };
        let Some(way) = ways.iter_mut().find(|way| way.key == *key) else {
            if ways.len() == WAYS {
                ways.remove(0);
            }
            ways.push(Way { key: key.clone(), panels: None });
            return Ok(None);
        };
        if way.panels.is_none()
            && let Some(loan) = pool.take_spare(key.bytes)
        {
            let mut panels = Panels { loan, pool: pool.clone(), bytes: key.bytes };
            pack(panels.loan.bytes_mut(key.bytes))?;
            way.panels = Some(Arc::new(panels));
            pool.remember_packed(self);
        }
        Ok(way.panels.clone())
    }

    /// Gives up the panels, whose memory returns when no run reads them any more. False where there are none, or where
    /// they are being made.
    pub fn give_up(&self) -> bool {
        let Ok(mut ways) = self.0.try_lock() else { return false };
        let given: SmallVec<[Arc<Panels>; WAYS]> = ways.iter_mut().filter_map(|way| way.panels.take()).collect();
        drop(ways);
        !given.is_empty()
    }

    /// The buffer will be written: whatever is known of it is out of date.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
