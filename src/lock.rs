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

use crate::error::{NotLocked, NotOwned, TooManyAcquires, WaitError};
use crate::event::{Bell, Patience, Watchable};
use crate::layout::PeerId;
use crate::sync::{AtomicU32, FutexWord, Ordering, essential, fence, spin_loop};

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
    /// How many watch the lock, and sleep on the bell; see [`wait_any`](crate::event::wait_any).
    watchers: AtomicU32,
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

    /// Takes the lock if it becomes free within about two microseconds.
    ///
    /// It looks ever more rarely: each look takes the cache line from whoever holds the lock. One who takes it again and
    /// again does so a few times, then, between two looks, which is quicker for both than to take turns.
    pub fn try_acquire_soon(&self, owner: Owner) -> bool {
        /// Of which each has twice as many pauses as the one before.
        const LOOKS: u32 = if cfg!(loom) { 0 } else { 7 };
        (0..LOOKS).any(|look| {
            (0..1 << look).for_each(|_| spin_loop());
            !self.is_locked() && self.try_acquire(owner)
        })
    }

    /// Takes the lock, waiting for as long as `patience` has.
    ///
    /// # Errors
    /// [`WaitError`]; the lock was not taken then.
    pub fn acquire(&self, owner: Owner, patience: &Patience<'_>) -> Result<(), WaitError> {
        let mut waiter = self.waiter(owner);
        if waiter.try_acquire() || self.try_acquire_soon(owner) || waiter.spin(patience) {
            return Ok(());
        }
        loop {
            let woken = waiter.sleep(patience);
            if waiter.try_acquire() {
                return Ok(());
            }
            woken?;
        }
    }

    /// Begins to wait, in steps that the caller makes.
    pub fn waiter(&self, owner: Owner) -> Waiter<'_> {
        Waiter { lock: self, owner, owes_wake: false }
    }

    /// Sets CONTENDED and gives the word, if somebody holds the lock: whoever does will wake one when it gives it back.
    fn contend(&self) -> Option<u32> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & LOCKED != 0 {
            let contended = word | CONTENDED;
            if word == contended {
                return Some(contended);
            }
            // Relaxed: nothing is read because of it; the owner sees the flag in its exchange in `release`.
            match self.word.compare_exchange(word, contended, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(contended),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Gives the lock back, whoever holds it, and wakes one who waits.
    ///
    /// # Errors
    /// [`NotLocked`] if nobody holds it.
    #[inline]
    pub fn release(&self, bell: &Bell) -> Result<(), NotLocked> {
        // SYNC POINT: Release publishes what the owner wrote to the next Acquire in `take`.
        match self.word.swap(0, essential!(Released: Ordering::Release)) {
            0 => Err(NotLocked),
            word => {
                if word & CONTENDED != 0 {
                    self.wake(bell);
                }
                Ok(())
            }
        }
    }

    #[cold]
    fn wake(&self, bell: &Bell) {
        self.word.wake(1);
        // SYNC POINT: whoever set CONTENDED as a watcher had been counted before.
        essential!(WatchersSeen: fence(Ordering::Acquire));
        if self.watchers.load(Ordering::Relaxed) != 0 {
            bell.ring();
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

/// One who waits for a lock: sleep, try, sleep again, until it has the lock or is dropped.
///
/// The wake that ended its sleep may have been meant for whoever sleeps next, so it owes that one a wake. If it takes
/// the lock, then as CONTENDED, and its release wakes. If it gives up, it sees to it that somebody else's does.
#[derive(Debug)]
pub struct Waiter<'a> {
    lock: &'a Lock,
    owner: Owner,
    owes_wake: bool,
}

impl Waiter<'_> {
    /// Takes the lock if it is free.
    pub fn try_acquire(&mut self) -> bool {
        let contended = if self.owes_wake { essential!(TakeContended: CONTENDED) } else { 0 };
        let taken = self.lock.take(self.owner, LOCKED | contended);
        self.owes_wake &= !taken;
        taken
    }

    /// Takes the lock if it becomes free in the time that `patience` has for spinning.
    pub fn spin(&mut self, patience: &Patience<'_>) -> bool {
        let lock = self.lock;
        let mut attempt = || (!lock.is_locked() && self.try_acquire()).then_some(());
        patience.spin(&mut attempt).is_some()
    }

    /// Sleeps until the lock was given back, if somebody holds it. Others may have taken it again by then.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn sleep(&mut self, patience: &Patience<'_>) -> Result<(), WaitError> {
        match self.lock.contend() {
            None => Ok(()),
            Some(word) => {
                self.owes_wake = true;
                patience.sleep(&self.lock.word, word)
            }
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.owes_wake && essential!(WakeOwed: self.lock.contend().is_none()) {
            self.lock.word.wake(1);
        }
    }
}

/// A lock that its owner may take again. All zero bytes are a valid, free one.
///
/// The owner is known exactly: only a thread itself writes its id, after taking the lock, and takes it back before
/// releasing it. So a thread that reads its own id (and finds its peer in the word) holds the lock, and one that does
/// not hold it never reads its own.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RLock {
    lock: Lock,
    /// How often the owner has taken it. Only the owner touches it.
    count: AtomicU32,
}

impl RLock {
    /// Whether `me` holds it.
    #[inline]
    pub fn is_owned(&self, me: Owner) -> bool {
        self.lock.owner() == Some(me)
    }

    /// Takes it once more if `me` holds it; false if it does not.
    #[inline]
    fn take_again(&self, me: Owner) -> Result<bool, TooManyAcquires> {
        if !self.is_owned(me) {
            return Ok(false);
        }
        let count = self.count.load(Ordering::Relaxed).checked_add(1).ok_or(TooManyAcquires)?;
        self.count.store(count, Ordering::Relaxed);
        Ok(true)
    }

    /// Takes the lock if it is free or `me` holds it.
    ///
    /// # Errors
    /// [`TooManyAcquires`].
    #[inline]
    pub fn try_acquire(&self, me: Owner) -> Result<bool, TooManyAcquires> {
        if self.take_again(me)? {
            return Ok(true);
        }
        let taken = self.lock.try_acquire(me);
        if taken {
            self.count.store(1, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// Has `me` hold the lock as if taken `count` times, if it is free or `me` holds it.
    pub fn try_restore(&self, me: Owner, count: u32) -> bool {
        let taken = self.is_owned(me) || self.lock.try_acquire(me);
        if taken {
            self.count.store(count, Ordering::Relaxed);
        }
        taken
    }

    /// Has `me`, who does not hold the lock, hold it as if taken `count` times, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`]; the lock was not taken then.
    pub fn restore(&self, me: Owner, count: u32, patience: &Patience<'_>) -> Result<(), WaitError> {
        self.lock.acquire(me, patience)?;
        self.was_taken(count);
        Ok(())
    }

    /// Says how often [`RLock::lock`] was taken by whoever has just taken it.
    pub fn was_taken(&self, count: u32) {
        self.count.store(count, Ordering::Relaxed);
    }

    /// Gives the lock back once.
    ///
    /// # Errors
    /// [`NotOwned`] if `me` does not hold it.
    #[inline]
    pub fn release(&self, me: Owner, bell: &Bell) -> Result<(), NotOwned> {
        if !self.is_owned(me) {
            return Err(NotOwned);
        }
        match self.count.load(Ordering::Relaxed) {
            0 | 1 => self.give_back(bell),
            count => self.count.store(count - 1, Ordering::Relaxed),
        }
        Ok(())
    }

    /// Gives the lock back however often `me` had taken it, and says how often that was.
    ///
    /// # Errors
    /// [`NotOwned`] if `me` does not hold it.
    pub fn release_save(&self, me: Owner, bell: &Bell) -> Result<u32, NotOwned> {
        if !self.is_owned(me) {
            return Err(NotOwned);
        }
        let count = self.count.load(Ordering::Relaxed);
        self.give_back(bell);
        Ok(count)
    }

    fn give_back(&self, bell: &Bell) {
        self.count.store(0, Ordering::Relaxed);
        // Before the lock is free: otherwise this thread would still find its own name when the next owner, a thread of
        // the same peer, has taken the lock and not written its name yet.
        essential!(NameCleared: self.lock.thread.store(0, Ordering::Relaxed));
        let _ = self.lock.release(bell); // it is held: its owner is here
    }

    /// How often its owner, if there is one, has taken it.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// The lock in it.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The lock as `me` waits for it: ready when it is free, or `me` holds it.
    pub fn for_owner(&self, me: Owner) -> RLockForOwner<'_> {
        RLockForOwner { lock: self, me }
    }
}

impl Watchable for Lock {
    fn is_ready(&self) -> bool {
        !self.is_locked()
    }

    fn watch(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed); // Relaxed: `look` publishes it
    }

    /// Looks and sets CONTENDED in one step: the release of whoever is seen to hold the lock rings.
    fn look(&self) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & LOCKED != 0 {
            // SYNC POINT: Release publishes `watchers` to the fence in `wake`. So it is written even if the flag is
            // there already: the release that takes that one back may not know of us.
            let release = essential!(LockWatched: Ordering::Release);
            match self.word.compare_exchange(seen, seen | CONTENDED, release, Ordering::Relaxed) {
                Ok(_) => return false,
                Err(now) => seen = now,
            }
        }
        true
    }

    fn unwatch(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed); // Relaxed: too large a count only costs a wake
    }
}

/// See [`RLock::for_owner`].
#[derive(Debug)]
pub struct RLockForOwner<'a> {
    lock: &'a RLock,
    me: Owner,
}

impl Watchable for RLockForOwner<'_> {
    fn is_ready(&self) -> bool {
        self.lock.lock.is_ready() || self.lock.is_owned(self.me)
    }

    fn watch(&self) {
        self.lock.lock.watch();
    }

    fn look(&self) -> bool {
        self.lock.lock.look() || self.lock.is_owned(self.me)
    }

    fn unwatch(&self) {
        self.lock.lock.unwatch();
    }
}
