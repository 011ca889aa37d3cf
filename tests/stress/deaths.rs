//! Locks, events, conditions and barriers with a participant that dies: at each fault point on its way, one after the
//! other. The others look out, find it dead, put right what it left, and go on.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use multigil::barrier::{Arrival, Barrier};
use multigil::condition::Condition;
use multigil::error::{AcquireError, BarrierError, NotLocked, OwnerDied, ReacquireError};
use multigil::event::{Bell, Event, Lookout, Parker, Patience};
use multigil::fault::doom;
use multigil::flag::Flag;
use multigil::layout::PeerId;
use multigil::lock::{Lock, Owner, RLock};
use multigil::object::Region;
use multigil::waiters::Call;

use crate::support::limit;

/// Who lives, who dies, and who dies finding that out.
const ALIVE: u16 = 1;
const DEAD: u16 = 2;
const FINDER: u16 = 3;

fn peer(number: u16) -> PeerId {
    PeerId::new(number).unwrap()
}

fn owner(number: u16, thread: u32) -> Owner {
    Owner { peer: peer(number), thread }
}

thread_local! {
    static DEATH: RefCell<Option<Sender<&'static str>>> = const { RefCell::new(None) };
}

/// Runs what a participant does that dies at the fault point that it reaches after so many others. Gives that point's
/// name, or an error if it came to its end before.
fn dying(points: u32, body: impl FnOnce() + Send + 'static) -> Receiver<&'static str> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        DEATH.set(Some(sender));
        doom(Some((points, |point| {
            let sender = DEATH.take().expect("it is set above");
            let _ = sender.send(point); // the test may be over
            drop(sender); // so that the receiver knows that nothing else comes
            loop {
                thread::park();
            }
        })));
        body();
        doom(None);
        DEATH.take();
    });
    receiver
}

/// One who looks for the death of somebody and puts right what that one left.
struct Finder<'a> {
    death: Mutex<Receiver<&'static str>>,
    found: Mutex<Option<&'static str>>,
    recover: &'a (dyn Fn(PeerId) + Sync),
}

impl<'a> Finder<'a> {
    fn new(death: Receiver<&'static str>, recover: &'a (dyn Fn(PeerId) + Sync)) -> Self {
        Finder { death: Mutex::new(death), found: Mutex::default(), recover }
    }

    /// Where it died, if it has not come to its end; waits for either.
    fn wait(&self) -> Option<&'static str> {
        if let Ok(point) = self.death.lock().unwrap().recv() {
            self.find(point);
        }
        *self.found.lock().unwrap()
    }

    fn find(&self, point: &'static str) {
        *self.found.lock().unwrap() = Some(point);
        // Twice: whoever does it may die meanwhile, and the next one begins anew.
        (self.recover)(peer(DEAD));
        (self.recover)(peer(DEAD));
    }

    fn patience<'p>(&'p self, parker: &'p Parker) -> Patience<'p> {
        Patience::new(None, Duration::ZERO, parker).watching(self)
    }
}

impl Lookout for Finder<'_> {
    fn look_out(&self) {
        let Ok(death) = self.death.try_lock() else { return };
        if let Ok(point) = death.try_recv() {
            self.find(point);
        }
    }
}

impl Debug for Finder<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Finder")
    }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Calls `test` with each number of points until nobody dies any more; it gives where somebody died. Which points there
/// are on the way depends on the others, so again until all these points were met.
#[track_caller]
fn at_each_point(expected: &[&str], mut test: impl FnMut(u32) -> Option<&'static str>) {
    let mut met = HashSet::new();
    for _ in 0..100 {
        let mut died = 0;
        while let Some(point) = test(died) {
            met.insert(point);
            died += 1;
        }
        if expected.iter().all(|point| met.contains(point)) {
            return;
        }
    }
    panic!("nobody died at some of {expected:?}, only at {met:?}");
}

// ---------------------------------------------------------------------------------------------- locks

