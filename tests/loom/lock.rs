//! The lock, and the reentrant one.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::{AcquireError, NotOwned, OwnerDied};
use multigil::event::{Bell, Patience, wait_any};
use multigil::lock::{Lock, Owner, RLock};
use multigil::model::{AtomicU64, OwnedWord, Part};

use crate::{check, dead, me, twin};

/// A counter that is only right if one thread at a time adds to it and sees what the one before has written.
#[derive(Default)]
struct Guarded {
    bell: Bell,
    lock: Lock,
    count: AtomicU64,
    /// What somebody has put right who found the owner dead.
    repaired: AtomicU64,
}

impl Guarded {
    fn acquire(&self, patience: Patience<'_>) -> Result<(), AcquireError> {
        self.lock.acquire(Owner { peer: me(), thread: 1 }, &patience)
    }

    fn add(&self) {
        self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.lock.release(&self.bell).unwrap();
    }

    fn acquire_and_add(self: Arc<Self>) {
        self.acquire(Patience::endless()).unwrap();
        self.add();
    }
}

/// One thread at a time, and each sees what the one before has written.
fn exclusion() {
    let guarded = Arc::new(Guarded::default());
    let other = guarded.clone();
    let adder = thread::spawn(move || other.acquire_and_add());
    guarded.clone().acquire_and_add();
    adder.join().unwrap();
    assert_eq!(guarded.count.load(Ordering::Relaxed), 2, "both have added");
    assert!(!guarded.lock.is_locked() && guarded.lock.release(&guarded.bell).is_err());
}

#[test]
fn exclusion_holds() {
    check(3, exclusion);
}

#[test]
#[should_panic(expected = "both have added")]
fn exclusion_fails_without_acquired() {
    twin(3, Part::Acquired, exclusion);
}

#[test]
#[should_panic(expected = "both have added")]
fn exclusion_fails_without_released() {
    twin(3, Part::Released, exclusion);
}

/// Three threads: each that waits is woken in the end.
fn three_at_once() {
    let guarded = Arc::new(Guarded::default());
    let adders = [guarded.clone(), guarded.clone()].map(|other| thread::spawn(move || other.acquire_and_add()));
    guarded.clone().acquire_and_add();
    adders.into_iter().for_each(|adder| adder.join().unwrap());
    assert_eq!(guarded.count.load(Ordering::Relaxed), 3, "all have added");
}

#[test]
fn three_at_once_holds() {
    check(3, three_at_once);
}

#[test]
#[should_panic(expected = "deadlock")]
fn three_at_once_fails_without_take_contended() {
    twin(3, Part::TakeContended, three_at_once);
}

/// A waiter that gives up just when it is woken leaves word for the other waiter, even if a third thread has taken the
/// lock in between.
fn lock_given_up() {
    let guarded = Arc::new(Guarded::default());
    guarded.acquire(Patience::endless()).unwrap();
    let other = guarded.clone();
    let impatient = thread::spawn(move || other.acquire(Patience::until_woken()).map(|()| other.add()));
    let other = guarded.clone();
    let patient = thread::spawn(move || other.acquire_and_add());
    guarded.add();
    guarded.clone().acquire_and_add();
    patient.join().unwrap();
    let added = 3 + u64::from(impatient.join().unwrap().is_ok());
    assert_eq!(guarded.count.load(Ordering::Relaxed), added);
}

#[test]
fn lock_given_up_holds() {
    check(3, lock_given_up);
}

#[test]
#[should_panic(expected = "deadlock")]
fn lock_given_up_fails_without_wake_owed() {
    twin(3, Part::WakeOwed, lock_given_up);
}

/// A waiter that is woken and leaves without another look hands the wake on, whether the lock is free or not.
fn waiter_dropped() {
    let guarded = Arc::new(Guarded::default());
    guarded.acquire(Patience::endless()).unwrap();
    let other = guarded.clone();
    let leaving = thread::spawn(move || {
        let mut waiter = other.lock.waiter(Owner { peer: me(), thread: 1 });
        waiter.sleep(&Patience::endless()).unwrap();
    });
    let other = guarded.clone();
    let staying = thread::spawn(move || other.acquire_and_add());
    guarded.add();
    leaving.join().unwrap();
    staying.join().unwrap();
    assert_eq!(guarded.count.load(Ordering::Relaxed), 2);
}

