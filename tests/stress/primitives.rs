//! Flag, semaphore, condition, barrier and reentrant lock, with threads that time out, are interrupted and leave.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use multigil::barrier::{Arrival, Barrier};
use multigil::condition::Condition;
use multigil::error::{AcquireError, BarrierError, NotOwned, OutOfMemory, WaitError};
use multigil::event::{Parker, Patience};
use multigil::flag::Flag;
use multigil::layout::{ObjectKind, PeerId};
use multigil::lock::{Lock, Owner, RLock};
use multigil::object::Region;
use multigil::semaphore::Semaphore;
use multigil::waiters::{Bench, Benches, Call};

use crate::support::limit;
use crate::{Dice, NO_SPIN, SPIN, Waiting, rain, region};

/// More than there are seats in an object itself.
const MANY: u32 = 16;

/// All the ways to wait, and whether everybody is interrupted again and again meanwhile.
const WAYS: [(Waiting, bool); 4] = [
    (Waiting { spin: NO_SPIN, moments: false }, false),
    (Waiting { spin: SPIN, moments: true }, false),
    (Waiting { spin: NO_SPIN, moments: false }, true),
    (Waiting { spin: NO_SPIN, moments: true }, true),
];

/// One of the threads, and how it waits.
struct Worker<'a> {
    owner: Owner,
    parker: &'a Parker,
    waiting: Waiting,
    dice: Dice,
}

impl Worker<'_> {
    /// Waits again and again until it is successful.
    fn insist<T, E: Into<AcquireError>>(&mut self, mut wait: impl FnMut(&Patience<'_>) -> Result<T, E>) -> T {
        loop {
            match wait(&self.waiting.patience(&mut self.dice, self.parker)).map_err(E::into) {
                Ok(value) => return value,
                Err(AcquireError::TimedOut) => assert!(self.waiting.moments),
                Err(AcquireError::Interrupted) => {
                    self.parker.take_interrupt();
                }
                Err(AcquireError::OwnerDied(died)) => panic!("{died}"),
            }
        }
    }
}

