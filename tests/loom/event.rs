//! The event count, and the bell.

use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::WaitError;
use multigil::event::{Attempt, Bell, Event, Patience, Watchable, wait_any};
use multigil::model::{AtomicU64, Part};
use multigil::semaphore::Semaphore;

use crate::{check, me, twin};

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
fn wake_after_theft_fails_without_grown() {
    twin(3, Part::Grown, wake_after_theft);
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

/// Two waiters that act after the wait, one of which fails: the other one gets what the first was woken for.
fn turn_passed_on() {
    let tokens = Arc::new(Tokens::default());
    let acting = |fails: bool| {
        let tokens = tokens.clone();
        thread::spawn(move || {
            let ready = || tokens.count.load(Ordering::Relaxed) > 0;
            let attempt = || if ready() { Attempt::<()>::Leave } else { Attempt::NotYet };
            loop {
                let _turn = tokens.event.wait_for(&tokens.bell, &Patience::endless(), attempt, ready).unwrap();
                if fails || tokens.try_take().is_some() {
                    break;
                }
            }
        })
    };
    let waiters = [acting(true), acting(false)];
    tokens.give();
    tokens.give();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    assert_eq!(tokens.count.load(Ordering::Relaxed), 1);
}

#[test]
fn turn_passed_on_holds() {
    check(2, turn_passed_on);
}

#[test]
#[should_panic(expected = "deadlock")]
fn turn_passed_on_fails_without_turn_passes_on() {
    twin(2, Part::TurnPassesOn, turn_passed_on);
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

// ---------------------------------------------------------------------------------------------- bell

/// What is waited for by those who wait for several things: two semaphores.
#[derive(Default)]
struct Things {
    bell: Bell,
    first: Semaphore,
    second: Semaphore,
}

impl Things {
    fn release(&self) {
        self.first.release(me(), 1, &self.bell).unwrap();
    }

    fn wait_any(&self, patience: Patience<'_>) -> Result<usize, WaitError> {
        wait_any(&[&self.first, &self.second], &self.bell, &patience)
    }
}

/// One who waits for both in a thread of its own.
fn watcher(things: &Arc<Things>) -> thread::JoinHandle<usize> {
    let things = things.clone();
    thread::spawn(move || things.wait_any(Patience::endless()).unwrap())
}

/// One who waits for the first one alone, and takes it.
fn sleeper(things: &Arc<Things>) -> thread::JoinHandle<()> {
    let things = things.clone();
    thread::spawn(move || things.first.acquire(me(), &things.bell, &Patience::endless()).unwrap())
}

/// A watcher and a notifier: the ring is not lost, whoever comes first.
fn ring() {
    let things = Arc::new(Things::default());
    let watcher = watcher(&things);
    things.release();
    assert_eq!(watcher.join().unwrap(), 0);
    assert_eq!(things.first.value(), 1, "nothing is taken");
}

#[test]
fn ring_holds() {
    check(3, ring);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ring_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, ring);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ring_fails_without_wait_fence() {
    twin(3, Part::WaitFence, ring);
}

/// A watcher of two things that become ready at once.
fn ring_ring() {
    let things = Arc::new(Things::default());
    let watcher = watcher(&things);
    let other = things.clone();
    let notifier = thread::spawn(move || other.release());
    things.second.release(me(), 1, &things.bell).unwrap();
    assert!(watcher.join().unwrap() < 2);
    notifier.join().unwrap();
}

#[test]
fn ring_ring_holds() {
    check(2, ring_ring);
}

/// Two watchers: each is told.
fn ring_for_two() {
    let things = Arc::new(Things::default());
    let watchers = [watcher(&things), watcher(&things)];
    things.release();
    watchers.into_iter().for_each(|watcher| assert_eq!(watcher.join().unwrap(), 0));
}

#[test]
fn ring_for_two_holds() {
    check(2, ring_for_two);
}

/// A thief takes what the bell rang for: the next one rings again.
fn ring_after_theft() {
    let things = Arc::new(Things::default());
    let watcher = watcher(&things);
    let other = things.clone();
    let thief = thread::spawn(move || other.first.try_acquire(me()));
    things.release();
    things.release();
    assert_eq!(watcher.join().unwrap(), 0);
    thief.join().unwrap();
}

#[test]
fn ring_after_theft_holds() {
    check(3, ring_after_theft);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ring_after_theft_fails_without_bell_rung() {
    twin(3, Part::BellRung, ring_after_theft);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ring_after_theft_fails_without_bell_seen() {
    twin(3, Part::BellSeen, ring_after_theft);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ring_after_theft_fails_without_watched() {
    twin(3, Part::Watched, ring_after_theft);
}

/// A watcher beside a sleeper: of two, one is taken by the sleeper and the other one told to the watcher.
fn ring_beside_sleeper() {
    let things = Arc::new(Things::default());
    let (watcher, sleeper) = (watcher(&things), sleeper(&things));
    things.release();
    things.release();
    assert_eq!(watcher.join().unwrap(), 0);
    sleeper.join().unwrap();
}

#[test]
fn ring_beside_sleeper_holds() {
    check(2, ring_beside_sleeper);
}

/// A watcher that gives up just when it is woken takes no wake from one who sleeps.
fn watcher_gives_up() {
    let things = Arc::new(Things::default());
    let other = things.clone();
    let watcher = thread::spawn(move || other.wait_any(Patience::until_woken()));
    let sleeper = sleeper(&things);
    things.release();
    sleeper.join().unwrap();
    things.release();
    let _ = watcher.join().unwrap(); // it has slept once, or not at all
}

#[test]
fn watcher_gives_up_holds() {
    check(2, watcher_gives_up);
}

/// What one has another one be told of, who sleeps on the bell for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Idle,
    Armed,
    Over,
}

/// One who looks for a sleeper that may be on its way into the sleep: what comes after the look wakes the sleeper.
fn looked_for_another() {
    let things = Arc::new(Things::default());
    let watch = Arc::new(Mutex::new(Watch::Idle));
    let (theirs, their_watch) = (things.clone(), watch.clone());
    let sleeper = thread::spawn(move || {
        let look = || {
            let mut watch = their_watch.lock().unwrap();
            if *watch == Watch::Armed && theirs.first.look() {
                *watch = Watch::Over;
            }
            (*watch == Watch::Over).then_some(())
        };
        theirs.bell.wait_until(&Patience::endless(), look).unwrap();
    });
    let other = things.clone();
    let notifier = thread::spawn(move || other.release());
    let is_ready = {
        let mut watch = watch.lock().unwrap();
        let is_ready = things.first.look();
        *watch = if is_ready { Watch::Over } else { Watch::Armed };
        is_ready
    };
    if is_ready {
        things.bell.ring(); // nobody waits; it only ends the model
    }
    sleeper.join().unwrap();
    notifier.join().unwrap();
}

#[test]
fn looked_for_another_holds() {
    check(3, looked_for_another);
}

#[test]
#[should_panic(expected = "deadlock")]
fn looked_for_another_fails_without_wait_fence() {
    twin(3, Part::WaitFence, looked_for_another);
}

#[test]
#[should_panic(expected = "deadlock")]
fn looked_for_another_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, looked_for_another);
}

#[test]
#[should_panic(expected = "deadlock")]
fn looked_for_another_fails_without_watched() {
    twin(3, Part::Watched, looked_for_another);
}

// ---------------------------------------------------------------------------------------------- deaths

/// A waiter and a recoverer, who forgets all sleepers: the wake that comes then is not lost.
fn wake_after_recovery() {
    let tokens = Arc::new(Tokens::default());
    let waiter = waiter(&tokens);
    tokens.event.recover();
    tokens.give();
    waiter.join().unwrap();
    assert_eq!(tokens.event.waiting(), 0);
}

#[test]
fn wake_after_recovery_holds() {
    check(3, wake_after_recovery);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_after_recovery_fails_without_counted_again() {
    twin(3, Part::CountedAgain, wake_after_recovery);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wake_after_recovery_fails_without_epoch_seen() {
    twin(3, Part::EpochSeen, wake_after_recovery);
}

/// The same beside a notifier, who comes before, after or meanwhile.
fn wake_beside_recovery() {
    let tokens = Arc::new(Tokens::default());
    let waiter = waiter(&tokens);
    let other = tokens.clone();
    let recoverer = thread::spawn(move || other.event.recover());
    tokens.give();
    waiter.join().unwrap();
    recoverer.join().unwrap();
    assert_eq!(tokens.event.waiting(), 0);
}

#[test]
fn wake_beside_recovery_holds() {
    check(2, wake_beside_recovery);
}

/// One who was counted before a recovery and leaves after it does not take back the count of another one.
fn leaving_after_recovery() {
    let tokens = Arc::new(Tokens::default());
    let other = tokens.clone();
    let leaving = thread::spawn(move || {
        other.event.wait_until(&other.bell, &Patience::endless(), || Some(()), || false).unwrap();
    });
    let other = tokens.clone();
    let staying = thread::spawn(move || {
        other.event.recover();
        other.take(Patience::endless()).unwrap();
    });
    tokens.give();
    staying.join().unwrap();
    leaving.join().unwrap();
    assert_eq!(tokens.event.waiting(), 0);
}

#[test]
fn leaving_after_recovery_holds() {
    check(3, leaving_after_recovery);
}

#[test]
#[should_panic(expected = "deadlock")]
fn leaving_after_recovery_fails_without_own_epoch() {
    twin(3, Part::OwnEpoch, leaving_after_recovery);
}
