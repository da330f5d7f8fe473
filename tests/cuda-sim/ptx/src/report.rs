//! What a launch did, counted: figures that stand in for time where there is no hardware.

/// Accesses of one kind to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp instructions.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Distinct sectors of 32 bytes that the requests touched.
    pub sectors: u64,
    /// The least number of sectors that would hold the distinct bytes of each request.
    pub ideal_sectors: u64,
}

/// Accesses of one kind to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Warp instructions.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Passes over the 32 banks that the requests need.
    pub passes: u64,
    /// Passes that they would need without conflicts.
    pub ideal_passes: u64,
}

/// The figures of one launch, or of several added together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Launches added together.
    pub launches: u64,
    /// Blocks.
    pub blocks: u64,
    /// Threads.
    pub threads: u64,
    /// Instructions of warps.
    pub warp_instructions: u64,
    /// Instructions of active lanes.
    pub lane_instructions: u64,
    /// Branches at which a warp parted.
    pub divergent_branches: u64,
    /// Loads from global memory, asynchronous copies among them.
    pub global_load: Traffic,
    /// Stores to global memory.
    pub global_store: Traffic,
    /// Loads from shared memory, matrix loads among them.
    pub shared_load: Shared,
    /// Stores to shared memory, asynchronous copies among them.
    pub shared_store: Shared,
    /// Bytes loaded from and stored to local memory: arrays that live in no register.
    pub local_bytes: u64,
    /// Atomic operations of lanes.
    pub atomics: u64,
    /// Barriers of blocks.
    pub barriers: u64,
    /// Matrix products of warps.
    pub mma: u64,
}

impl Report {
    /// Sectors that loads and stores of global memory touched, over the least possible; 1 when there were none.
    pub fn sectors_over_ideal(&self) -> f64 {
        let ideal = self.global_load.ideal_sectors + self.global_store.ideal_sectors;
        let sectors = self.global_load.sectors + self.global_store.sectors;
        if ideal == 0 { 1.0 } else { sectors as f64 / ideal as f64 }
    }

    /// Passes over the banks beyond the least possible, for each request to shared memory.
    pub fn conflicts_per_request(&self) -> f64 {
        let requests = self.shared_load.requests + self.shared_store.requests;
        let extra = self.shared_load.passes + self.shared_store.passes
            - self.shared_load.ideal_passes
            - self.shared_store.ideal_passes;
        if requests == 0 { 0.0 } else { extra as f64 / requests as f64 }
    }

    /// Bytes that lanes moved to and from global memory.
    pub fn global_bytes(&self) -> u64 {
        self.global_load.bytes + self.global_store.bytes
    }

    /// Adds the figures of another launch, or of other blocks.
    pub fn add(&mut self, o: &Report) {
        self.launches += o.launches;
        self.blocks += o.blocks;
        self.threads += o.threads;
        self.warp_instructions += o.warp_instructions;
        self.lane_instructions += o.lane_instructions;
        self.divergent_branches += o.divergent_branches;
        for (a, b) in [(&mut self.global_load, &o.global_load), (&mut self.global_store, &o.global_store)] {
            a.requests += b.requests;
            a.bytes += b.bytes;
            a.sectors += b.sectors;
            a.ideal_sectors += b.ideal_sectors;
        }
        for (a, b) in [(&mut self.shared_load, &o.shared_load), (&mut self.shared_store, &o.shared_store)] {
            a.requests += b.requests;
            a.bytes += b.bytes;
            a.passes += b.passes;
            a.ideal_passes += b.ideal_passes;
        }
        self.local_bytes += o.local_bytes;
        self.atomics += o.atomics;
        self.barriers += o.barriers;
        self.mma += o.mma;
    }

    /// The figures as a JSON object.
    pub fn json(&self) -> String {
        let g = |t: &Traffic| {
            format!(
                r#"{{"requests":{},"bytes":{},"sectors":{},"ideal_sectors":{}}}"#,
                t.requests, t.bytes, t.sectors, t.ideal_sectors
            )
        };
        let s = |t: &Shared| {
            format!(
                r#"{{"requests":{},"bytes":{},"passes":{},"ideal_passes":{}}}"#,
                t.requests, t.bytes, t.passes, t.ideal_passes
            )
        };
        format!(
            concat!(
                r#"{{"launches":{},"blocks":{},"threads":{},"warp_instructions":{},"lane_instructions":{},"#,
                r#""divergent_branches":{},"global_load":{},"global_store":{},"shared_load":{},"shared_store":{},"#,
                r#""local_bytes":{},"atomics":{},"barriers":{},"mma":{},"#,
                r#""sectors_over_ideal":{:.6},"conflicts_per_request":{:.6}}}"#
            ),
            self.launches,
            self.blocks,
            self.threads,
            self.warp_instructions,
            self.lane_instructions,
            self.divergent_branches,
            g(&self.global_load),
            g(&self.global_store),
            s(&self.shared_load),
            s(&self.shared_store),
            self.local_bytes,
            self.atomics,
            self.barriers,
            self.mma,
            self.sectors_over_ideal(),
            self.conflicts_per_request()
        )
    }
}

