//! What a semaphore knows of those who hold some of it, and what comes back when they die.
#![expect(unsafe_code, clippy::disallowed_types, reason = "a test writes over a semaphore's words")]

use std::mem::{self, size_of};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multigil::error::TooManyReleases;
use multigil::event::{Bell, Parker, Patience};
use multigil::layout::PeerId;
use multigil::object::{Region, SharedSemaphore};
use multigil::semaphore::Semaphore;

/// A semaphore and the bell of those who wait for it.
#[derive(Default)]
struct Gate {
    semaphore: Semaphore,
    bell: Bell,
}

impl Gate {
    fn new(value: u64, bounded: bool) -> Gate {
        let gate = Gate::default();
        gate.semaphore.initialize(value, bounded);
        gate
    }

    fn take(&self, peer: u16, count: u64) {
        (0..count).for_each(|_| assert!(self.semaphore.try_acquire(self::peer(peer))));
    }

    fn give(&self, peer: u16, count: u64) -> Result<(), TooManyReleases> {
        self.semaphore.release(self::peer(peer), count, &self.bell)
    }

    /// How much a peer held: what comes back.
    fn recover(&self, peer: u16) -> u64 {
        let before = self.semaphore.value();
        self.semaphore.recover(self::peer(peer));
        self.semaphore.value() - before
    }
}

fn peer(number: u16) -> PeerId {
    PeerId::new(number).unwrap()
}

#[test]
fn what_a_dead_peer_held_comes_back_once() {
    for bounded in [false, true] {
        let gate = Gate::new(10, bounded);
        for (peer, count) in [(1, 3), (2, 1), (3, 4), (2, 1)] {
            gate.take(peer, count);
        }
        assert_eq!(gate.semaphore.value(), 1);
        assert_eq!([1, 2, 3, 4, 1, 2, 3].map(|peer| gate.recover(peer)), [3, 2, 4, 0, 0, 0, 0]);
        assert_eq!(gate.semaphore.value(), 10);
        assert_eq!(gate.give(1, 1), if bounded { Err(TooManyReleases) } else { Ok(()) });
    }
}

#[test]
fn what_is_given_back_is_ones_own_first_then_that_of_others() {
    for bounded in [false, true] {
        let gate = Gate::new(10, bounded);
        for (peer, count) in [(1, 2), (2, 2), (3, 2)] {
            gate.take(peer, count);
        }
        gate.give(1, 1).unwrap();
        gate.give(1, 2).unwrap(); // one of them of somebody else
        gate.give(4, 1).unwrap();
        assert_eq!(gate.semaphore.value(), 8);
        assert_eq!(gate.recover(1), 0);
        assert_eq!(gate.recover(2) + gate.recover(3), 2);
        assert_eq!(gate.semaphore.value(), 10);
    }
}

#[test]
fn a_bound_lets_all_or_nothing_be_given_back() {
    let gate = Gate::new(5, true);
    gate.take(1, 2);
    gate.take(2, 1);
    assert_eq!(gate.give(1, 4), Err(TooManyReleases));
    assert_eq!(gate.semaphore.value(), 2);
    gate.give(1, 3).unwrap();
    assert_eq!([1, 2].map(|peer| gate.recover(peer)), [0, 0]);
    assert_eq!(gate.give(1, u64::MAX), Err(TooManyReleases));
}

/// One that counts things: who gives had none, and who takes does not give back.
#[test]
fn things_that_were_counted_come_back_as_far_as_none_were_added_since() {
    let gate = Gate::new(0, false);
    gate.give(1, 5).unwrap();
    gate.take(2, 4);
    gate.give(1, 1).unwrap(); // counts as one of those that 2 took
    assert_eq!((gate.semaphore.value(), gate.recover(1), gate.recover(2)), (2, 0, 3));
}

#[test]
fn more_peers_than_there_are_words_lose_nothing_while_they_live() {
    const PEERS: u16 = 200;
    let gate = Gate::new(1000, true);
    for round in 0..3 {
        (1..=PEERS).for_each(|peer| gate.take(peer, 2));
        (1..=PEERS).rev().for_each(|peer| gate.give(peer, 1).unwrap());
        assert_eq!(gate.semaphore.value(), 1000 - u64::from(PEERS), "round {round}");
        (1..=PEERS).for_each(|peer| gate.give(peer, 1).unwrap());
        assert_eq!(gate.semaphore.value(), 1000);
        assert_eq!((1..=PEERS).map(|peer| gate.recover(peer)).sum::<u64>(), 0);
    }
    // The words of those who hold nothing any more are there for others.
    (500..550).for_each(|peer| gate.take(peer, 2));
    assert!((500..550).all(|peer| gate.recover(peer) == 2));
}

