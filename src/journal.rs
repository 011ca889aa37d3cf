//! Transactions: several words change at once, also if whoever changes them is killed in the middle of it.
//!
//! A redo log, as databases have it (C. Mohan et al., "ARIES", 1992, section 3, of which this is the part without undo):
//!
//! ```text
//!   take the lock → write where and what → COUNT = n (the commit) → make the changes → COUNT = 0 → give the lock back
//! ```
//!
//! Whoever takes the lock over from the dead finds COUNT: 0, and nothing has changed or everything is done; or n, and
//! makes the changes again, which is no matter as often as it is done. So all of the words change or none.
//!
//! One lock serves a whole region. What needs it is rare: references to objects, rings that are linked, growth. It
//! names its holder, as every lock does, and is taken over only from one who is dead for certain. A process's own threads
//! take turns beforehand: so a holder that is one of them and not the caller is one that somebody wrote there.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
use core::time::Duration;

use crate::fault::fault;
use crate::layout::PeerId;
use crate::sync::{AtomicU64, FutexWord, Ordering, essential, spin_loop};

/// The most words that a transaction changes. Few in models, where each costs interleavings.
const MOST: usize = if cfg!(loom) { 2 } else { 32 };
/// How often whoever wants the lock looks before it sleeps: for longer than a transaction takes.
const LOOKS: u32 = if cfg!(loom) { 0 } else { 128 };
/// The lock's word: the holder's number, and a flag that somebody may sleep.
const CONTENDED: u32 = 1 << 31;
/// How long somebody sleeps before it looks whether the holder is alive.
#[cfg(not(loom))]
const SLICE: Duration = Duration::from_millis(5);

/// A region's log and the lock around it. All zero bytes are a valid, idle one.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Journal {
    holder: FutexWord,
    /// How many changes are committed and may not have been made.
    count: AtomicU64,
    changes: [Change; MOST],
}

/// A word of the region, as its offset in the file, and what it becomes.
#[repr(C)]
#[derive(Debug, Default)]
struct Change {
    place: AtomicU64,
    value: AtomicU64,
}

/// What a journal has to know of its region.
pub trait Place {
    /// Where in the region's file a word is. It is in there.
    fn offset(&self, word: &AtomicU64) -> Option<u64>;

    /// The word there, if there is one.
    fn word(&self, offset: u64) -> Option<&AtomicU64>;

    /// Whether nobody of that name has the lock: it takes part no more, or it is of this process, where only the caller
    /// wants it just now.
    fn cannot_hold(&self, peer: PeerId) -> bool;
}

/// Changes that are being collected, while the journal's lock is held.
#[derive(Debug)]
pub struct Transaction<'a, P> {
    journal: &'a Journal,
    region: &'a P,
    count: usize,
    is_whole: bool,
}

impl Journal {
    /// Has `body` collect changes with the lock held, and makes all of them, unless it gives nothing.
    pub fn transact<P: Place, T>(
        &self,
        region: &P,
        me: PeerId,
        body: impl FnOnce(&mut Transaction<'_, P>) -> Option<T>,
    ) -> Option<T> {
        self.lock(region, me);
        let _unlock = Unlock(self);
        essential!(JournalRedone: self.redo(region)); // of somebody who died
        let mut transaction = Transaction { journal: self, region, count: 0, is_whole: true };
        let result = body(&mut transaction)?;
        let count = transaction.count;
        debug_assert!(transaction.is_whole, "transactions have few words, all of their region");
        if !transaction.is_whole {
            return None;
        }
        fault!(BeforeJournalCommit);
        // The commit. Release, here and below: each step is in memory after all those before it, whenever we are killed.
        essential!(JournalCommitted: self.count.store(count as u64, Ordering::Release));
        fault!(AfterJournalCommit);
        #[cfg(loom)]
        if crate::sync::model::is_missing(crate::sync::model::Part::JournalCommitted) {
            (0..count).for_each(|change| self.make(region, &self.changes[change]));
        }
        self.redo(region);
        Some(result)
    }

    /// Makes the changes that are committed.
    fn redo<P: Place>(&self, region: &P) {
        let count = self.count.load(Ordering::Acquire);
        if count == 0 {
            return;
        }
        for change in self.changes.iter().take(usize::try_from(count).unwrap_or(MOST)) {
            self.make(region, change);
        }
        self.count.store(0, Ordering::Release);
    }

    fn make<P: Place>(&self, region: &P, change: &Change) {
        // No word is there only if somebody wrote over the log.
        if let Some(word) = region.word(change.place.load(Ordering::Relaxed)) {
            word.store(change.value.load(Ordering::Relaxed), Ordering::Release);
        }
        fault!(JournalChangeMade);
    }

    fn lock<P: Place>(&self, region: &P, me: PeerId) {
        let mine = u32::from(me.get());
        // Acquire: what the last holder changed is seen.
        let acquire = essential!(JournalTaken: Ordering::Acquire);
        let take = |seen, flag| self.holder.compare_exchange(seen, mine | flag, acquire, Ordering::Relaxed).is_ok();
        let is_taken = |_| {
            spin_loop();
            self.holder.load(Ordering::Relaxed) == 0 && take(0, 0)
        };
        if (0..LOOKS).any(is_taken) {
            return;
        }
        loop {
            let seen = self.holder.load(Ordering::Relaxed);
            if seen == 0 {
                if take(0, CONTENDED) {
                    return; // others may sleep, of whom we do not know
                }
                continue;
            }
            let contended = seen | CONTENDED;
            // Relaxed: nothing is read because of it.
            if seen == contended
                || self.holder.compare_exchange(seen, contended, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                self.sleep(contended);
                let holder = PeerId::new(u16::try_from(seen & !CONTENDED).unwrap_or(0));
                // Nobody else takes it over: the one whose exchange succeeds.
                if self.holder.load(Ordering::Relaxed) == contended
                    && essential!(JournalOwnerDead: holder.is_none_or(|holder| region.cannot_hold(holder)))
                    && take(contended, CONTENDED)
                {
                    return;
                }
            }
        }
    }
}

impl Journal {
    /// Sleeps while the lock is held, for a moment.
    #[cfg(not(loom))]
    fn sleep(&self, held: u32) {
        let _ = self.holder.wait(held, Some(SLICE));
    }

    /// No time passes in a model.
    #[cfg(loom)]
    fn sleep(&self, _held: u32) {
        loom::thread::yield_now();
    }
}

impl<P: Place> Transaction<'_, P> {
    /// Has the word become `value`. Nobody else may change it but in a transaction.
    pub fn set(&mut self, word: &AtomicU64, value: u64) {
        let change = self.journal.changes.get(self.count).zip(self.region.offset(word));
        let Some((change, place)) = change else {
            self.is_whole = false;
            return;
        };
        change.place.store(place, Ordering::Relaxed);
        change.value.store(value, Ordering::Relaxed);
        self.count += 1;
    }
}

/// Gives the lock back.
struct Unlock<'a>(&'a Journal);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        if cfg!(loom) && std::thread::panicking() {
            return; // killed
        }
        // Release: what was changed is seen by the next holder.
        if self.0.holder.swap(0, essential!(JournalGivenBack: Ordering::Release)) & CONTENDED != 0 {
            self.0.holder.wake(1);
        }
    }
}