/// Takes it, waiting; how often it was told of a death.
fn insist(mut acquire: impl FnMut() -> Result<(), AcquireError>) -> u64 {
    for told in 0.. {
        match acquire() {
            Ok(()) => return told,
            Err(AcquireError::OwnerDied(died)) => assert_eq!(died.peer, DEAD),
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

/// Whoever holds the lock dies: one of the others is told, once, and all go on.
#[test]
fn owner_of_a_lock() {
    let _limit = limit(120);
    at_each_point(&["LockTaken", "LockNameCleared", "LockReleased"], |points| {
        let (lock, bell): (&Lock, &Bell) = (leak(Lock::default()), leak(Bell::default()));
        let held = leak(AtomicBool::default());
        let death = dying(points, || {
            for _ in 0..3 {
                insist(|| lock.acquire(owner(DEAD, 7), &Patience::new(None, Duration::ZERO, &Parker::default())));
                held.store(true, Ordering::Relaxed);
                held.store(false, Ordering::Relaxed);
                lock.release(bell).unwrap();
            }
        });
        let recover = |dead| lock.recover(dead);
        let finder = Finder::new(death, &recover);
        let (told, count) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..2 {
                let (finder, told, count) = (&finder, &told, &count);
                scope.spawn(move || {
                    let parker = Parker::default();
                    for _ in 0..50 {
                        let died = insist(|| lock.acquire(owner(ALIVE, thread + 1), &finder.patience(&parker)));
                        told.fetch_add(died, Ordering::Relaxed);
                        // Not an addition: two at a time would lose one.
                        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        lock.release(bell).unwrap();
                    }
                });
            }
        });
        let died = finder.wait();
        let told = told.into_inner() + u64::from(lock.try_acquire(owner(ALIVE, 1)).is_err());
        let held = matches!(died, Some("LockTaken" | "LockNameCleared"));
        assert_eq!((told, count.into_inner()), (u64::from(held), 100), "{died:?}");
        died
    });
}

/// A lock is given back by nobody when its owner died, and is taken for what it is.
#[test]
fn abandoned_lock() {
    let (lock, bell) = (RLock::default(), Bell::default());
    assert_eq!(lock.try_acquire(owner(DEAD, 7)), Ok(true));
    assert_eq!(lock.try_acquire(owner(DEAD, 7)), Ok(true));
    lock.recover(peer(ALIVE));
    assert_eq!(lock.lock().owner(), Some(owner(DEAD, 7)), "that one has not died");
    for _ in 0..2 {
        lock.recover(peer(DEAD));
        assert_eq!(lock.lock().release(&bell), Err(NotLocked));
        assert_eq!((lock.lock().is_locked(), lock.lock().owner(), lock.count()), (false, None, 0));
    }
    let died = OwnerDied { peer: DEAD, thread: 7 };
    assert_eq!(lock.try_acquire(owner(ALIVE, 7)), Err(ReacquireError::OwnerDied(died)));
    assert_eq!(died.to_string(), "the owner of the lock died: participant 2, thread 7");
    assert_eq!(lock.try_restore(owner(ALIVE, 1), 3), Ok(true));
    lock.recover(peer(DEAD));
    assert_eq!((lock.lock().owner(), lock.count()), (Some(owner(ALIVE, 1)), 3), "nothing is left of it");
}

/// The same with a lock that is taken twice.
#[test]
fn owner_of_a_reentrant_lock() {
    let _limit = limit(120);
    at_each_point(&["LockTaken", "RLockTaken", "LockNameCleared", "LockReleased"], |points| {
        let (lock, bell): (&RLock, &Bell) = (leak(RLock::default()), leak(Bell::default()));
        let death = dying(points, || {
            let me = owner(DEAD, 7);
            for _ in 0..2 {
                if lock.try_acquire(me) == Ok(true) {
                    lock.try_acquire(me).unwrap();
                    lock.release(me, bell).unwrap();
                    lock.release(me, bell).unwrap();
                }
            }
        });
        let recover = |dead| lock.recover(dead);
        let finder = Finder::new(death, &recover);
        // A thread whose id is the dead one's.
        let (me, parker) = (owner(ALIVE, 7), Parker::default());
        let mut told = 0;
        for _ in 0..50 {
            told += insist(|| lock.restore(me, 2, &finder.patience(&parker)));
            assert_eq!((lock.count(), lock.is_owned(me)), (2, true));
            assert_eq!(lock.release_save(me, bell), Ok(2));
            assert!(!lock.is_owned(me));
        }
        let died = finder.wait();
        told += insist(|| lock.restore(me, 1, &finder.patience(&parker)));
        let held = matches!(died, Some("LockTaken" | "RLockTaken" | "LockNameCleared"));
        assert_eq!(told, u64::from(held), "{died:?}");
        died
    });
}

/// One who waits for a lock dies: the others are not left waiting.
#[test]
fn waiter_for_a_lock() {
    let _limit = limit(120);
    at_each_point(&["LockContended", "LockTaken", "LockNameCleared", "LockReleased"], |points| {
        let (lock, bell): (&Lock, &Bell) = (leak(Lock::default()), leak(Bell::default()));
        assert_eq!(lock.try_acquire(owner(ALIVE, 1)), Ok(true));
        let death = dying(points, || {
            insist(|| lock.acquire(owner(DEAD, 7), &Patience::new(None, Duration::ZERO, &Parker::default())));
            lock.release(bell).unwrap();
        });
        let recover = |dead| lock.recover(dead);
        let finder = Finder::new(death, &recover);
        thread::scope(|scope| {
            for thread in 2..4 {
                let finder = &finder;
                scope.spawn(move || {
                    let parker = Parker::default();
                    insist(|| lock.acquire(owner(ALIVE, thread), &finder.patience(&parker)));
                    lock.release(bell).unwrap();
                });
            }
            thread::sleep(Duration::from_millis(2)); // so that they wait, or some of them
            lock.release(bell).unwrap();
        });
        finder.wait()
    });
}

// ---------------------------------------------------------------------------------------------- events

/// Something to wait for: tokens.
#[derive(Default)]
struct Tokens {
    count: AtomicU64,
    event: Event,
    bell: Bell,
}

impl Tokens {
    fn give(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.event.notify_one(&self.bell);
    }

    fn take(&self, patience: &Patience<'_>) {
        let attempt = || {
            let taken = self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| count.checked_sub(1));
            taken.is_ok().then_some(())
        };
        self.event.wait_until(&self.bell, patience, attempt, || self.count.load(Ordering::Relaxed) > 0).unwrap();
    }
}

