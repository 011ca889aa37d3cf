//! Seats, and the condition that is made of them.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::condition::Condition;
use multigil::error::OutOfMemory;
use multigil::event::{Bell, Patience};
use multigil::layout::PeerId;
use multigil::lock::{Lock, Owner};
use multigil::model::{AtomicU64, OwnedWord, Part};
use multigil::waiters::{Bench, Benches, Call, Sitting};

use crate::{check, dead, die_at, me, twin};

/// A workshop for a few benches.
#[derive(Default)]
pub(crate) struct Workshop([Work; 4]);

#[derive(Default)]
struct Work {
    taken: AtomicU64,
    /// What whoever makes the bench writes: nobody may come to the bench before.
    finished: OwnedWord,
    bench: Bench,
}

impl Workshop {
    /// How many benches are in use.
    fn taken(&self) -> u64 {
        self.0.iter().map(|work| work.taken.load(Ordering::Relaxed)).sum()
    }

    fn work(&self, name: u64) -> &Work {
        &self.0[name as usize - 1]
    }
}

impl Benches for Workshop {
    fn bench(&self, name: u64) -> Option<&Bench> {
        let work = self.work(name);
        assert_eq!(work.finished.read(), 1);
        Some(&work.bench)
    }

    fn make(&self, _: PeerId) -> Result<u64, OutOfMemory> {
        for (index, work) in self.0.iter().enumerate() {
            if work.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                work.finished.write(1);
                return Ok(index as u64 + 1);
            }
        }
        Err(OutOfMemory { requested: 1, available: 0 })
    }

    fn discard(&self, _: PeerId, name: u64) {
        let work = self.work(name);
        work.finished.write(0);
        work.taken.store(0, Ordering::Release);
    }
}

/// In the place of a condition's lock, cheaper: adding to it says which of two threads came first.
const NOTIFIER: u64 = 1 << 32;

#[derive(Default)]
struct Room {
    workshop: Workshop,
    condition: Condition,
    order: AtomicU64,
    word: OwnedWord,
}

impl Room {
    fn sit(&self) -> Sitting<'_> {
        self.condition.sit(&self.workshop, Owner { peer: me(), thread: 1 }).unwrap()
    }

    /// Sits if that is before all notifiers; otherwise how often it was called while it sat there.
    fn sit_first(&self) -> Result<Sitting<'_>, u32> {
        let sitting = self.sit();
        let first = self.order.fetch_add(1, Ordering::AcqRel) < NOTIFIER;
        if first { Ok(sitting) } else { Err(was_called(sitting)) }
    }

    /// A notifier: how many sat before it.
    fn waiting(&self) -> u64 {
        self.order.fetch_add(NOTIFIER, Ordering::AcqRel) % NOTIFIER
    }

    fn notify(&self, count: u32) -> u32 {
        self.condition.notify(&self.workshop, count)
    }

    /// Nobody sits there any more.
    fn assert_empty(&self) {
        assert_eq!(self.condition.waiters().count(&self.workshop), 0);
        assert_eq!(self.condition.waiters().benches(&self.workshop).count() as u64, self.workshop.taken());
    }
}

/// Whether a wait that is given up had been ended by a call.
fn was_called(sitting: Sitting<'_>) -> u32 {
    u32::from(sitting.leave().is_some())
}

// ---------------------------------------------------------------------------------------------- calls

/// Who sat down before the notification is woken by it, and sees what came before it.
fn call() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiter = thread::spawn(move || {
        if let Ok(sitting) = other.sit_first() {
            assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called));
            assert_eq!(other.word.read(), 1);
        }
    });
    room.word.write(1);
    if room.waiting() == 1 {
        assert_eq!(room.notify(1), 1);
    }
    waiter.join().unwrap();
    room.assert_empty();
}

#[test]
fn call_holds() {
    check(3, call);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn call_fails_without_seat_called() {
    twin(3, Part::SeatCalled, call);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn call_fails_without_seat_heard() {
    twin(3, Part::SeatHeard, call);
}

#[test]
#[should_panic(expected = "deadlock")]
fn call_fails_without_seat_counts() {
    twin(3, Part::SeatCounts, call);
}

#[test]
#[should_panic(expected = "deadlock")]
fn call_fails_without_seat_counted() {
    twin(3, Part::SeatCounted, call);
}

#[test]
#[should_panic(expected = "deadlock")]
fn call_fails_without_seat_seen() {
    twin(3, Part::SeatSeen, call);
}

/// Two notifiers and a waiter that gives up at any moment: it was called if, and only if, one of them says so.
fn call_call_leave() {
    let room = Arc::new(Room::default());
    let notifiers = [room.clone(), room.clone()].map(|room| thread::spawn(move || room.notify(1)));
    let called = was_called(room.sit());
    assert_eq!(notifiers.map(|notifier| notifier.join().unwrap()).iter().sum::<u32>(), called);
    room.assert_empty();
}

#[test]
fn call_call_leave_holds() {
    check(3, call_call_leave);
}

/// The same when it gives up just when it is woken, whatever it is woken by.
fn call_and_leave_when_woken() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiter = thread::spawn(move || {
        other.sit_first().ok().map(|sitting| match sitting.wait(&Patience::until_woken()) {
            Ok(call) => Some(call),
            Err(_) => sitting.leave(),
        })
    });
    let called = (room.waiting() == 1).then(|| {
        assert_eq!(room.notify(1), 1);
        Some(Call::Called)
    });
    assert_eq!(waiter.join().unwrap(), called);
    room.assert_empty();
}

#[test]
fn call_and_leave_when_woken_holds() {
    check(3, call_and_leave_when_woken);
}

/// The oldest waiter is called and can't answer: its call goes to another one who sat down before the notification.
fn call_passed_on() {
    let room = Arc::new(Room::default());
    let failing = room.sit();
    let other = room.clone();
    let waiter = thread::spawn(move || {
        if let Ok(sitting) = other.sit_first() {
            assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called));
        }
    });
    room.waiting();
    assert_eq!(room.notify(1), 1);
    let called = room.condition.leave(failing).expect("it is the oldest");
    room.condition.pass_on(&room.workshop, called);
    waiter.join().unwrap();
    room.assert_empty();
}

