//! A mutual exclusion lock in one futex word that names its owner.
//!
//! ```text
//!   31           16 15         4 3  2      1         0
//!  +---------------+------------+----+-----------+--------+
//!  |       0       |    peer    | 0  | CONTENDED | LOCKED |
//!  +---------------+------------+----+-----------+--------+
//!
//!   LOCKED CONTENDED
//!     0        0       free
//!     1        0       held, nobody sleeps: release is one exchange
//!     1        1       held, somebody may sleep: release wakes one
//!     0        1       never
//! ```
//!
//! The algorithm is the third mutex of Ulrich Drepper, "Futexes Are Tricky" (2011), with the owner's name in the
//! word: the compare-and-swap that takes the lock says who took it, so it is never held anonymously. Whoever
//! slept takes it as CONTENDED, because others may still sleep. Any thread may release it, as with `threading.Lock`.

use crate::error::{NotLocked, WaitError};
use crate::event::Patience;
use crate::layout::PeerId;
#[cfg(loom)]
use crate::sync::model::{Part, is_missing};
use crate::sync::{AtomicU32, FutexWord, Ordering, essential};

const LOCKED: u32 = 1;
const CONTENDED: u32 = 2;
const PEER_SHIFT: u32 = 4;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The participant (an interpreter).
    pub peer: PeerId,
    /// The kernel's id of its thread. For diagnosis: it is written just after the lock was taken.
    pub thread: u32,
}

/// A lock. All zero bytes are a valid, free lock.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Lock {
    word: FutexWord,
    thread: AtomicU32,
}

impl Lock {
    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self, owner: Owner) -> bool {
        self.take(owner, LOCKED)
    }

    #[inline]
    fn take(&self, owner: Owner, state: u32) -> bool {
        let held = state | u32::from(owner.peer.get()) << PEER_SHIFT;
        // SYNC POINT: Acquire sees what the last owner wrote before its Release in `release`.
        let taken =
            self.word.compare_exchange(0, held, essential!(Acquired: Ordering::Acquire), Ordering::Relaxed).is_ok();
        if taken {
            self.thread.store(owner.thread, Ordering::Relaxed);
        }
        taken
    }

    /// Takes the lock, waiting for as long as `patience` has.
    ///
    /// # Errors
    /// [`WaitError`]; the lock was not taken then.
    pub fn acquire(&self, owner: Owner, patience: &Patience<'_>) -> Result<(), WaitError> {
        let mut attempt = || self.try_acquire(owner).then_some(());
        if attempt().is_some() || patience.spin(&mut attempt).is_some() {
            return Ok(());
        }
        let mut ended = Ok(());
        loop {
            if self.take(owner, LOCKED | essential!(TakeContended: CONTENDED)) {
                return Ok(());
            }
            let word = self.word.load(Ordering::Relaxed);
            let contended = word | CONTENDED;
            #[cfg(loom)] // a twin gives up without the flag
            if is_missing(Part::FlagOnLeaving) {
                ended?;
            }
            // Relaxed: nothing is read because of it; the owner sees the flag in its exchange in `release`.
            if word & LOCKED == 0
                || word != contended
                    && self.word.compare_exchange(word, contended, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            // Only now, with the flag set, may this thread give up: the wake that ended its sleep may have been
            // meant for whoever sleeps next, and a lock taken in between without the flag would wake nobody.
            ended?;
            ended = patience.sleep(&self.word, contended);
        }
    }

    /// Gives the lock back, whoever holds it, and wakes one who waits.
    ///
    /// # Errors
    /// [`NotLocked`] if nobody holds it.
    #[inline]
    pub fn release(&self) -> Result<(), NotLocked> {
        // SYNC POINT: Release publishes what the owner wrote to the next Acquire in `take`.
        match self.word.swap(0, essential!(Released: Ordering::Release)) {
            0 => Err(NotLocked),
            word => {
                if word & CONTENDED != 0 {
                    self.word.wake(1);
                }
                Ok(())
            }
        }
    }

    /// Who holds the lock now.
    pub fn owner(&self) -> Option<Owner> {
        let word = self.word.load(Ordering::Relaxed);
        let peer = PeerId::new((word >> PEER_SHIFT & 0xFFF) as u16)?;
        Some(Owner { peer, thread: self.thread.load(Ordering::Relaxed) })
    }

    /// Whether somebody holds the lock now.
    pub fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & LOCKED != 0
    }
}
