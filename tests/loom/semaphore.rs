//! The semaphore.

use std::sync::Arc;

use loom::thread;
use multigil::error::TooManyReleases;
use multigil::event::{Bell, Patience};
use multigil::model::{OwnedWord, Part};
use multigil::semaphore::Semaphore;

use crate::{check, twin};

/// A semaphore, and a word for whoever is alone inside.
#[derive(Default)]
struct Gate {
    bell: Bell,
    semaphore: Semaphore,
    word: OwnedWord,
}

impl Gate {
    fn new(value: u64, bounded: bool) -> Arc<Gate> {
        let gate = Gate::default();
        gate.semaphore.initialize(value, bounded);
        Arc::new(gate)
    }

    fn acquire(&self) {
        self.semaphore.acquire(&self.bell, &Patience::endless()).unwrap();
    }

    fn release(&self, count: u64) -> Result<(), TooManyReleases> {
        self.semaphore.release(count, &self.bell)
    }

    fn add(&self) {
        self.acquire();
        self.word.write(self.word.read() + 1);
        self.release(1).unwrap();
    }
}

/// A semaphore of one is a lock: one thread at a time, and each sees what the one before has written.
fn one_inside() {
    let gate = Gate::new(1, true);
    let other = gate.clone();
    let adder = thread::spawn(move || other.add());
    gate.add();
    adder.join().unwrap();
    assert_eq!((gate.word.read(), gate.semaphore.value()), (2, 1));
}

#[test]
fn one_inside_holds() {
    check(3, one_inside);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn one_inside_fails_without_semaphore_acquired() {
    twin(3, Part::SemaphoreAcquired, one_inside);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn one_inside_fails_without_semaphore_released() {
    twin(3, Part::SemaphoreReleased, one_inside);
}

/// Who takes sees what came before all releases so far: also before the one that is not the last.
fn release_release() {
    let gate = Gate::new(0, false);
    let other = gate.clone();
    let first = thread::spawn(move || {
        other.word.write(1);
        other.release(1).unwrap();
    });
    let other = gate.clone();
    let second = thread::spawn(move || other.release(1).unwrap());
    gate.acquire();
    gate.acquire();
    assert_eq!(gate.word.read(), 1);
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn release_release_holds() {
    check(2, release_release);
}

/// One release of two reaches two who sleep.
fn release_two() {
    let gate = Gate::new(0, false);
    let sleepers = [gate.clone(), gate.clone()].map(|gate| thread::spawn(move || gate.acquire()));
    gate.release(2).unwrap();
    sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    assert!(!gate.semaphore.try_acquire());
}

#[test]
fn release_two_holds() {
    check(2, release_two);
}

#[test]
#[should_panic(expected = "deadlock")]
fn release_two_fails_without_pass_on() {
    twin(2, Part::PassOn, release_two);
}

/// One who is quicker than those who sleep takes from two: then one of them goes on, and the other one does with the next.
fn release_two_beside_thief() {
    let gate = Gate::new(0, false);
    let sleepers = [gate.clone(), gate.clone()].map(|gate| thread::spawn(move || gate.acquire()));
    gate.release(2).unwrap();
    if gate.semaphore.try_acquire() {
        gate.release(1).unwrap();
    }
    sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
}

#[test]
fn release_two_beside_thief_holds() {
    check(2, release_two_beside_thief);
}

/// The bound is kept, and nothing is refused that it allows.
fn bound_of_one() {
    let gate = Gate::new(1, true);
    gate.acquire();
    let other = gate.clone();
    let releaser = thread::spawn(move || other.release(1));
    let results = [gate.release(1), releaser.join().unwrap()];
    assert!(results.contains(&Ok(())) && results.contains(&Err(TooManyReleases)), "{results:?}");
    assert_eq!((gate.semaphore.value(), gate.semaphore.bound()), (1, Some(1)));
}

#[test]
fn bound_of_one_holds() {
    check(3, bound_of_one);
}

/// One that is taken and given back at the same time is there again in the end, and the bound refuses neither.
fn bound_beside_taker() {
    let gate = Gate::new(2, true);
    gate.acquire();
    let other = gate.clone();
    let taker = thread::spawn(move || {
        assert!(other.semaphore.try_acquire());
        other.release(1).unwrap();
    });
    gate.release(1).unwrap();
    taker.join().unwrap();
    assert_eq!(gate.semaphore.value(), 2);
    assert_eq!(gate.release(1), Err(TooManyReleases));
}

#[test]
fn bound_beside_taker_holds() {
    check(3, bound_beside_taker);
}
