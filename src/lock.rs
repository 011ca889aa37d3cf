//! A mutual exclusion lock in one futex word that names its owner.
//!
//! ```text
//!   31           16 15         4     3           2         1         0
//!  +---------------+------------+-----------+---------+-----------+--------+
//!  |       0       |    peer    | ABANDONED | WATCHED | CONTENDED | LOCKED |
//!  +---------------+------------+-----------+---------+-----------+--------+
//!
//!   0                  free
//!   LOCKED             held, nobody sleeps: release changes one word
//!   LOCKED, CONTENDED  held, somebody may sleep: release wakes one
//!   LOCKED, WATCHED    held, somebody may sleep on the bell (`wait_any`): release rings
//!   ABANDONED          nobody holds it: the owner, whose name it is, died
//! ```
//!
//! The algorithm is the third mutex of Ulrich Drepper, "Futexes Are Tricky" (2011), with the owner's name in the
//! word: the compare-and-swap that takes the lock says who took it, so it is never held anonymously. Whoever
//! slept takes it as CONTENDED, because others may still sleep. Any thread may release it, as with `threading.Lock`.
//!
//! When the owner dies, [`Lock::recover`] makes the lock ABANDONED and wakes all who sleep. Whoever is the first to try
//! it then makes it free and gets [`OwnerDied`] instead of the lock, and is the only one to get it.

use crate::error::{AcquireError, NotLocked, NotOwned, OwnerDied, ReacquireError, TooManyAcquires, WaitError};
use crate::event::{Bell, Patience, Watchable};
use crate::fault::fault;
use crate::layout::PeerId;
use crate::sync::{AtomicU32, FutexWord, Ordering, essential, fence, spin_loop};

const LOCKED: u32 = 1;
const CONTENDED: u32 = 2;
const WATCHED: u32 = 4;
const ABANDONED: u32 = 8;
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
    /// The owner's thread. It is taken back before the lock is given back, so it is 0 or the present owner's.
    thread: AtomicU32,
    /// The thread of the owner that died, if the lock is ABANDONED.
    dead_thread: AtomicU32,
}