/// One who makes a condition hold dies before it has woken anybody: they find out.
#[test]
fn notifier() {
    let _limit = limit(120);
    at_each_point(&["EventConditionMade", "EventWaking", "EventGrown"], |points| {
        let tokens: &Tokens = leak(Tokens::default());
        let (go, gone) = channel::<()>();
        // It gives one token, or two.
        let death = dying(points, move || {
            gone.recv().unwrap_err();
            tokens.give();
            tokens.give();
        });
        let recover = |_| tokens.event.recover();
        let finder = Finder::new(death, &recover);
        let died = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| tokens.take(&finder.patience(&Parker::default())));
            }
            while tokens.event.waiting() < 2 {
                thread::yield_now();
            }
            drop(go);
            let died = finder.wait();
            if died.is_some() {
                tokens.give(); // in the place of the second one
            }
            died
        });
        assert_eq!(tokens.event.waiting(), 0);
        died
    });
}

/// One who sleeps dies, also when it has just been woken: the wake goes on to the others, and nobody stays counted.
#[test]
fn sleeper() {
    let _limit = limit(120);
    at_each_point(&["EventCounted", "EventLeaving"], |points| {
        let tokens: &Tokens = leak(Tokens::default());
        let death = dying(points, || tokens.take(&Patience::new(None, Duration::ZERO, &Parker::default())));
        while tokens.event.waiting() == 0 {
            thread::yield_now();
        }
        let recover = |_| tokens.event.recover();
        let finder = Finder::new(death, &recover);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| tokens.take(&finder.patience(&Parker::default())));
            }
            (0..3).for_each(|_| tokens.give());
        });
        let died = finder.wait();
        assert_eq!(tokens.event.waiting(), 0, "{died:?}");
        died
    });
}