#[test]
fn waiter_dropped_holds() {
    check(3, waiter_dropped);
}

#[test]
#[should_panic(expected = "deadlock")]
fn waiter_dropped_fails_without_wake_owed() {
    twin(3, Part::WakeOwed, waiter_dropped);
}

// ---------------------------------------------------------------------------------------------- watching

/// One who waits for the lock among other things, and does not take it.
fn watcher(guarded: &Arc<Guarded>) -> thread::JoinHandle<()> {
    let guarded = guarded.clone();
    thread::spawn(move || {
        assert_eq!(wait_any(&[&guarded.lock], &guarded.bell, &Patience::endless()), Ok(0));
    })
}

/// A lock that is given back and taken again and given back: whoever watches it is told.
fn lock_watched() {
    let guarded = Arc::new(Guarded::default());
    guarded.acquire(Patience::endless()).unwrap();
    let watcher = watcher(&guarded);
    guarded.add();
    guarded.clone().acquire_and_add();
    watcher.join().unwrap();
}

#[test]
fn lock_watched_holds() {
    check(3, lock_watched);
}

#[test]
#[should_panic(expected = "deadlock")]
fn lock_watched_fails_without_lock_watched() {
    twin(3, Part::LockWatched, lock_watched);
}

/// So it is beside one who sleeps until it can take the lock, and each is woken.
fn lock_watched_beside_sleeper() {
    let guarded = Arc::new(Guarded::default());
    guarded.acquire(Patience::endless()).unwrap();
    let watcher = watcher(&guarded);
    let other = guarded.clone();
    let sleeper = thread::spawn(move || other.acquire_and_add());
    guarded.add();
    watcher.join().unwrap();
    sleeper.join().unwrap();
}

#[test]
fn lock_watched_beside_sleeper_holds() {
    check(3, lock_watched_beside_sleeper);
}

// ---------------------------------------------------------------------------------------------- reentrant

/// A reentrant lock around a word that only one thread at a time may touch.
#[derive(Default)]
struct Reentrant {
    bell: Bell,
    lock: RLock,
    word: OwnedWord,
}

impl Reentrant {
    /// Takes the lock twice and gives it back twice; it is the thread's own in between, and only then.
    fn enter_twice(&self, thread: u32) {
        let me = Owner { peer: me(), thread };
        assert!(!self.lock.is_owned(me), "it is not taken yet");
        self.lock.restore(me, 1, &Patience::endless()).unwrap();
        assert_eq!(self.lock.try_acquire(me), Ok(true), "it is the owner's");
        self.word.write(self.word.read() + 1);
        self.lock.release(me, &self.bell).unwrap();
        assert!(self.lock.is_owned(me), "it was given back once");
        self.lock.release(me, &self.bell).unwrap();
        assert_eq!(self.lock.release(me, &self.bell), Err(NotOwned), "it was given back twice");
    }
}

/// Threads of one peer: each knows exactly whether it is the owner, whatever the other does at the same time.
fn exact_owner() {
    let reentrant = Arc::new(Reentrant::default());
    let other = reentrant.clone();
    let thread = thread::spawn(move || other.enter_twice(1));
    reentrant.enter_twice(2);
    thread.join().unwrap();
    assert_eq!((reentrant.word.read(), reentrant.lock.count()), (2, 0));
    assert!(!reentrant.lock.lock().is_locked());
}

#[test]
fn exact_owner_holds() {
    check(3, exact_owner);
}

#[test]
#[should_panic(expected = "it was given back twice")]
fn exact_owner_fails_without_name_cleared() {
    twin(3, Part::NameCleared, exact_owner);
}

/// A thread that asks again and again while another one takes the lock and gives it back is never told that it is its own.
fn never_ours() {
    let reentrant = Arc::new(Reentrant::default());
    let other = reentrant.clone();
    let thread = thread::spawn(move || other.enter_twice(1));
    for _ in 0..2 {
        assert_eq!(reentrant.lock.release(Owner { peer: me(), thread: 2 }, &reentrant.bell), Err(NotOwned));
    }
    thread.join().unwrap();
}

#[test]
fn never_ours_holds() {
    check(3, never_ours);
}

// ---------------------------------------------------------------------------------------------- deaths