#[test]
fn call_passed_on_holds() {
    check(3, call_passed_on);
}

#[test]
#[should_panic(expected = "deadlock")]
fn call_passed_on_fails_without_call_passed_on() {
    twin(3, Part::CallPassedOn, call_passed_on);
}

/// One call and two waiters, the older one of which gives up: it is called, or the other one is.
fn leave_passes_the_call_by() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiters = thread::spawn(move || {
        let older = other.sit();
        let Ok(younger) = other.sit_first() else { return };
        if older.leave().is_some() {
            assert_eq!(younger.leave(), None, "one call reaches one");
        } else {
            assert_eq!(younger.wait(&Patience::endless()), Ok(Call::Called));
        }
    });
    if room.waiting() == 1 {
        assert_eq!(room.notify(1), 1);
    }
    waiters.join().unwrap();
    room.assert_empty();
}

#[test]
fn leave_passes_the_call_by_holds() {
    check(3, leave_passes_the_call_by);
}

/// One who was called and has no use for it passes the call on to another who waited then.
fn pass_on() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiters = thread::spawn(move || {
        let older = other.sit();
        let Ok(younger) = other.sit_first() else { return };
        if let Some(called) = other.condition.leave(older) {
            assert_eq!(other.word.read(), 1);
            other.condition.pass_on(&other.workshop, called);
        }
        assert_eq!(younger.wait(&Patience::endless()), Ok(Call::Called));
    });
    room.word.write(1);
    if room.waiting() == 1 {
        assert_eq!(room.notify(1), 1);
    }
    waiters.join().unwrap();
    room.assert_empty();
}

#[test]
fn pass_on_holds() {
    check(3, pass_on);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn pass_on_fails_without_seat_heard() {
    twin(3, Part::SeatHeard, pass_on);
}

/// It is not passed on to one who came after it.
fn pass_on_to_nobody() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiter = thread::spawn(move || {
        let Ok(sitting) = other.sit_first() else { return };
        if let Some(called) = other.condition.leave(sitting) {
            other.condition.pass_on(&other.workshop, called);
        }
    });
    if room.waiting() == 1 {
        room.notify(1);
    }
    let late = room.sit();
    waiter.join().unwrap();
    assert_eq!(late.leave(), None);
    room.assert_empty();
}

#[test]
fn pass_on_to_nobody_holds() {
    check(3, pass_on_to_nobody);
}

/// Two notifiers at once, and two waiters: each is called, whoever calls whom.
fn call_call() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiters = thread::spawn(move || {
        let older = other.sit();
        let Ok(younger) = other.sit_first() else { return false };
        [older, younger].iter().all(|sitting| sitting.wait(&Patience::endless()) == Ok(Call::Called))
    });
    let notify = |room: Arc<Room>| if room.waiting() == 1 { room.notify(1) } else { 0 };
    let other = room.clone();
    let notifier = thread::spawn(move || notify(other));
    let called = notify(room.clone()) + notifier.join().unwrap();
    if waiters.join().unwrap() {
        assert_eq!(called, 2);
    }
    room.assert_empty();
}

#[test]
fn call_call_holds() {
    check(3, call_call);
}

/// Those who sit down while the call is made do not steal it from one who was there.
fn late_waiters() {
    let room = Arc::new(Room::default());
    let early = room.sit();
    let other = room.clone();
    let late = thread::spawn(move || {
        let late = [(); 2].map(|()| other.sit());
        late.map(was_called)
    });
    assert_eq!(room.notify(1), 1);
    assert_eq!(early.call(), Some(Call::Called));
    drop(early);
    assert_eq!(late.join().unwrap(), [0, 0]);
    room.assert_empty();
}

#[test]
fn late_waiters_hold() {
    check(3, late_waiters);
}

