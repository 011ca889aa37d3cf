//! Who takes part: the numbers by which interpreters name themselves in every word that they own.
#![forbid(unsafe_code)]

use crate::layout::PeerId;
use crate::sync::{AtomicU64, Ordering};

/// The numbers in use, one bit each.
#[derive(Debug)]
pub(crate) struct Peers {
    taken: [AtomicU64; PeerId::COUNT / 64],
}

impl Peers {
    pub(crate) fn new() -> Peers {
        let peers = Peers { taken: std::array::from_fn(|_| AtomicU64::new(0)) };
        peers.taken[0].store(1, Ordering::Relaxed); // 0 means nobody
        peers
    }

    /// A number that nobody has; None if all 4,095 are taken.
    pub(crate) fn register(&self) -> Option<PeerId> {
        for (group, bits) in self.taken.iter().enumerate() {
            let mut seen = bits.load(Ordering::Relaxed);
            while seen != u64::MAX {
                let bit = seen.trailing_ones();
                // Acquire and Release hand the number from its last owner to this one.
                match bits.compare_exchange_weak(seen, seen | 1 << bit, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return PeerId::new((group * 64) as u16 + bit as u16),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Gives a number back. Its owner holds nothing any more.
    pub(crate) fn leave(&self, peer: PeerId) {
        let number = usize::from(peer.get());
        self.taken[number / 64].fetch_and(!(1 << (number % 64)), Ordering::Release);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.taken.iter().map(|bits| bits.load(Ordering::Relaxed).count_ones()).sum::<u32>() - 1
    }
}
