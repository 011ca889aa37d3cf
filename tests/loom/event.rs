//! The event count, and the bell.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::WaitError;
use multigil::event::{Bell, Event, Patience};
use multigil::model::{AtomicU64, Part};

use crate::{check, twin};

/// What is waited for: a number of tokens.
#[derive(Default)]
struct Tokens {
    count: AtomicU64,
    bell: Bell,
    event: Event,
}

impl Tokens {
    fn give(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.event.notify_one(&self.bell);
    }

    fn try_take(&self) -> Option<()> {
        let mut seen = self.count.load(Ordering::Relaxed);
        while seen > 0 {
            match self.count.compare_exchange(seen, seen - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(()),
                Err(now) => seen = now,
            }
        }
        None
    }

    fn take(&self, patience: Patience<'_>) -> Result<(), WaitError> {
        self.event.wait_until(&self.bell, &patience, || self.try_take(), || self.count.load(Ordering::Relaxed) > 0)
    }
}

/// A waiter in a thread of its own.
fn waiter(tokens: &Arc<Tokens>) -> thread::JoinHandle<()> {
    let tokens = tokens.clone();
    thread::spawn(move || tokens.take(Patience::endless()).unwrap())
}

/// A waiter and a notifier: the wake is not lost, whoever comes first.
fn wake() {
    let tokens = Arc::new(Tokens::default());
    let waiter = waiter(&tokens);
    tokens.give();
    waiter.join().unwrap();
    assert_eq!(tokens.event.waiting(), 0);
}

#[test]
fn wake_holds() {
    check(3, wake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, wake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_fails_without_wait_fence() {
    twin(3, Part::WaitFence, wake);
}

/// Two waiters and a notifier that runs ahead: its second wake is left to the first one who wakes.
fn wake_passed_on() {
    let tokens = Arc::new(Tokens::default());
    let waiters = [waiter(&tokens), waiter(&tokens)];
    tokens.give();
    tokens.give();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn wake_passed_on_holds() {
    check(2, wake_passed_on);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_passed_on_fails_without_pass_on() {
    twin(2, Part::PassOn, wake_passed_on);
}

/// Two waiters and two notifiers.
fn two_wakes() {
    let tokens = Arc::new(Tokens::default());
    let waiters = [waiter(&tokens), waiter(&tokens)];
    let other = tokens.clone();
    let notifier = thread::spawn(move || other.give());
    tokens.give();
    notifier.join().unwrap();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn two_wakes_hold() {
    check(1, two_wakes);
}

/// A thief takes what a waiter was woken for: the next wake still reaches the waiter.
fn wake_after_theft() {
    let tokens = Arc::new(Tokens::default());
    let waiter = waiter(&tokens);
    let other = tokens.clone();
    let thief = thread::spawn(move || other.try_take());
    tokens.give();
    tokens.give();
    waiter.join().unwrap();
    let stolen = thief.join().unwrap();
    assert_eq!(tokens.try_take().is_some(), stolen.is_none());
}

#[test]
fn wake_after_theft_holds() {
    check(3, wake_after_theft);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_after_theft_fails_without_seen() {
    twin(3, Part::Seen, wake_after_theft);
}

/// A waiter that gives up just when it is woken takes what it was woken for, or leaves it to the other.
fn wake_of_one_who_gives_up() {
    let tokens = Arc::new(Tokens::default());
    let other = tokens.clone();
    let impatient = thread::spawn(move || other.take(Patience::until_woken()));
    let patient = waiter(&tokens);
    tokens.give();
    tokens.give();
    patient.join().unwrap();
    let taken = impatient.join().unwrap();
    assert_eq!(tokens.try_take().is_some(), taken.is_err());
}

#[test]
fn wake_of_one_who_gives_up_holds() {
    check(2, wake_of_one_who_gives_up);
}

/// `notify_all` reaches everybody.
fn wake_all() {
    let tokens = Arc::new(Tokens::default());
    let waiters = [waiter(&tokens), waiter(&tokens)];
    tokens.count.fetch_add(2, Ordering::Release);
    tokens.event.notify_all(&tokens.bell);
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn wake_all_holds() {
    check(2, wake_all);
}