/// A lock whose owner died.
fn held_by_the_dead() -> Arc<Guarded> {
    let guarded = Arc::new(Guarded::default());
    assert_eq!(guarded.lock.try_acquire(Owner { peer: dead(), thread: 3 }), Ok(true));
    guarded
}

impl Guarded {
    /// Takes the lock, adds, gives it back; how often it was told of the death.
    fn insist(&self) -> u64 {
        let died = match self.acquire(Patience::endless()) {
            Ok(()) => 0,
            Err(AcquireError::OwnerDied(died)) => {
                assert_eq!(died, OwnerDied { peer: dead().get(), thread: 3 }, "whose it was");
                self.acquire(Patience::endless()).expect("nobody is told twice");
                1
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(self.repaired.load(Ordering::Relaxed), 1, "what was put right is seen");
        self.add();
        died
    }

    /// What finds out that the owner died.
    fn recover(&self) {
        self.repaired.store(1, Ordering::Relaxed);
        self.lock.recover(dead());
    }
}

/// Two want the lock of a dead one: both are woken, one is told, both get it.
fn owner_died() {
    let guarded = held_by_the_dead();
    let others = [guarded.clone(), guarded.clone()].map(|other| thread::spawn(move || other.insist()));
    guarded.recover();
    assert_eq!(others.map(|other| other.join().unwrap()).iter().sum::<u64>(), 1, "one is told");
    assert_eq!(guarded.count.load(Ordering::Relaxed), 2, "both have added");
    assert!(!guarded.lock.is_locked());
}

#[test]
fn owner_died_holds() {
    check(2, owner_died);
}

#[test]
#[should_panic(expected = "deadlock")]
fn owner_died_fails_without_abandoned_wake() {
    twin(2, Part::AbandonedWake, owner_died);
}

#[test]
#[should_panic(expected = "whose it was")]
fn owner_died_fails_without_abandoned() {
    twin(2, Part::Abandoned, owner_died);
}

#[test]
#[should_panic(expected = "whose it was")]
fn owner_died_fails_without_abandoned_seen() {
    twin(2, Part::AbandonedSeen, owner_died);
}

/// Another thread gives the lock back just then: it succeeds and nobody is told, or it fails and somebody is.
fn owner_died_beside_release() {
    let guarded = held_by_the_dead();
    guarded.repaired.store(1, Ordering::Relaxed);
    let other = guarded.clone();
    let releaser = thread::spawn(move || other.lock.release(&other.bell).is_ok());
    let other = guarded.clone();
    let waiter = thread::spawn(move || match other.acquire(Patience::endless()) {
        Ok(()) => false,
        Err(AcquireError::OwnerDied(_)) => true,
        Err(error) => panic!("{error}"),
    });
    guarded.lock.recover(dead());
    let (released, told) = (releaser.join().unwrap(), waiter.join().unwrap());
    assert_eq!(told, !released, "one of both");
    assert_eq!(guarded.lock.is_locked(), released);
}

#[test]
fn owner_died_beside_release_holds() {
    check(2, owner_died_beside_release);
}

#[test]
#[should_panic(expected = "deadlock")]
fn owner_died_beside_release_fails_without_abandoned_wake() {
    twin(2, Part::AbandonedWake, owner_died_beside_release);
}

/// The thread of a dead one had an id that a living thread has now: this one never takes the lock for its own while
/// another one of its peer takes it.
fn name_of_the_dead() {
    let reentrant = Arc::new(Reentrant::default());
    assert_eq!(reentrant.lock.try_acquire(Owner { peer: dead(), thread: 1 }), Ok(true));
    reentrant.lock.recover(dead());
    let other = reentrant.clone();
    let taker = thread::spawn(move || {
        let me = Owner { peer: me(), thread: 2 };
        let died = OwnerDied { peer: dead().get(), thread: 1 };
        assert_eq!(other.lock.restore(me, 1, &Patience::endless()), Err(AcquireError::OwnerDied(died)));
        other.enter_twice(2);
    });
    for _ in 0..2 {
        assert!(!reentrant.lock.is_owned(Owner { peer: me(), thread: 1 }), "it is another's");
    }
    taker.join().unwrap();
}

#[test]
fn name_of_the_dead_holds() {
    check(3, name_of_the_dead);
}

#[test]
#[should_panic(expected = "it is another's")]
fn name_of_the_dead_fails_without_dead_name_cleared() {
    twin(3, Part::DeadNameCleared, name_of_the_dead);
}