/// One who sets a flag dies before it has woken those who wait: they find out.
#[test]
fn setter_of_a_flag() {
    let _limit = limit(120);
    at_each_point(&["EventConditionMade", "EventGrown"], |points| {
        let (flag, bell): (&Flag, &Bell) = (leak(Flag::default()), leak(Bell::default()));
        let (go, gone) = channel::<()>();
        let death = dying(points, move || {
            gone.recv().unwrap_err();
            flag.set(bell);
        });
        let recover = |_| flag.recover();
        let finder = Finder::new(death, &recover);
        thread::scope(|scope| {
            let waiters = [(); 2].map(|()| {
                let (finder, seen) = (&finder, flag.now());
                scope.spawn(move || flag.wait(seen, bell, &finder.patience(&Parker::default())))
            });
            thread::sleep(Duration::from_millis(2)); // so that they wait, or one of them
            drop(go);
            waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), Ok(())));
        });
        finder.wait()
    });
}

// ---------------------------------------------------------------------------------------------- conditions

/// Two wait, after one that dies, and two are called: if it died in its seat, then its call goes on to the other one.
#[test]
fn waiter_for_a_condition() {
    let _limit = limit(120);
    let points = ["SeatTaken", "LockTaken", "LockNameCleared", "LockReleased"];
    at_each_point(&points, |points| {
        let region: &Region = leak(Region::new().unwrap());
        let (condition, lock): (&Condition, &Lock) = (leak(Condition::default()), leak(Lock::default()));
        let left = leak(AtomicBool::default());
        let wait = move |me: Owner, patience: &Patience<'_>, left: &AtomicBool| {
            insist(|| lock.acquire(me, patience));
            let sitting = condition.sit(region, me).unwrap();
            lock.release(region.bell()).unwrap();
            assert_eq!(sitting.wait(patience), Ok(Call::Called));
            insist(|| lock.acquire(me, patience));
            assert!(condition.leave(sitting).is_some());
            left.store(true, Ordering::Relaxed);
            lock.release(region.bell()).unwrap();
        };
        let death = dying(points, move || {
            wait(owner(DEAD, 7), &Patience::new(None, Duration::ZERO, &Parker::default()), left);
        });
        let recover = |dead| {
            lock.recover(dead);
            condition.recover(region, dead);
        };
        let finder = Finder::new(death, &recover);
        let waiting = |count| {
            while condition.waiters().count(region) < count && finder.found.lock().unwrap().is_none() {
                finder.look_out();
                thread::yield_now();
            }
        };
        let woken = AtomicU32::new(0);
        thread::scope(|scope| {
            waiting(1);
            for thread in 1..3 {
                let (finder, woken, wait) = (&finder, &woken, &wait);
                scope.spawn(move || {
                    wait(owner(ALIVE, thread), &finder.patience(&Parker::default()), &AtomicBool::default());
                    woken.fetch_add(1, Ordering::Relaxed);
                });
            }
            let seated = |count| {
                while condition.waiters().count(region) < count {
                    thread::yield_now()
                }
            };
            waiting(3);
            seated(2);
            assert_eq!(condition.notify(region, 2), 2);
            finder.wait();
            if left.load(Ordering::Relaxed) {
                assert_eq!(condition.notify(region, 1), 1, "it was woken, and the other one was not");
            }
        });
        assert_eq!((woken.into_inner(), condition.waiters().count(region)), (2, 0));
        finder.wait()
    });
}

