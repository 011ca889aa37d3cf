//! The lock, and the reentrant one.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::WaitError;
use multigil::event::{Bell, Patience};
use multigil::lock::{Lock, Owner};
use multigil::model::{AtomicU64, Part};

use crate::{check, me, twin};

/// A counter that is only right if one thread at a time adds to it and sees what the one before has written.
#[derive(Default)]
struct Guarded {
    bell: Bell,
    lock: Lock,
    count: AtomicU64,
}

impl Guarded {
    fn acquire(&self, patience: Patience<'_>) -> Result<(), WaitError> {
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
fn lock_given_up_fails_without_flag_on_leaving() {
    twin(3, Part::FlagOnLeaving, lock_given_up);
}