#[test]
fn large_values_are_exact() {
    const FREE: u64 = (1 << 20) - 1;
    for value in [FREE - 1, FREE, FREE + 1, Semaphore::MAX - 1, Semaphore::MAX] {
        let gate = Gate::new(value, true);
        assert_eq!((gate.semaphore.value(), gate.semaphore.bound()), (value, Some(value)));
        assert_eq!(gate.give(1, 1), Err(TooManyReleases));
        gate.take(1, 3);
        assert_eq!(gate.give(2, 4), Err(TooManyReleases));
        gate.give(2, 2).unwrap();
        assert_eq!((gate.recover(1), gate.semaphore.value()), (1, value));
    }
    let gate = Gate::new(0, false);
    gate.give(1, Semaphore::MAX).unwrap();
    assert_eq!(gate.give(1, 1), Err(TooManyReleases));
    gate.take(1, FREE + 5);
    assert_eq!(gate.semaphore.value(), Semaphore::MAX - FREE - 5);
    gate.give(1, FREE + 5).unwrap();
    assert_eq!(gate.semaphore.value(), Semaphore::MAX);
}

/// Many at the same time, two threads each: in the end every account is what its peer has kept.
#[test]
fn accounts_are_exact_when_all_come_at_once() {
    const PEERS: u16 = 5;
    let gate = Gate::new(12, true);
    let kept: Vec<AtomicU64> = (0..PEERS).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for thread in 0..2 * PEERS {
            let (gate, kept) = (&gate, &kept);
            scope.spawn(move || {
                let (me, mut held) = (1 + thread % PEERS, 0);
                for round in 0..20_000_u64 {
                    if held < 1 + round * 7 % 3 && gate.semaphore.try_acquire(peer(me)) {
                        held += 1;
                    } else if held > 0 {
                        gate.give(me, held).unwrap();
                        held = 0;
                    }
                }
                kept[usize::from(me - 1)].fetch_add(held, Ordering::Relaxed);
            });
        }
    });
    for (me, kept) in (1..).zip(kept) {
        assert_eq!(gate.recover(me), kept.into_inner(), "peer {me}");
    }
    assert_eq!(gate.semaphore.value(), 12);
}

/// A process dies while another one waits for what it had taken.
#[test]
fn a_dead_process_gives_back_what_it_had() {
    let here = Region::new().unwrap();
    let me = here.register().unwrap();
    let there = Region::open(here.file()).unwrap();
    let other = there.register().unwrap();
    let semaphore = here.create_shared::<Semaphore>(me, |semaphore| semaphore.initialize(3, true)).unwrap();
    let theirs = there.attach::<SharedSemaphore>(semaphore.id(), other).unwrap();
    assert!(semaphore.try_acquire(me) && theirs.try_acquire(other) && theirs.try_acquire(other));
    // The process ends: nothing of it is dropped, but its file is closed.
    mem::forget(theirs);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let (parker, deadline) = (Parker::default(), Instant::now() + Duration::from_secs(60));
            semaphore.acquire(me, here.bell(), &Patience::new(Some(deadline), Duration::ZERO, &parker))
        });
        assert_eq!(here.recover_dead(me), 0, "it lives");
        assert_eq!(semaphore.value(), 0);
        drop(there);
        assert_eq!(here.recover_dead(me), 1);
        assert_eq!(waiter.join().unwrap(), Ok(()));
    });
    assert_eq!(semaphore.value(), 1);
    semaphore.release(me, 2, here.bell()).unwrap();
    assert_eq!(semaphore.release(me, 1, here.bell()), Err(TooManyReleases));
}

/// Any bytes at all: no panic, and every call comes back.
#[test]
fn words_that_somebody_wrote_over_do_no_harm() {
    let mut seed = 1_u64;
    let mut dice = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.rotate_right(16)
    };
    let gate = Gate::default();
    let words = size_of::<Semaphore>() / size_of::<AtomicU64>();
    for round in 0..20_000_u64 {
        for word in 0..words {
            let value = match round % 4 {
                0 => dice(),
                1 => u64::MAX,
                2 => dice() & 0x3_0FF3, // few peers, which are there several times
                _ => dice() & dice() & dice(),
            };
            // SAFETY: the semaphore is aligned words, all of which are atomics, or padding that nobody reads.
            let place = unsafe { AtomicU64::from_ptr((&raw const gate.semaphore).cast::<u64>().cast_mut().add(word)) };
            place.store(value, Ordering::Relaxed);
        }
        for number in 1..4 {
            gate.semaphore.try_acquire(peer(number));
            let _ = gate.give(number, 1 + dice() % 9);
            let _ = gate.give(number, dice() >> 1);
            gate.semaphore.recover(peer(number));
            gate.semaphore.value();
        }
    }
}