/// Runs so many threads to their ends, and `beside` them something until they are done.
fn run(
    me: PeerId,
    threads: u32,
    (waiting, raining): (Waiting, bool),
    work: impl Fn(Worker<'_>) + Sync,
    beside: impl FnOnce(&AtomicBool) + Send,
) {
    let parkers: Vec<Parker> = (0..threads).map(|_| Parker::default()).collect();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let (work, end) = (&work, &end);
        if raining {
            scope.spawn(|| rain(&parkers, end));
        }
        scope.spawn(|| beside(end));
        let workers: Vec<_> = (1..)
            .zip(&parkers)
            .map(|(thread, parker)| {
                let owner = Owner { peer: me, thread };
                scope.spawn(move || work(Worker { owner, parker, waiting, dice: Dice(thread.into()) }))
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        end.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
}

fn nothing(_: &AtomicBool) {}

/// Nothing is held: no block, no bench.
fn assert_empty(region: &Region) {
    let statistics = region.statistics();
    assert_eq!((statistics.memory.blocks, statistics.count(ObjectKind::Bench)), (0, 0));
}

// ---------------------------------------------------------------------------------------------- semaphore

/// There are never more inside than its value, and in the end all of it is back.
#[test]
fn semaphore_bounds_those_inside() {
    const VALUE: u64 = 3;
    let _limit = limit(120);
    let (region, me) = region();
    let bell = region.bell();
    for way in WAYS {
        let semaphore = region.create_shared::<Semaphore>(me, |semaphore| semaphore.initialize(VALUE, true)).unwrap();
        let inside = AtomicU64::new(0);
        let work = |mut worker: Worker<'_>| {
            for _ in 0..10_000 {
                worker.insist(|patience| semaphore.acquire(me, bell, patience));
                assert!(inside.fetch_add(1, Ordering::Relaxed) < VALUE);
                if worker.dice.below(4) == 0 {
                    thread::yield_now();
                }
                inside.fetch_sub(1, Ordering::Relaxed);
                semaphore.release(me, 1, bell).unwrap();
            }
        };
        run(me, 6, way, work, nothing);
        assert_eq!(semaphore.value(), VALUE);
        assert!(semaphore.release(me, 1, bell).is_err());
    }
}

/// As many are taken as are given, several at a time: whoever sleeps is woken for each.
#[test]
fn semaphore_wakes_for_each() {
    const EACH: u64 = 10_000;
    let _limit = limit(120);
    let (region, me) = region();
    let bell = region.bell();
    for way in WAYS {
        let semaphore = region.create_shared::<Semaphore>(me, |_| {}).unwrap();
        let work = |mut worker: Worker<'_>| {
            for _ in 0..EACH {
                worker.insist(|patience| semaphore.acquire(me, bell, patience));
            }
        };
        let give = |_: &AtomicBool| {
            let (mut left, mut dice) = (4 * EACH, Dice(5));
            while left > 0 {
                let count = (1 + dice.below(5)).min(left);
                semaphore.release(me, count, bell).unwrap();
                left -= count;
                if dice.below(8) == 0 {
                    thread::sleep(Duration::from_micros(dice.below(100)));
                }
            }
        };
        run(me, 4, way, work, give);
        assert_eq!(semaphore.value(), 0);
    }
}

// ---------------------------------------------------------------------------------------------- condition

/// Of those who wait, leave and come back, exactly as many find themselves called as notifiers say that they have called.
#[test]
fn condition_calls_as_many_as_it_says() {
    let _limit = limit(120);
    let (region, me) = region();
    for way in WAYS {
        let condition = region.create_shared::<Condition>(me, |_| {}).unwrap();
        let (called, counted) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = |mut worker: Worker<'_>| {
            let mut left = 1000;
            while left > 0 {
                let sitting = condition.sit(&region, worker.owner).unwrap();
                let waited = sitting.wait(&worker.waiting.patience(&mut worker.dice, worker.parker));
                match (waited, sitting.leave()) {
                    (Ok(Call::Called) | Err(_), Some(Call::Called)) => left -= 1,
                    (Err(_), None) => {
                        worker.parker.take_interrupt();
                        continue;
                    }
                    other => panic!("{other:?}"),
                }
                called.fetch_add(1, Ordering::Relaxed);
            }
        };
        let notify = |end: &AtomicBool| {
            let mut dice = Dice(6);
            while !end.load(Ordering::Relaxed) {
                let count = dice.below(u64::from(MANY) + 3) as u32;
                let reached = condition.notify(&region, count);
                assert!(reached <= count);
                counted.fetch_add(reached.into(), Ordering::Relaxed);
                if dice.below(4) == 0 {
                    thread::sleep(Duration::from_micros(dice.below(50)));
                }
            }
        };
        run(me, MANY, way, work, notify);
        assert_eq!(called.into_inner(), counted.into_inner());
        assert_eq!(condition.waiters().count(&region), 0);
    }
    assert_empty(&region);
}

/// A buffer between threads, guarded by a lock, with a condition to wait at, as programs write it: whoever waits for
/// something is called when it is there, and whoever gives up when called passes the call on.
#[test]
fn condition_loses_no_call() {
    const EACH: u64 = 1000;
    let _limit = limit(120);
    let (region, me) = region();
    let bell = region.bell();
    for way in WAYS {
        let lock = region.create_shared::<Lock>(me, |_| {}).unwrap();
        let condition = region.create_shared::<Condition>(me, |_| {}).unwrap();
        let there = AtomicU64::new(0);
        let with_lock = |owner: Owner, step: &mut dyn FnMut()| {
            lock.acquire(owner, &Patience::new(None, NO_SPIN, &Parker::default())).unwrap();
            step();
            lock.release(bell).unwrap();
        };
        let work = |mut worker: Worker<'_>| {
            for _ in 0..EACH {
                let mut taken = false;
                while !taken {
                    let mut sitting = None;
                    with_lock(worker.owner, &mut || match there.load(Ordering::Relaxed) {
                        0 => sitting = Some(condition.sit(&region, worker.owner).unwrap()),
                        count => {
                            there.store(count - 1, Ordering::Relaxed);
                            taken = true;
                        }
                    });
                    let Some(sitting) = sitting else { continue };
                    let waited = sitting.wait(&worker.waiting.patience(&mut worker.dice, worker.parker));
                    if waited.is_err() {
                        worker.parker.take_interrupt();
                        // It does something else now, and would not take what it may have been called for.
                        if let Some(called) = condition.leave(sitting) {
                            condition.pass_on(&region, called);
                        }
                    }
                }
            }
        };
        let give = |_: &AtomicBool| {
            let (mut left, mut dice) = (u64::from(MANY) * EACH, Dice(7));
            while left > 0 {
                let count = (1 + dice.below(4)).min(left);
                left -= count;
                with_lock(Owner { peer: me, thread: 99 }, &mut || {
                    there.store(there.load(Ordering::Relaxed) + count, Ordering::Relaxed);
                    condition.notify(&region, count as u32);
                });
                if dice.below(4) == 0 {
                    thread::sleep(Duration::from_micros(dice.below(50)));
                }
            }
        };
        run(me, MANY, way, work, give);
        assert_eq!(there.into_inner(), 0);
    }
    assert_empty(&region);
}