impl Lock {
    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`OwnerDied`].
    #[inline]
    pub fn try_acquire(&self, owner: Owner) -> Result<bool, OwnerDied> {
        self.take(owner, LOCKED)
    }

    #[inline]
    fn take(&self, owner: Owner, state: u32) -> Result<bool, OwnerDied> {
        let held = state | u32::from(owner.peer.get()) << PEER_SHIFT;
        // SYNC POINT: Acquire sees what the last owner wrote before its Release in `release`.
        match self.word.compare_exchange(0, held, essential!(Acquired: Ordering::Acquire), Ordering::Relaxed) {
            Ok(_) => {
                fault!(LockTaken);
                self.thread.store(owner.thread, Ordering::Relaxed);
                Ok(true)
            }
            Err(seen) if seen & LOCKED == 0 => self.take_unlocked(seen, owner, state),
            Err(_) => Ok(false),
        }
    }

    /// Makes a lock free whose owner died, or that nobody holds and somebody wrote over. If somebody else just has, it is
    /// one like any other.
    #[cold]
    fn take_unlocked(&self, seen: u32, owner: Owner, state: u32) -> Result<bool, OwnerDied> {
        // SYNC POINT: the word was seen; Acquire sees what came before the Release in `recover`.
        essential!(AbandonedSeen: fence(Ordering::Acquire));
        let died = OwnerDied { peer: peer(seen), thread: self.dead_thread.load(Ordering::Relaxed) };
        // Nobody sleeps: all were woken, and who finds it abandoned does not fall asleep.
        // Relaxed: what `recover` published goes on to whoever takes the lock, because this is a read-modify-write.
        match self.word.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) if seen & ABANDONED != 0 => Err(died),
            _ => self.take(owner, state),
        }
    }

    /// Takes the lock if it becomes free within about two microseconds.
    ///
    /// It looks ever more rarely: each look takes the cache line from whoever holds the lock. One who takes it again and
    /// again does so a few times, then, between two looks, which is quicker for both than to take turns.
    ///
    /// # Errors
    /// [`OwnerDied`].
    pub fn try_acquire_soon(&self, owner: Owner) -> Result<bool, OwnerDied> {
        /// Before each look.
        const PAUSES: &[u32] = if cfg!(loom) { &[] } else { &[1, 2, 4, 8, 16, 32, 64] };
        for pauses in PAUSES {
            (0..*pauses).for_each(|_| spin_loop());
            if !self.is_locked() && self.try_acquire(owner)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the lock, waiting for as long as `patience` has.
    ///
    /// # Errors
    /// [`AcquireError`]; the lock was not taken then.
    pub fn acquire(&self, owner: Owner, patience: &Patience<'_>) -> Result<(), AcquireError> {
        let mut waiter = self.waiter(owner);
        if waiter.try_acquire()? || self.try_acquire_soon(owner)? || waiter.spin(patience)? {
            return Ok(());
        }
        loop {
            let woken = waiter.sleep(patience);
            if waiter.try_acquire()? {
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
        self.mark(CONTENDED)
    }

    /// Sets a flag and gives the word, if somebody holds the lock.
    fn mark(&self, flag: u32) -> Option<u32> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & LOCKED != 0 {
            let marked = word | flag;
            if word == marked {
                return Some(marked);
            }
            // Relaxed: nothing is read because of it; the owner sees the flag in its compare-and-swap in `release`.
            match self.word.compare_exchange(word, marked, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(marked),
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
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & LOCKED != 0 {
            // Before the lock is free: otherwise the thread of a reentrant lock would still find its own name when the
            // next owner, a thread of the same peer, has taken the lock and not written its name yet.
            essential!(NameCleared: self.thread.store(0, Ordering::Relaxed));
            fault!(LockNameCleared);
            // SYNC POINT: Release publishes what the owner wrote to the next Acquire in `take`.
            let release = essential!(Released: Ordering::Release);
            match self.word.compare_exchange(seen, 0, release, Ordering::Relaxed) {
                Ok(_) => {
                    fault!(LockReleased);
                    if seen & (CONTENDED | WATCHED) != 0 {
                        self.wake(seen, bell);
                    }
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
        Err(NotLocked)
    }

    #[cold]
    fn wake(&self, seen: u32, bell: &Bell) {
        if seen & CONTENDED != 0 {
            self.word.wake(1);
        }
        if seen & WATCHED != 0 {
            bell.ring();
        }
    }

    /// Makes the lock ABANDONED if `dead`, who died, holds it, and wakes all who wait. Whoever sleeps on the bell is to be
    /// woken by the caller.
    pub fn recover(&self, dead: PeerId) {
        let mut seen = self.word.load(Ordering::Relaxed);
        if seen & LOCKED != 0 && peer(seen) == dead.get() {
            // Before anybody else can hold the lock: its thread may have the id of the dead one. Should another thread
            // give the lock back just now, then the next owner's name may be lost; reentrant ones only their owners do.
            self.dead_thread.store(self.thread.load(Ordering::Relaxed), Ordering::Relaxed);
            essential!(DeadNameCleared: self.thread.store(0, Ordering::Relaxed));
        }
        while seen & LOCKED != 0 && peer(seen) == dead.get() {
            fault!(LockDeadFound);
            let abandoned = seen & !(LOCKED | CONTENDED | WATCHED) | ABANDONED;
            // SYNC POINT: Release publishes what was put right to the Acquire in `take_unlocked`, and the name.
            let release = essential!(Abandoned: Ordering::Release);
            // It fails if somebody has given the lock back meanwhile, or has begun to wait.
            match self.word.compare_exchange(seen, abandoned, release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        fault!(LockAbandoned);
        // Also if it was not held: the dead one may have given it back and woken nobody, or been woken and taken nothing.
        essential!(AbandonedWake: self.word.wake(i32::MAX));
    }

    /// Who holds the lock now.
    pub fn owner(&self) -> Option<Owner> {
        let word = self.word.load(Ordering::Relaxed);
        let peer = PeerId::new(peer(word)).filter(|_| word & LOCKED != 0)?;
        Some(Owner { peer, thread: self.thread.load(Ordering::Relaxed) })
    }

    /// Whether somebody holds the lock now.
    pub fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & LOCKED != 0
    }
}

/// Whose name is in the word.
fn peer(word: u32) -> u16 {
    (word >> PEER_SHIFT & 0xFFF) as u16
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
    ///
    /// # Errors
    /// [`OwnerDied`].
    pub fn try_acquire(&mut self) -> Result<bool, OwnerDied> {
        let contended = if self.owes_wake { essential!(TakeContended: CONTENDED) } else { 0 };
        let taken = self.lock.take(self.owner, LOCKED | contended)?;
        self.owes_wake &= !taken;
        Ok(taken)
    }

    /// Takes the lock if it becomes free in the time that `patience` has for spinning.
    ///
    /// # Errors
    /// [`OwnerDied`].
    pub fn spin(&mut self, patience: &Patience<'_>) -> Result<bool, OwnerDied> {
        let lock = self.lock;
        let mut attempt = || {
            let taken = if lock.is_locked() { Ok(false) } else { self.try_acquire() };
            (taken != Ok(false)).then_some(taken)
        };
        patience.spin(&mut attempt).unwrap_or(Ok(false))
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
                fault!(LockContended);
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
/// releasing it; a dead one's is taken back before the lock can be taken. So a thread that reads its own id (and finds
/// its peer in the word) holds the lock, and one that does not hold it never reads its own.
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
    /// [`ReacquireError`].
    #[inline]
    pub fn try_acquire(&self, me: Owner) -> Result<bool, ReacquireError> {
        if self.take_again(me)? {
            return Ok(true);
        }
        let taken = self.lock.try_acquire(me)?;
        if taken {
            fault!(RLockTaken);
            self.count.store(1, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// Has `me` hold the lock as if taken `count` times, if it is free or `me` holds it.
    ///
    /// # Errors
    /// [`OwnerDied`].
    pub fn try_restore(&self, me: Owner, count: u32) -> Result<bool, OwnerDied> {
        let taken = self.is_owned(me) || self.lock.try_acquire(me)?;
        if taken {
            self.count.store(count, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// Has `me`, who does not hold the lock, hold it as if taken `count` times, waiting for it.
    ///
    /// # Errors
    /// [`AcquireError`]; the lock was not taken then.
    pub fn restore(&self, me: Owner, count: u32, patience: &Patience<'_>) -> Result<(), AcquireError> {
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
        let _ = self.lock.release(bell); // it is held: its owner is here
    }

    /// As [`Lock::recover`].
    pub fn recover(&self, dead: PeerId) {
        if self.lock.owner().is_some_and(|owner| owner.peer == dead) {
            self.count.store(0, Ordering::Relaxed); // nobody else touches it as long as the lock is held
        }
        self.lock.recover(dead);
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

    /// Looks and sets WATCHED in one step: the release of whoever is seen to hold the lock rings.
    fn look(&self) -> bool {
        self.mark(essential!(LockWatched: WATCHED)).is_none()
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

    fn look(&self) -> bool {
        self.lock.lock.look() || self.lock.is_owned(self.me)
    }
}
