//! The semaphore.

use std::sync::Arc;

use loom::thread;
use multigil::error::TooManyReleases;
use multigil::event::{Bell, Patience};
use multigil::layout::PeerId;
use multigil::model::{OwnedWord, Part};
use multigil::semaphore::Semaphore;

use crate::{check, die_at, twin};

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

    fn try_acquire(&self, peer: u16) -> bool {
        self.semaphore.try_acquire(self::peer(peer))
    }

    fn acquire(&self, peer: u16) {
        self.semaphore.acquire(self::peer(peer), &self.bell, &Patience::endless()).unwrap();
    }

    fn release(&self, peer: u16, count: u64) -> Result<(), TooManyReleases> {
        self.semaphore.release(self::peer(peer), count, &self.bell)
    }

    fn recover(&self, peer: u16) {
        self.semaphore.recover(self::peer(peer));
    }

    fn add(&self, peer: u16) {
        self.acquire(peer);
        self.word.write(self.word.read() + 1);
        self.release(peer, 1).unwrap();
    }

    /// What each of the peers 1, 2 and 3 holds: what comes back when it is dead.
    fn held(&self) -> [u64; 3] {
        [1, 2, 3].map(|peer| {
            let before = self.semaphore.value();
            self.recover(peer);
            self.semaphore.value() - before
        })
    }
}

fn peer(number: u16) -> PeerId {
    PeerId::new(number).unwrap()
}

/// Lets this thread be killed at the point that it reaches after so many others; whether it was.
fn killed_after(points: u32, run: impl FnOnce()) -> bool {
    die_at(points, run).is_none()
}

/// A semaphore of one is a lock: one thread at a time, and each sees what the one before has written.
fn one_inside() {
    let gate = Gate::new(1, true);
    let other = gate.clone();
    let adder = thread::spawn(move || other.add(2));
    gate.add(1);
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
        other.release(2, 1).unwrap();
    });
    let other = gate.clone();
    let second = thread::spawn(move || other.release(2, 1).unwrap());
    gate.acquire(1);
    gate.acquire(1);
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
    let sleepers = [gate.clone(), gate.clone()].map(|gate| thread::spawn(move || gate.acquire(2)));
    gate.release(1, 2).unwrap();
    sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    assert!(!gate.try_acquire(1));
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
    let sleepers = [gate.clone(), gate.clone()].map(|gate| thread::spawn(move || gate.acquire(1)));
    gate.release(1, 2).unwrap();
    if gate.try_acquire(1) {
        gate.release(1, 1).unwrap();
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
    gate.acquire(1);
    let other = gate.clone();
    let releaser = thread::spawn(move || other.release(2, 1));
    let results = [gate.release(1, 1), releaser.join().unwrap()];
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
    gate.acquire(1);
    let other = gate.clone();
    let taker = thread::spawn(move || {
        assert!(other.try_acquire(2));
        other.release(2, 1).unwrap();
    });
    gate.release(1, 1).unwrap();
    taker.join().unwrap();
    assert_eq!(gate.semaphore.value(), 2);
    assert_eq!(gate.release(1, 1), Err(TooManyReleases));
}

#[test]
fn bound_beside_taker_holds() {
    check(3, bound_beside_taker);
}

// ---------------------------------------------------------------------------------------------- accounts

/// One of eight, of which peers 1 and 2 have taken two each, in turn: the ledger knows both.
fn used() -> Arc<Gate> {
    let gate = Gate::new(8, false);
    [2, 1, 2, 1].iter().for_each(|peer| assert!(gate.try_acquire(*peer)));
    gate
}

/// Peers come at the same time: each finds its own account again, and what it takes is added to it.
fn two_accounts() {
    let gate = used();
    let other = gate.clone();
    let taker = thread::spawn(move || assert!(other.try_acquire(2)));
    assert!(gate.try_acquire(1));
    taker.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (2, [3, 3, 0]));
}