// ---------------------------------------------------------------------------------------------- flag

/// Each time it is set, and taken back at once, all who waited go on.
#[test]
fn flag_releases_all_who_waited() {
    const ROUNDS: u64 = 1000;
    const THREADS: u32 = 5;
    let _limit = limit(120);
    let (region, me) = region();
    let bell = region.bell();
    for way in WAYS {
        let flag = region.create_shared::<Flag>(me, |_| {}).unwrap();
        let (waiting, over, word) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let work = |mut worker: Worker<'_>| {
            for round in 1..=ROUNDS {
                while over.load(Ordering::Acquire) < round - 1 {
                    thread::yield_now();
                }
                let seen = flag.now();
                waiting.fetch_add(1, Ordering::Release);
                worker.insist(|patience| flag.wait(seen, bell, patience));
                assert_eq!(word.load(Ordering::Relaxed), round);
            }
        };
        let pulse = |_: &AtomicBool| {
            for round in 1..=ROUNDS {
                while waiting.load(Ordering::Acquire) < round * u64::from(THREADS) {
                    thread::yield_now();
                }
                word.store(round, Ordering::Relaxed);
                flag.set(bell);
                flag.clear();
                over.store(round, Ordering::Release);
            }
        };
        run(me, THREADS, way, work, pulse);
        assert!(!flag.is_set());
    }
}

/// Another program has written over the links, and the row of benches has no end: that is an error, and no endless loop.
#[test]
fn benches_in_a_circle() {
    #[derive(Default)]
    struct Circle(Bench);
    impl Benches for Circle {
        fn bench(&self, _: u64) -> Option<&Bench> {
            Some(&self.0)
        }

        fn make(&self, _: PeerId) -> Result<u64, OutOfMemory> {
            Ok(1)
        }

        fn discard(&self, _: PeerId, _: u64) {}
    }

    let _limit = limit(120);
    let (condition, circle) = (Condition::default(), Circle::default());
    let me = Owner { peer: PeerId::new(1).unwrap(), thread: 1 };
    let mut sitting = Vec::new();
    let full = loop {
        match condition.sit(&circle, me) {
            Ok(seat) => sitting.push(seat),
            Err(error) => break error,
        }
    };
    assert_eq!((full.available, sitting.len()), (0, 74));
    condition.notify_all(&circle);
    assert!(sitting.iter().all(|seat| seat.call() == Some(Call::Called)));
    condition.recover(&circle, me.peer);
    assert_eq!(condition.waiters().count(&circle), 0);
    assert!(sitting.iter().all(|seat| seat.call() == Some(Call::Dismissed)), "their seats were taken away");
}

// ---------------------------------------------------------------------------------------------- reentrant lock