/// One who notifies dies before it has woken those whom it has called.
#[test]
fn notifier_of_a_condition() {
    let _limit = limit(120);
    at_each_point(&["SeatCalled", "SeatCounted"], |points| {
        let region: &Region = leak(Region::new().unwrap());
        let condition: &Condition = leak(Condition::default());
        let (go, gone) = channel::<()>();
        let death = dying(points, move || {
            gone.recv().unwrap_err();
            condition.notify(region, 2);
        });
        let recover = |dead| condition.recover(region, dead);
        let finder = Finder::new(death, &recover);
        thread::scope(|scope| {
            for thread in 1..3 {
                let finder = &finder;
                scope.spawn(move || {
                    let sitting = condition.sit(region, owner(ALIVE, thread)).unwrap();
                    assert_eq!(sitting.wait(&finder.patience(&Parker::default())), Ok(Call::Called));
                });
            }
            while condition.waiters().count(region) < 2 {
                thread::yield_now();
            }
            drop(go);
            // Whoever was not called yet is by somebody else, who takes the lock after the dead one.
            finder.wait();
            condition.notify_all(region);
        });
        finder.wait()
    });
}

// ---------------------------------------------------------------------------------------------- barriers

/// One of three dies on its way: both others pass, or both are told, and nobody waits.
#[test]
fn party_of_a_barrier() {
    let _limit = limit(120);
    let first = ["SeatTaken", "BarrierSeated", "BarrierArrived"];
    let last = ["BarrierActing", "BarrierPassed", "SeatCalled", "SeatCounted", "BarrierTold"];
    for (late, expected) in [(false, &first[..]), (true, &last[..])] {
        at_each_point(expected, |points| {
            let region: &Region = leak(Region::new().unwrap());
            let barrier: &Barrier = leak(Barrier::default());
            barrier.initialize(3);
            let pass =
                move |me: Owner, patience: &Patience<'_>| match barrier.arrive(region, me, region.bell(), patience)? {
                    Arrival::Last(last) => last.release(region, region.bell()),
                    Arrival::Waiting(_, sitting) => match sitting.wait(patience)? {
                        Call::Called => Ok(()),
                        Call::Dismissed => Err(BarrierError::Broken),
                    },
                };
            let death = dying(points, move || {
                while late && barrier.arrived() < 2 {
                    thread::yield_now();
                }
                pass(owner(DEAD, 7), &Patience::new(None, Duration::ZERO, &Parker::default())).unwrap();
            });
            let recover = |dead| barrier.recover(region, dead, region.bell());
            let finder = Finder::new(death, &recover);
            let passed = thread::scope(|scope| {
                let others = [1, 2].map(|thread| {
                    let (finder, pass) = (&finder, &pass);
                    scope.spawn(move || {
                        while !late && barrier.waiters().count(region) == 0 && finder.found.lock().unwrap().is_none() {
                            finder.look_out();
                            thread::yield_now();
                        }
                        pass(owner(ALIVE, thread), &finder.patience(&Parker::default())).is_ok()
                    })
                });
                others.map(|other| other.join().unwrap())
            });
            let died = finder.wait();
            assert_eq!(passed[0], passed[1], "{died:?}");
            assert!(passed[0] || died.is_some());
            assert_eq!(barrier.is_broken(), !passed[0]);
            assert_eq!((barrier.arrived(), barrier.waiters().count(region)), (0, 0));
            died
        });
    }
}