#[test]
fn two_accounts_holds() {
    check(3, two_accounts);
}

/// The same with one thread of each beside a second one of peer 1.
fn account_comes_back() {
    let gate = used();
    let other = gate.clone();
    let first = thread::spawn(move || assert!(other.try_acquire(2)));
    let other = gate.clone();
    let second = thread::spawn(move || assert!(other.try_acquire(1)));
    first.join().unwrap();
    second.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (2, [3, 3, 0]));
}

#[test]
fn account_comes_back_holds() {
    check(3, account_comes_back);
}

#[test]
#[should_panic(expected = "assertion")]
fn account_comes_back_fails_without_account_published() {
    twin(3, Part::AccountPublished, account_comes_back);
}

/// Somebody who moves an account out late, when it has changed and others have moved it out already, changes nothing: also
/// if they wrote what was there before.
fn late_mover() {
    let gate = used();
    let other = gate.clone();
    let late = thread::spawn(move || assert!(other.try_acquire(2)));
    gate.release(1, 1).unwrap();
    assert!(gate.try_acquire(3));
    late.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (3, [1, 3, 1]));
}

#[test]
fn late_mover_holds() {
    check(3, late_mover);
}

#[test]
#[should_panic(expected = "assertion")]
fn late_mover_fails_without_entry_changes() {
    twin(3, Part::EntryChanges, late_mover);
}

#[test]
#[should_panic(expected = "assertion")]
fn late_mover_fails_without_state_moved() {
    twin(3, Part::StateMoved, late_mover);
}

#[test]
#[should_panic(expected = "assertion")]
fn late_mover_fails_without_ledger_seen() {
    twin(3, Part::LedgerSeen, late_mover);
}

/// The same beside those who only take, and so have no fence.
fn late_mover_beside_takers() {
    let gate = used();
    let other = gate.clone();
    let late = thread::spawn(move || assert!(other.try_acquire(2)));
    assert!(gate.try_acquire(1));
    assert!(gate.try_acquire(3));
    late.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (1, [3, 3, 1]));
}

#[test]
fn late_mover_beside_takers_holds() {
    check(3, late_mover_beside_takers);
}

#[test]
#[should_panic(expected = "assertion")]
fn late_mover_beside_takers_fails_without_account_moved_out() {
    twin(3, Part::AccountMovedOut, late_mover_beside_takers);
}

/// One gives back what another one has taken while that one takes more: it is always in an account, or free.
fn release_for_another() {
    let gate = used();
    let other = gate.clone();
    let giver = thread::spawn(move || other.release(3, 1).unwrap());
    assert!(gate.try_acquire(1));
    giver.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (4, [2, 2, 0]));
}

#[test]
fn release_for_another_holds() {
    check(3, release_for_another);
}

/// Of several accounts at once: all of it becomes free, and nothing is left in any.
fn release_of_all() {
    let gate = used();
    let other = gate.clone();
    let taker = thread::spawn(move || other.try_acquire(3));
    gate.release(2, 4).unwrap();
    assert!(taker.join().unwrap());
    assert_eq!(gate.semaphore.value(), 7);
    assert_eq!(gate.held().iter().sum::<u64>(), 1);
}

#[test]
fn release_of_all_holds() {
    check(2, release_of_all);
}

// ---------------------------------------------------------------------------------------------- recover

/// What a dead peer had comes back while another one takes.
fn recover_acquire() {
    let gate = used();
    let other = gate.clone();
    let taker = thread::spawn(move || assert!(other.try_acquire(2)));
    gate.recover(1);
    taker.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (5, [0, 3, 0]));
}

#[test]
fn recover_acquire_holds() {
    check(3, recover_acquire);
}

#[test]
#[should_panic(expected = "assertion")]
fn recover_acquire_fails_without_account_emptied() {
    twin(3, Part::AccountEmptied, recover_acquire);
}

