//! The flag.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::event::{Bell, Patience, wait_any};
use multigil::flag::{Flag, Seen};
use multigil::model::{AtomicU64, OwnedWord, Part};

use crate::{check, twin};

/// A flag, and what it tells of.
#[derive(Default)]
struct Signal {
    bell: Bell,
    flag: Flag,
    word: OwnedWord,
}

impl Signal {
    fn set(&self) {
        self.flag.set(&self.bell);
    }

    fn wait(&self, seen: Seen) {
        self.flag.wait(seen, &self.bell, &Patience::endless()).unwrap();
    }
}

/// Whoever waits is told when it is set, and sees what came before.
fn set_is_seen() {
    let signal = Arc::new(Signal::default());
    let other = signal.clone();
    let waiter = thread::spawn(move || {
        other.wait(other.flag.now());
        assert_eq!(other.word.read(), 1);
    });
    signal.word.write(1);
    signal.set();
    waiter.join().unwrap();
    assert!(signal.flag.is_set());
}

#[test]
fn set_is_seen_holds() {
    check(3, set_is_seen);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn set_is_seen_fails_without_flag_set() {
    twin(3, Part::FlagSet, set_is_seen);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn set_is_seen_fails_without_flag_seen() {
    twin(3, Part::FlagSeen, set_is_seen);
}

#[test]
#[should_panic(expected = "deadlock")]
fn set_is_seen_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, set_is_seen);
}

/// Whoever waits when it is set goes on, even if it is taken back at once, and even if it is that in between.
fn set_and_cleared() {
    let signal = Arc::new(Signal::default());
    let waiters = [(); 2].map(|()| {
        let (other, seen) = (signal.clone(), signal.flag.now());
        thread::spawn(move || {
            other.wait(seen);
            other.word.read()
        })
    });
    signal.word.write(1);
    signal.set();
    signal.flag.clear();
    assert_eq!(waiters.map(|waiter| waiter.join().unwrap()), [1, 1]);
    assert!(!signal.flag.is_set());
}

#[test]
fn set_and_cleared_holds() {
    check(2, set_and_cleared);
}

#[test]
#[should_panic(expected = "deadlock")]
fn set_and_cleared_fails_without_set_since() {
    twin(2, Part::SetSince, set_and_cleared);
}

/// A flag that was set before a wait began, and taken back, does not end it: the next time does.
fn set_before() {
    let signal = Arc::new(Signal::default());
    signal.set();
    signal.flag.clear();
    let other = signal.clone();
    let waiter = thread::spawn(move || {
        other.wait(other.flag.now());
        other.word.read()
    });
    signal.word.write(1);
    signal.set();
    assert_eq!(waiter.join().unwrap(), 1);
}

#[test]
fn set_before_holds() {
    check(3, set_before);
}

/// One gives work and sets the flag, which is set; the other one takes it back, finds no work, and waits: the work is not
/// overlooked.
fn set_while_cleared() {
    let signal = Arc::new(Signal::default());
    signal.set();
    let work = Arc::new(AtomicU64::default());
    let (other, given) = (signal.clone(), work.clone());
    let giver = thread::spawn(move || {
        given.store(1, Ordering::Relaxed);
        other.set();
    });
    signal.flag.clear();
    if work.load(Ordering::Relaxed) == 0 {
        signal.wait(signal.flag.now());
        assert_eq!(work.load(Ordering::Relaxed), 1);
    }
    giver.join().unwrap();
}

#[test]
fn set_while_cleared_holds() {
    check(3, set_while_cleared);
}

#[test]
#[should_panic(expected = "deadlock")]
fn set_while_cleared_fails_without_flag_cleared() {
    twin(3, Part::FlagCleared, set_while_cleared);
}

/// Whoever finds it taken back sees what came before that.
fn clear_is_seen() {
    let signal = Arc::new(Signal::default());
    signal.set();
    let other = signal.clone();
    let clearer = thread::spawn(move || {
        other.word.write(1);
        other.flag.clear();
    });
    if !signal.flag.is_set() {
        assert_eq!(signal.word.read(), 1);
    }
    clearer.join().unwrap();
}

#[test]
fn clear_is_seen_holds() {
    check(3, clear_is_seen);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn clear_is_seen_fails_without_flag_cleared() {
    twin(3, Part::FlagCleared, clear_is_seen);
}

/// Whoever waits for it among other things is told, too.
fn set_rings() {
    let signal = Arc::new(Signal::default());
    let other = signal.clone();
    let watcher = thread::spawn(move || {
        assert_eq!(wait_any(&[&other.flag], &other.bell, &Patience::endless()), Ok(0));
        assert_eq!(other.word.read(), 1);
    });
    let other = signal.clone();
    let waiter = thread::spawn(move || other.wait(other.flag.now()));
    signal.word.write(1);
    signal.set();
    watcher.join().unwrap();
    waiter.join().unwrap();
}

#[test]
fn set_rings_holds() {
    check(2, set_rings);
}

/// So is one who has begun to before it was set and taken back.
fn set_and_cleared_rings() {
    let signal = Arc::new(Signal::default());
    let begun = Arc::new(AtomicU64::default());
    let (other, beginning) = (signal.clone(), begun.clone());
    let watcher = thread::spawn(move || {
        let flag = other.flag.from_now();
        if beginning.fetch_add(1, Ordering::AcqRel) == 0 {
            assert_eq!(wait_any(&[&flag], &other.bell, &Patience::endless()), Ok(0));
            assert_eq!(other.word.read(), 1);
        }
    });
    signal.word.write(1);
    begun.fetch_add(1, Ordering::AcqRel);
    signal.set();
    signal.flag.clear();
    watcher.join().unwrap();
}

#[test]
fn set_and_cleared_rings_holds() {
    check(3, set_and_cleared_rings);
}

#[test]
#[should_panic(expected = "deadlock")]
fn set_and_cleared_rings_fails_without_set_since() {
    twin(3, Part::SetSince, set_and_cleared_rings);
}