/// A seat is taken again while the wake for the one before is still under way: its next waiter sleeps on, and is
/// reached by its own call.
fn stale_wake() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let waiter = thread::spawn(move || {
        let called = was_called(other.sit());
        match other.sit_first() {
            Ok(sitting) => sitting.wait(&Patience::endless()).map_or(called, |_| called + 1),
            Err(late) => called + late,
        }
    });
    let mut called = room.notify(1);
    if room.waiting() == 1 {
        called += room.notify(1);
    }
    assert_eq!(waiter.join().unwrap(), called);
    room.assert_empty();
}

#[test]
fn stale_wake_holds() {
    check(3, stale_wake);
}

/// All who sat down are called by one call of all, and nobody who comes later.
fn call_all() {
    let room = Arc::new(Room::default());
    let waiters = [room.clone(), room.clone()].map(|room| {
        thread::spawn(move || {
            if let Ok(sitting) = room.sit_first() {
                assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called));
            }
        })
    });
    if room.waiting() > 0 {
        room.condition.notify_all(&room.workshop);
    }
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    room.assert_empty();
}

#[test]
fn call_all_holds() {
    check(3, call_all);
}

// ---------------------------------------------------------------------------------------------- benches

/// More waiters than an object has seats for: each finds one of its own on a bench, and is called there.
fn benches() {
    let room = Arc::new(Room::default());
    let own = [(); 2].map(|()| room.sit());
    let other = room.clone();
    let waiter = thread::spawn(move || {
        if let Ok(sitting) = other.sit_first() {
            assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called));
        }
    });
    let mine = room.sit();
    if room.waiting() == 1 {
        assert_eq!(room.notify(4), 4);
        assert_eq!(was_called(mine), 1);
    } else {
        drop(mine);
    }
    waiter.join().unwrap();
    drop(own);
    room.assert_empty();
}

#[test]
fn benches_hold() {
    check(3, benches);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn benches_fail_without_bench_linked() {
    twin(3, Part::BenchLinked, benches);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn benches_fail_without_bench_seen() {
    twin(3, Part::BenchSeen, benches);
}

// ---------------------------------------------------------------------------------------------- with a lock

/// As a program uses it: a word guarded by a lock, one that waits until it is written, one that writes it.
#[derive(Default)]
struct Guarded {
    bell: Bell,
    lock: Lock,
    room: Room,
}

impl Guarded {
    fn with_lock(&self, step: impl FnOnce()) {
        self.lock.acquire(Owner { peer: me(), thread: 1 }, &Patience::endless()).unwrap();
        step();
        self.lock.release(&self.bell).unwrap();
    }

    fn wait_for_word(&self) {
        loop {
            let mut sitting = None;
            self.with_lock(|| {
                if self.room.word.read() == 0 {
                    sitting = Some(self.room.sit());
                }
            });
            match sitting {
                None => return,
                Some(sitting) => assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called)),
            }
        }
    }
}

fn condition() {
    let guarded = Arc::new(Guarded::default());
    let waiters = [guarded.clone(), guarded.clone()].map(|guarded| thread::spawn(move || guarded.wait_for_word()));
    guarded.with_lock(|| {
        guarded.room.word.write(1);
        guarded.room.notify(2);
    });
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    guarded.room.assert_empty();
}

#[test]
fn condition_holds() {
    check(3, condition);
}

// ---------------------------------------------------------------------------------------------- deaths

/// One of two who wait died, and is called just when that is found out: the other one gets the call.
fn call_of_the_dead() {
    let room = Arc::new(Room::default());
    core::mem::forget(room.condition.sit(&room.workshop, Owner { peer: dead(), thread: 2 }).unwrap());
    let other = room.clone();
    let waiter = thread::spawn(move || {
        if let Ok(sitting) = other.sit_first() {
            assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called));
        }
    });
    let other = room.clone();
    let notifier = thread::spawn(move || {
        other.waiting();
        other.notify(1);
    });
    room.condition.recover(&room.workshop, dead());
    waiter.join().unwrap();
    notifier.join().unwrap();
    room.assert_empty();
}

#[test]
fn call_of_the_dead_holds() {
    check(2, call_of_the_dead);
}

#[test]
#[should_panic(expected = "deadlock")]
fn call_of_the_dead_fails_without_dead_call_passed_on() {
    twin(2, Part::DeadCallPassedOn, call_of_the_dead);
}

/// One who died as it sat down, at whatever point, leaves no seat, and those who sit beside it are called.
fn death_of_one_who_sits<const POINTS: u32>() {
    let room = Arc::new(Room::default());
    let other = room.clone();
    let dying = thread::spawn(move || {
        die_at(POINTS, || core::mem::forget(other.condition.sit(&other.workshop, Owner { peer: dead(), thread: 2 })));
    });
    let other = room.clone();
    let waiter = thread::spawn(move || {
        if let Ok(sitting) = other.sit_first() {
            assert_eq!(sitting.wait(&Patience::endless()), Ok(Call::Called));
        }
    });
    dying.join().unwrap();
    room.condition.recover(&room.workshop, dead());
    room.waiting();
    room.notify(1);
    waiter.join().unwrap();
    room.assert_empty();
}

#[test]
fn death_of_one_who_sits_holds() {
    check(2, death_of_one_who_sits::<0>);
    check(2, death_of_one_who_sits::<1>);
}