/// What a dead peer had is given back by another one at the same time: it comes back once.
fn recover_release() {
    let gate = Gate::new(2, true);
    gate.acquire(1);
    gate.acquire(1);
    let other = gate.clone();
    let giver = thread::spawn(move || other.release(2, 1));
    gate.recover(1);
    let _ = giver.join().unwrap(); // there was something to give back, or not any more
    assert_eq!((gate.semaphore.value(), gate.held()), (2, [0, 0, 0]));
}

#[test]
fn recover_release_holds() {
    check(3, recover_release);
}

/// Who sleeps gets what a dead one had.
fn recover_wakes() {
    let gate = Gate::new(1, true);
    gate.acquire(1);
    let other = gate.clone();
    let sleeper = thread::spawn(move || other.acquire(2));
    gate.recover(1);
    sleeper.join().unwrap();
}

#[test]
fn recover_wakes_holds() {
    check(3, recover_wakes);
}

#[test]
#[should_panic(expected = "deadlock")]
fn recover_wakes_fails_without_recovery_wakes() {
    twin(3, Part::RecoveryWakes, recover_wakes);
}

/// One who recovers is killed at some point, another one starts over, and somebody waits.
fn killed_recoverer<const POINTS: u32>() {
    let gate = Gate::new(2, false);
    gate.acquire(1);
    gate.acquire(3);
    let other = gate.clone();
    let sleeper = thread::spawn(move || other.acquire(2));
    assert_eq!(killed_after(POINTS, || gate.recover(1)), POINTS < 4);
    gate.recover(1);
    sleeper.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (0, [0, 1, 1]));
}

#[test]
fn killed_recoverer_holds() {
    check(2, killed_recoverer::<0>);
    check(2, killed_recoverer::<1>);
    check(2, killed_recoverer::<2>);
    check(2, killed_recoverer::<3>);
    check(2, killed_recoverer::<4>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn killed_recoverer_fails_without_recovery_wakes() {
    twin(2, Part::RecoveryWakes, killed_recoverer::<2>);
}

#[test]
#[should_panic(expected = "assertion")]
fn killed_recoverer_fails_without_account_emptied() {
    twin(2, Part::AccountEmptied, killed_recoverer::<2>);
}

/// One who takes and gives back is killed at some point, beside another one who does the same: nothing is lost.
fn killed_holder<const POINTS: u32>() {
    let gate = Gate::new(2, true);
    gate.acquire(1);
    gate.release(1, 1).unwrap();
    let other = gate.clone();
    let holder = thread::spawn(move || {
        assert!(other.try_acquire(2));
        other.release(2, 1).unwrap();
    });
    killed_after(POINTS, || {
        assert!(gate.try_acquire(1));
        gate.release(1, 1).unwrap();
    });
    gate.recover(1);
    holder.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (2, [0, 0, 0]));
    assert_eq!(gate.release(3, 1), Err(TooManyReleases));
}

#[test]
fn killed_holder_holds() {
    check(2, killed_holder::<0>);
    check(2, killed_holder::<1>);
    check(2, killed_holder::<2>);
    check(2, killed_holder::<3>);
    check(2, killed_holder::<4>);
}

/// One who gives back is killed before it wakes anybody: whoever recovers it does.
fn killed_giver<const POINTS: u32>() {
    let gate = Gate::new(1, true);
    gate.acquire(1);
    let other = gate.clone();
    let sleeper = thread::spawn(move || other.acquire(2));
    assert!(killed_after(POINTS, || gate.release(1, 1).unwrap()));
    gate.recover(1);
    sleeper.join().unwrap();
    assert_eq!((gate.semaphore.value(), gate.held()), (0, [0, 1, 0]));
}

#[test]
fn killed_giver_holds() {
    check(3, killed_giver::<0>);
    check(3, killed_giver::<1>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn killed_giver_fails_without_recovery_wakes() {
    twin(3, Part::RecoveryWakes, killed_giver::<1>);
}