/// Distinct sectors and the ideal count of one request: addresses with their length in bytes, in any order.
pub(crate) fn sectors(addrs: &mut [u64], bytes: u64) -> (u64, u64) {
    if !addrs.is_sorted() {
        addrs.sort_unstable();
    }
    // Sectors are counted by sweeping; so are distinct bytes, where accesses overlap.
    let (mut count, mut last, mut distinct, mut end) = (0u64, u64::MAX, 0u64, 0u64);
    for &a in addrs.iter() {
        let (first, stop) = (a / 32, (a + bytes - 1) / 32);
        let from = if last == u64::MAX { first } else { first.max(last + 1) };
        if stop >= from {
            count += stop - from + 1;
            last = stop;
        }
        distinct += (a + bytes).saturating_sub(a.max(end));
        end = end.max(a + bytes);
    }
    (count, distinct.div_ceil(32))
}

/// Passes over the banks of one request, and the passes without conflicts. Wide accesses go by half and quarter
/// warps; lanes that touch the same word share it.
pub(crate) fn bank_passes(addrs: &[u64], lanes: &[u32], bytes: u64) -> (u64, u64) {
    let group = match bytes {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    };
    // Side by side, or one word for all: no two words of one bank.
    let first = addrs[0];
    let whole = lanes[0] == 0 && bytes.is_multiple_of(4) && first.is_multiple_of(128);
    if whole && addrs.iter().enumerate().all(|(k, a)| *a == first + k as u64 * bytes) {
        let n = (addrs.len() as u64).div_ceil(u64::from(group));
        return (n, n);
    }
    if bytes <= 4 && addrs.iter().all(|a| a / 4 == first / 4) {
        return (1, 1);
    }
    let (mut passes, mut ideal) = (0, 0);
    let mut start = 0;
    while start < addrs.len() {
        let part = lanes[start] / group;
        let mut stop = start;
        while stop < addrs.len() && lanes[stop] / group == part {
            stop += 1;
        }
        let mut words: [u64; 64] = [0; 64];
        let mut n = 0;
        for &a in &addrs[start..stop] {
            for w in a / 4..=(a + bytes.min(16) - 1) / 4 {
                if !words[..n].contains(&w) && n < 64 {
                    words[n] = w;
                    n += 1;
                }
            }
        }
        let mut banks = [0u64; 32];
        for w in &words[..n] {
            banks[(w % 32) as usize] += 1;
        }
        passes += banks.iter().max().copied().unwrap_or(0).max(1);
        ideal += (n as u64).div_ceil(32).max(1);
        start = stop;
    }
    (passes, ideal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_requests() {
        let go = |first: u64, stride: u64, bytes: u64| {
            let mut a: Vec<u64> = (0..32).map(|i| first + i * stride).collect();
            a.reverse();
            sectors(&mut a, bytes)
        };
        assert_eq!(go(1024, 4, 4), (4, 4));
        assert_eq!(go(1028, 4, 4), (5, 4));
        assert_eq!(go(1024, 8, 4), (8, 4));
        assert_eq!(go(1024, 128, 4), (32, 4));
        assert_eq!(go(1024, 16, 16), (16, 16));
        assert_eq!(go(1024, 1, 1), (1, 1));
        // One word for all, and words that overlap.
        assert_eq!(go(1024, 0, 4), (1, 1));
        assert_eq!(go(1024, 8, 16), (9, 9));
        assert_eq!(go(1056, 0, 16), (1, 1));
    }

    #[test]
    fn passes_over_banks() {
        let lanes: Vec<u32> = (0..32).collect();
        let go = |first: u64, stride: u64, bytes: u64| {
            let a: Vec<u64> = (0..32).map(|i| first + i * stride).collect();
            bank_passes(&a, &lanes, bytes)
        };
        assert_eq!(go(1024, 4, 4), (1, 1));
        assert_eq!(go(1028, 4, 4), (1, 1));
        assert_eq!(go(1024, 8, 4), (2, 1));
        assert_eq!(go(1024, 128, 4), (32, 1));
        assert_eq!(go(1024, 132, 4), (1, 1));
        assert_eq!(go(1024, 0, 4), (1, 1));
        assert_eq!(go(1024, 1, 1), (1, 1));
        // Wide accesses go by halves and quarters of the warp.
        assert_eq!(go(1024, 8, 8), (2, 2));
        assert_eq!(go(1032, 8, 8), (2, 2));
        assert_eq!(go(1024, 16, 16), (4, 4));
        assert_eq!(go(1024, 32, 16), (8, 4));
        assert_eq!(go(1024, 128, 16), (32, 4));
    }

    #[test]
    fn figures_add_up() {
        let one = Report {
            blocks: 1,
            global_load: Traffic { requests: 1, bytes: 128, sectors: 8, ideal_sectors: 4 },
            ..Report::default()
        };
        let mut sum = one;
        sum.add(&one);
        assert_eq!((sum.blocks, sum.global_bytes(), sum.sectors_over_ideal()), (2, 256, 2.0));
        assert_eq!((Report::default().sectors_over_ideal(), Report::default().conflicts_per_request()), (1.0, 0.0));
        assert!(
            sum.json().contains("\"global_load\":{\"requests\":2,\"bytes\":256,\"sectors\":16,\"ideal_sectors\":8}")
        );
    }
}