#[cfg(feature = "faults")]
mod killed {
    use multigil::fault::until_killed;

    use super::Gate;

    /// Kills whoever runs this at the point that it reaches after so many others. None if it ends before that.
    fn killed_after(points: u32, run: impl FnOnce()) -> Option<&'static str> {
        until_killed(points, run).err().map(|killed| killed.0)
    }

    /// Kills it at each of its points, each time from the start. `prepare` makes what it needs, and `check` sees what is
    /// left. It comes by all of `expected`.
    fn at_each_point(expected: &[&str], prepare: impl Fn() -> Gate, run: impl Fn(&Gate), check: impl Fn(&Gate)) {
        let mut points = Vec::new();
        loop {
            let gate = prepare();
            let Some(point) = killed_after(points.len() as u32, || run(&gate)) else { break };
            points.push(point);
            check(&gate);
        }
        assert_eq!(points, expected);
    }

    /// One of ten, of which peers 1, 2 and 3 have taken two each, 3 last.
    fn shared(bounded: bool) -> Gate {
        let gate = Gate::new(10, bounded);
        [1, 2, 3].iter().for_each(|peer| gate.take(*peer, 2));
        gate
    }

    /// All of it is there again when the other two have given back what they have, and `dead` is recovered.
    fn all_comes_back(gate: &Gate, dead: u16) {
        gate.recover(dead);
        let held: u64 = [1, 2, 3, 4].map(|peer| gate.recover(peer)).iter().sum();
        assert!(held >= 4, "{held}");
        assert_eq!(gate.semaphore.value(), 10);
    }

    #[test]
    fn who_takes() {
        for bounded in [false, true] {
            let take = ["SemaphoreTake", "SemaphoreTaken"];
            at_each_point(&take, || shared(bounded), |gate| gate.take(3, 1), |gate| all_comes_back(gate, 3));
            let take = ["SemaphoreMoveOut", "SemaphoreTake", "SemaphoreTaken"];
            for peer in [1, 4] {
                at_each_point(&take, || shared(bounded), |gate| gate.take(peer, 1), |gate| all_comes_back(gate, peer));
            }
        }
    }

    #[test]
    fn who_gives_back() {
        let give = ["SemaphoreGive", "SemaphoreGiven"];
        let give_moving = ["SemaphoreMoveOut", "SemaphoreGive", "SemaphoreGiven"];
        for bounded in [false, true] {
            let prepare = || shared(bounded);
            at_each_point(&give, prepare, |gate| gate.give(3, 1).unwrap(), |gate| all_comes_back(gate, 3));
            at_each_point(&give_moving, prepare, |gate| gate.give(1, 2).unwrap(), |gate| all_comes_back(gate, 1));
        }
    }

    /// Those of others too, account by account: what is free and what is in accounts are always ten.
    #[test]
    fn who_gives_back_for_others() {
        let give = |gate: &Gate| gate.give(4, 5).unwrap();
        let check = |gate: &Gate| {
            [4, 1, 2, 3].iter().for_each(|peer| _ = gate.recover(*peer));
            assert_eq!(gate.semaphore.value(), 10);
        };
        let points = ["SemaphoreGive", "SemaphoreMoveOut", "SemaphoreGive", "SemaphoreMoveOut", "SemaphoreGive"];
        for bounded in [false, true] {
            at_each_point(&[&points[..], &["SemaphoreGiven"]].concat(), || shared(bounded), give, check);
        }
    }

    #[test]
    fn who_recovers() {
        for (dead, moves) in [(3, &[][..]), (1, &["SemaphoreMoveOut"])] {
            let points = [moves, &["SemaphoreGive", "SemaphoreRecovered", "EventForgotten"]].concat();
            let recover = |gate: &Gate| gate.semaphore.recover(super::peer(dead));
            let check = |gate: &Gate| {
                gate.recover(dead);
                assert_eq!(gate.semaphore.value(), 6);
                assert_eq!([1, 2, 3].map(|peer| gate.recover(peer)).iter().sum::<u64>(), 4);
            };
            at_each_point(&points, || shared(false), recover, check);
        }
    }
}
