//! Who takes part: the numbers by which interpreters name themselves in every word that they own.
#![forbid(unsafe_code)]

use crate::layout::PeerId;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The numbers in use, one bit each.
///
/// They are given in turn, so that what an ended participant left behind, such as a lock, says as long as can be that
/// its owner has ended.
#[derive(Debug)]
pub(crate) struct Peers {
    taken: [AtomicU64; PeerId::COUNT / 64],
    /// Where to look first: after the number that was given last.
    next: AtomicU32,
}

impl Peers {
    pub(crate) fn new() -> Peers {
        let peers = Peers { taken: std::array::from_fn(|_| AtomicU64::new(0)), next: AtomicU32::new(1) };
        peers.taken[0].store(1, Ordering::Relaxed); // 0 means nobody
        peers
    }

    /// A number that nobody has; None if all 4,095 are taken.
    pub(crate) fn register(&self) -> Option<PeerId> {
        let next = self.next.load(Ordering::Relaxed) as u16; // Relaxed: a hint
        for number in (next..PeerId::COUNT as u16).chain(0..next) {
            let (bits, bit) = (&self.taken[usize::from(number) / 64], 1 << (number % 64));
            // Acquire and Release hand the number from its last owner to this one.
            if bits.load(Ordering::Relaxed) & bit == 0 && bits.fetch_or(bit, Ordering::Acquire) & bit == 0 {
                self.next.store(u32::from(number) + 1, Ordering::Relaxed);
                return PeerId::new(number);
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
