//! Waiting for a change of an element.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::WaitError;
use multigil::event::Patience;
use multigil::memory::Changes;
use multigil::model::{AtomicU64, Part};

use crate::{check, twin};

/// Two elements whose waiters sleep on the same word.
#[derive(Default)]
struct Elements {
    values: [AtomicU64; 2],
    changes: Changes,
}

impl Elements {
    fn change(&self, place: usize) {
        self.values[place].store(1, Ordering::Relaxed);
        self.changes.notify(1);
    }

    fn wait(&self, place: usize, patience: &Patience<'_>) -> Result<(), WaitError> {
        self.changes.wait_until(patience, || (self.values[place].load(Ordering::Relaxed) != 0).then_some(()))
    }
}

/// Whoever waits for a change hears of it.
fn change_is_heard() {
    let elements = Arc::new(Elements::default());
    let other = elements.clone();
    let waiter = thread::spawn(move || other.wait(0, &Patience::endless()));
    elements.change(0);
    waiter.join().unwrap().unwrap();
}

#[test]
fn change_is_heard_holds() {
    check(3, change_is_heard);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_is_heard_fails_without_change_before_sleepers() {
    twin(3, Part::ChangeBeforeSleepers, change_is_heard);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_is_heard_fails_without_sleepers_before_change() {
    twin(3, Part::SleepersBeforeChange, change_is_heard);
}

/// A wake for one that reaches somebody who waits for something else reaches the right one in the end.
fn change_of_another() {
    let elements = Arc::new(Elements::default());
    let waiters = [0, 1].map(|place| {
        let other = elements.clone();
        thread::spawn(move || other.wait(place, &Patience::endless()).unwrap())
    });
    let [first, second] = waiters;
    elements.change(0);
    first.join().unwrap();
    elements.change(1);
    second.join().unwrap();
}

#[test]
fn change_of_another_holds() {
    check(2, change_of_another);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_of_another_fails_without_passed_on() {
    twin(2, Part::PassedOn, change_of_another);
}

/// The same if the wrong one gives up just when it is woken.
fn change_of_another_who_gives_up() {
    let elements = Arc::new(Elements::default());
    let other = elements.clone();
    let impatient = thread::spawn(move || other.wait(1, &Patience::until_woken()));
    let other = elements.clone();
    let patient = thread::spawn(move || other.wait(0, &Patience::endless()));
    elements.change(0);
    patient.join().unwrap().unwrap();
    elements.change(1);
    let _ = impatient.join().unwrap();
}

#[test]
fn change_of_another_who_gives_up_holds() {
    check(2, change_of_another_who_gives_up);
}

#[test]
#[should_panic(expected = "deadlock")]
fn change_of_another_who_gives_up_fails_without_passed_on() {
    twin(2, Part::PassedOn, change_of_another_who_gives_up);
}