/// One who breaks or resets a barrier dies before it has told those who wait.
#[test]
fn breaker_of_a_barrier() {
    let _limit = limit(120);
    for (ends, point) in
        [(Barrier::abort as fn(&Barrier, &Region, &Bell), "BarrierBroken"), (Barrier::reset, "BarrierReset")]
    {
        at_each_point(&[point, "SeatCalled", "SeatCounted"], |points| {
            let region: &Region = leak(Region::new().unwrap());
            let barrier: &Barrier = leak(Barrier::default());
            barrier.initialize(3);
            let death = dying(points, move || {
                while barrier.arrived() < 2 {
                    thread::yield_now();
                }
                ends(barrier, region, region.bell());
            });
            let recover = |dead| barrier.recover(region, dead, region.bell());
            let finder = Finder::new(death, &recover);
            thread::scope(|scope| {
                for thread in 1..3 {
                    let finder = &finder;
                    scope.spawn(move || {
                        let parker = Parker::default();
                        let patience = finder.patience(&parker);
                        let Ok(Arrival::Waiting(_, sitting)) =
                            barrier.arrive(region, owner(ALIVE, thread), region.bell(), &patience)
                        else {
                            panic!("it is not complete");
                        };
                        assert_eq!(sitting.wait(&patience), Ok(Call::Dismissed));
                    });
                }
            });
            let died = finder.wait();
            assert_eq!(barrier.is_broken(), point == "BarrierBroken");
            assert_eq!((barrier.arrived(), barrier.waiters().count(region)), (0, 0));
            died
        });
    }
}

// ---------------------------------------------------------------------------------------------- the finder dies

/// Who puts things right dies at any point, and the next one begins anew.
#[test]
fn finder() {
    let _limit = limit(120);
    let points =
        ["LockDeadFound", "LockAbandoned", "DeadSeatFreed", "DeadCallHeard", "EventForgotten", "BarrierDeadLeft"];
    at_each_point(&points, |points| {
        let region: &Region = leak(Region::new().unwrap());
        let (condition, lock, event): (&Condition, &RLock, &Event) =
            (leak(Condition::default()), leak(RLock::default()), leak(Event::default()));
        let barrier: &Barrier = leak(Barrier::default());
        barrier.initialize(3);
        let (bell, parker) = (region.bell(), Parker::default());
        let patience = Patience::new(None, Duration::ZERO, &parker);
        // What the dead one has left.
        let dead = owner(DEAD, 7);
        assert_eq!(lock.try_acquire(dead), Ok(true));
        let called = condition.sit(region, dead).unwrap();
        assert_eq!(condition.notify(region, 1), 1);
        core::mem::forget((called, condition.sit(region, dead).unwrap()));
        core::mem::forget(barrier.arrive(region, dead, bell, &patience).unwrap());
        let asleep = dying(0, || {
            let parker = Parker::default();
            let patience = Patience::new(None, Duration::ZERO, &parker);
            let _ = event.wait_until(&Bell::default(), &patience, || None::<()>, || false);
        });
        assert_eq!(asleep.recv(), Ok("EventCounted"));
        // And those who live.
        let other = condition.sit(region, owner(ALIVE, 1)).unwrap();
        let Ok(Arrival::Waiting(_, waiting)) = barrier.arrive(region, owner(ALIVE, 1), bell, &patience) else {
            panic!("it is not complete");
        };

        let recover = move |dead| {
            lock.recover(dead);
            condition.recover(region, dead);
            event.recover();
            barrier.recover(region, dead, region.bell());
        };
        let death = dying(points, move || recover(peer(DEAD)));
        let died = death.recv().ok();
        recover(peer(FINDER));
        recover(peer(DEAD));

        assert!(matches!(
            lock.try_acquire(owner(ALIVE, 1)),
            Err(ReacquireError::OwnerDied(OwnerDied { peer: DEAD, .. }))
        ));
        assert_eq!(lock.try_acquire(owner(ALIVE, 1)), Ok(true));
        assert_eq!(event.waiting(), 0);
        // It did not wait yet when the call was made that the dead one had.
        assert_eq!((other.call(), condition.notify(region, 2)), (None, 1), "nobody else waits");
        assert_eq!(other.wait(&patience), Ok(Call::Called));
        assert_eq!(waiting.wait(&patience), Ok(Call::Dismissed));
        assert!(barrier.is_broken());
        drop((other, waiting));
        assert_eq!((condition.waiters().count(region), barrier.waiters().count(region)), (0, 0));
        died
    });
}