/// One thread at a time holds it, as often as it took it, and nobody else is ever told that it is its own.
#[test]
fn reentrant_lock_knows_its_owner() {
    let _limit = limit(120);
    let (region, me) = region();
    let bell = region.bell();
    for way in WAYS {
        let lock = region.create_shared::<RLock>(me, |_| {}).unwrap();
        let count = AtomicU64::new(0);
        let work = |mut worker: Worker<'_>| {
            let owner = worker.owner;
            for _ in 0..10_000 {
                assert_eq!(lock.release(owner, bell), Err(NotOwned));
                worker.insist(|patience| lock.restore(owner, 1, patience));
                let deeper = worker.dice.below(3) as u32;
                (0..deeper).for_each(|_| assert_eq!(lock.try_acquire(owner), Ok(true)));
                assert_eq!((lock.is_owned(owner), lock.count()), (true, 1 + deeper));
                // Not an addition: two at a time would lose one.
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                if worker.dice.below(4) == 0 {
                    // As a condition does while it waits.
                    assert_eq!(lock.release_save(owner, bell), Ok(1 + deeper));
                    assert!(!lock.is_owned(owner));
                    worker.insist(|patience| lock.restore(owner, 1 + deeper, patience));
                }
                (0..=deeper).for_each(|_| lock.release(owner, bell).unwrap());
                assert!(!lock.is_owned(owner));
            }
        };
        let ask = |end: &AtomicBool| {
            let stranger = Owner { peer: me, thread: 99 };
            while !end.load(Ordering::Relaxed) {
                assert!(!lock.is_owned(stranger));
                assert_eq!(lock.release(stranger, bell), Err(NotOwned));
                thread::yield_now();
            }
        };
        run(me, 4, way, work, ask);
        assert_eq!((count.into_inner(), lock.count()), (4 * 10_000, 0));
        assert!(!lock.lock().is_locked());
    }
}

// ---------------------------------------------------------------------------------------------- barrier

/// Arrives, and gives up in every way there is.
fn pass(barrier: &Barrier, region: &Region, worker: &mut Worker<'_>) -> Result<u32, BarrierError> {
    let bell = region.bell();
    let patience = worker.waiting.patience(&mut worker.dice, worker.parker);
    let (index, sitting) = match barrier.arrive(region, worker.owner, bell, &patience)? {
        Arrival::Waiting(index, sitting) => (index, sitting),
        Arrival::Last(last) if worker.dice.below(16) == 0 => {
            last.fail(region, bell);
            return Err(BarrierError::Broken);
        }
        Arrival::Last(last) => {
            let index = last.index();
            return last.release(region, bell).map(|()| index);
        }
    };
    let call = sitting.wait(&patience).or_else(|error| {
        match error {
            WaitError::TimedOut => _ = barrier.time_out(sitting.ticket(), region, bell),
            WaitError::Interrupted => barrier.abandon(sitting.ticket(), region, bell),
        }
        // It is broken now, or it was too late to break it: a call comes.
        sitting.wait(&Patience::new(None, NO_SPIN, &Parker::default()))
    })?;
    if call == Call::Called { Ok(index) } else { Err(BarrierError::Broken) }
}

/// Whatever happens to those who wait and to the barrier itself, they pass as a whole generation or not at all, and
/// nobody waits for ever.
#[test]
fn barrier_generations_keep_step() {
    const PARTIES: u32 = 3;
    const GENERATIONS: u64 = 500;
    let _limit = limit(120);
    let (region, me) = region();
    let bell = region.bell();
    for way in WAYS {
        let barrier = region.create_shared::<Barrier>(me, |barrier| barrier.initialize(PARTIES)).unwrap();
        let places: Vec<AtomicU64> = (0..PARTIES).map(|_| AtomicU64::new(0)).collect();
        let done = AtomicBool::new(false);
        let work = |mut worker: Worker<'_>| {
            while !done.load(Ordering::Relaxed) {
                match pass(&barrier, &region, &mut worker) {
                    Ok(index) => {
                        if places[index as usize].fetch_add(1, Ordering::Relaxed) == GENERATIONS {
                            done.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(_) => {
                        worker.parker.take_interrupt();
                        if barrier.is_broken() {
                            barrier.reset(&region, bell);
                        }
                    }
                }
            }
            barrier.abort(&region, bell); // nobody mends it who does not come here later
        };
        let disturb = |_: &AtomicBool| {
            let mut dice = Dice(8);
            while !done.load(Ordering::Relaxed) {
                match dice.below(2) {
                    0 => barrier.abort(&region, bell),
                    _ => barrier.reset(&region, bell),
                }
                thread::sleep(Duration::from_micros(dice.below(1000)));
            }
            barrier.abort(&region, bell);
        };
        run(me, PARTIES, way, work, disturb);
        let passed = places[0].load(Ordering::Relaxed);
        assert!(places.iter().all(|place| place.load(Ordering::Relaxed) == passed), "{places:?}");
        assert_eq!((barrier.arrived(), barrier.waiters().count(&region)), (0, 0));
    }
    assert_empty(&region);
}
