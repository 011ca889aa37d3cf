//! The barrier.

use std::sync::Arc;

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::barrier::{Arrival, Barrier};
use multigil::error::BarrierError;
use multigil::event::{Bell, Patience};
use multigil::layout::PeerId;
use multigil::lock::Owner;
use multigil::model::{AtomicU64, OwnedWord, Part};
use multigil::waiters::{Call, Sitting};

use crate::waiters::Workshop;
use crate::{check, dead, die_at, me, twin};

#[derive(Default)]
struct Meeting {
    workshop: Workshop,
    bell: Bell,
    barrier: Barrier,
    words: [OwnedWord; 4],
}

/// How somebody passes who gives up, if its generation does not pass.
#[derive(Debug, PartialEq, Eq)]
enum GaveUp {
    /// It was not in vain.
    Passed,
    /// It has broken the barrier.
    Broke,
    /// Somebody else has.
    WasBroken,
}

impl Meeting {
    fn of(parties: u32) -> Arc<Meeting> {
        let meeting = Meeting::default();
        meeting.barrier.initialize(parties);
        Arc::new(meeting)
    }

    fn arrive_as(&self, peer: PeerId) -> Result<Arrival<'_>, BarrierError> {
        self.barrier.arrive(&self.workshop, Owner { peer, thread: 1 }, &self.bell, &Patience::endless())
    }

    fn arrive(&self) -> Result<Arrival<'_>, BarrierError> {
        self.arrive_as(me())
    }

    /// Passes, and acts as the last one.
    fn pass_and(&self, act: impl FnOnce()) -> Result<u32, BarrierError> {
        self.pass_as(me(), act)
    }

    fn pass_as(&self, peer: PeerId, act: impl FnOnce()) -> Result<u32, BarrierError> {
        match self.arrive_as(peer)? {
            Arrival::Waiting(index, sitting) => called(&sitting).map(|()| index),
            Arrival::Last(last) => {
                let index = last.index();
                act();
                last.release(&self.workshop, &self.bell).map(|()| index)
            }
        }
    }

    fn pass(&self) -> Result<u32, BarrierError> {
        self.pass_and(|| {})
    }

    /// Arrives, and its time is up at any moment.
    fn pass_in_time(&self) -> GaveUp {
        match self.arrive() {
            Err(_) => GaveUp::WasBroken,
            Ok(Arrival::Last(last)) => {
                last.release(&self.workshop, &self.bell).map_or(GaveUp::WasBroken, |()| GaveUp::Passed)
            }
            Ok(Arrival::Waiting(_, sitting)) => {
                if self.barrier.time_out(sitting.ticket(), &self.workshop, &self.bell) {
                    return GaveUp::Broke;
                }
                called(&sitting).map_or(GaveUp::WasBroken, |()| GaveUp::Passed)
            }
        }
    }

    /// Arrives as one of those who wait, and leaves at any moment.
    fn arrive_and_leave(&self) {
        match self.arrive() {
            Ok(Arrival::Waiting(_, sitting)) => {
                self.barrier.abandon(sitting.ticket(), &self.workshop, &self.bell);
            }
            Ok(Arrival::Last(last)) => last.fail(&self.workshop, &self.bell),
            Err(_) => {}
        }
    }

    /// Passes as one who dies after so many fault points; None if it died.
    fn pass_doomed(&self, points: u32) -> Option<Result<u32, BarrierError>> {
        die_at(points, || self.pass_as(dead(), || {}))
    }

    fn recover(&self) {
        self.barrier.recover(&self.workshop, dead(), &self.bell);
    }

    fn abort(&self) {
        self.barrier.abort(&self.workshop, &self.bell);
    }

    fn reset(&self) {
        self.barrier.reset(&self.workshop, &self.bell);
    }

    /// Nobody sits there any more.
    fn assert_empty(&self) {
        assert_eq!((self.barrier.arrived(), self.barrier.waiters().count(&self.workshop)), (0, 0));
    }
}

fn called(sitting: &Sitting<'_>) -> Result<(), BarrierError> {
    match sitting.wait(&Patience::endless()) {
        Ok(Call::Called) => Ok(()),
        Ok(Call::Dismissed) | Err(_) => Err(BarrierError::Broken),
    }
}

// ---------------------------------------------------------------------------------------------- generations

/// What each of three has done before the barrier is seen by all after it, and each has a place of its own.
fn meet() {
    let meeting = Meeting::of(3);
    let party = |me: usize, meeting: Arc<Meeting>| {
        meeting.words[me].write(1);
        let place = meeting.pass().unwrap();
        assert_eq!(meeting.words[..3].iter().map(OwnedWord::read).sum::<u64>(), 3);
        place
    };
    let others = [1, 2].map(|other| {
        let meeting = meeting.clone();
        thread::spawn(move || party(other, meeting))
    });
    let mut places = vec![party(0, meeting.clone())];
    places.extend(others.map(|other| other.join().unwrap()));
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2]);
    meeting.assert_empty();
}

#[test]
fn meet_holds() {
    check(1, meet);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn meet_fails_without_arrived() {
    twin(1, Part::Arrived, meet);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn meet_fails_without_barrier_seen() {
    twin(1, Part::BarrierSeen, meet);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn meet_fails_without_seat_called() {
    twin(1, Part::SeatCalled, meet);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn meet_fails_without_seat_heard() {
    twin(1, Part::SeatHeard, meet);
}

#[test]
#[should_panic(expected = "deadlock")]
fn meet_fails_without_all_told() {
    twin(1, Part::AllTold, meet);
}

/// Two generations in a row: nobody is a generation ahead, however slowly the others wake.
fn meet_again() {
    let meeting = Meeting::of(2);
    let party = |me: usize, meeting: Arc<Meeting>| {
        let other = 1 - me;
        meeting.words[me].write(1);
        meeting.pass().unwrap();
        assert_eq!(meeting.words[other].read(), 1);
        meeting.pass().unwrap();
        meeting.words[other].write(2);
    };
    let second = meeting.clone();
    let second = thread::spawn(move || party(1, second));
    party(0, meeting.clone());
    second.join().unwrap();
    meeting.assert_empty();
}

#[test]
fn meet_again_holds() {
    check(3, meet_again);
}

/// Three come to a barrier of two: whoever comes while the last one still calls the other one is not taken for that.
fn slow_release() {
    let meeting = Meeting::of(2);
    let passed = Arc::new(AtomicU64::default());
    let party = |meeting: Arc<Meeting>, passed: Arc<AtomicU64>| {
        let result = meeting.pass();
        if result.is_ok() && passed.fetch_add(1, Ordering::Relaxed) == 1 {
            meeting.abort(); // for the one who is left over
        }
        result.is_ok()
    };
    let others = [(); 2].map(|()| {
        let (meeting, passed) = (meeting.clone(), passed.clone());
        thread::spawn(move || party(meeting, passed))
    });
    let mut all = vec![party(meeting.clone(), passed)];
    all.extend(others.map(|other| other.join().unwrap()));
    assert_eq!(all.into_iter().filter(|passed| *passed).count(), 2);
    meeting.assert_empty();
}

#[test]
fn slow_release_holds() {
    check(1, slow_release);
}

/// Four in a room with two seats: the third one waits on a bench, and is called there.
fn meet_on_benches() {
    let meeting = Meeting::of(4);
    let others = [1, 2, 3].map(|_| {
        let meeting = meeting.clone();
        thread::spawn(move || meeting.pass().unwrap())
    });
    let mut places = vec![meeting.pass().unwrap()];
    places.extend(others.map(|other| other.join().unwrap()));
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3]);
    meeting.assert_empty();
}

#[test]
fn meet_on_benches_holds() {
    check(0, meet_on_benches);
}

// ---------------------------------------------------------------------------------------------- action

/// The last one of each generation acts: one at a time, each after the other, and whoever comes meanwhile waits for it.
fn act() {
    let meeting = Meeting::of(1);
    let party = |meeting: Arc<Meeting>| {
        meeting.pass_and(|| meeting.words[0].write(meeting.words[0].read() + 1)).unwrap();
    };
    let second = meeting.clone();
    let second = thread::spawn(move || party(second));
    party(meeting.clone());
    second.join().unwrap();
    assert_eq!(meeting.words[0].read(), 2);
}

#[test]
fn act_holds() {
    check(3, act);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn act_fails_without_acted() {
    twin(3, Part::Acted, act);
}

#[test]
#[should_panic(expected = "deadlock")]
fn act_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, act);
}

/// The action fails: whoever waits for its end is told.
fn act_in_vain() {
    let meeting = Meeting::of(1);
    let other = meeting.clone();
    let failing = thread::spawn(move || match other.arrive() {
        Ok(Arrival::Last(last)) => last.fail(&other.workshop, &other.bell),
        other => panic!("{other:?}"),
    });
    let result = meeting.pass();
    failing.join().unwrap();
    assert!(matches!(result, Ok(0) | Err(BarrierError::Broken)), "{result:?}");
    assert!(meeting.barrier.is_broken());
    meeting.assert_empty();
}

#[test]
fn act_in_vain_holds() {
    check(3, act_in_vain);
}

// ---------------------------------------------------------------------------------------------- abort, reset

/// Whoever waits at a barrier that is broken, or comes to it afterwards, is told, and why.
fn abort() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let waiter = thread::spawn(move || {
        assert_eq!(other.pass(), Err(BarrierError::Broken));
        assert_eq!(other.words[0].read(), 1);
    });
    meeting.words[0].write(1);
    meeting.abort();
    waiter.join().unwrap();
    assert!(meeting.barrier.is_broken());
    meeting.assert_empty();
}

#[test]
fn abort_holds() {
    check(3, abort);
}

#[test]
#[should_panic(expected = "deadlock")] // the seat of one who has arrived is overlooked
fn abort_fails_without_arrived() {
    twin(3, Part::Arrived, abort);
}

#[test]
#[should_panic(expected = "Causality violation")] // one who arrives afterwards does not see why
fn abort_fails_without_broke() {
    twin(3, Part::Broke, abort);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn abort_fails_without_barrier_seen() {
    twin(3, Part::BarrierSeen, abort);
}

/// A barrier that is broken just when the last one comes: either all pass or nobody does.
fn abort_beside_last() {
    let meeting = Meeting::of(2);
    let others = [meeting.clone(), meeting.clone()].map(|meeting| {
        thread::spawn(move || {
            let passed = meeting.pass().is_ok();
            if !passed {
                assert_eq!(meeting.words[0].read(), 1);
            }
            passed
        })
    });
    meeting.words[0].write(1);
    meeting.abort();
    let [one, other] = others.map(|other| other.join().unwrap());
    assert_eq!(one, other, "all pass or nobody");
    assert!(meeting.barrier.is_broken());
    meeting.assert_empty();
}

#[test]
fn abort_beside_last_holds() {
    check(2, abort_beside_last);
}

/// A barrier that is reset at any moment: those who waited are told, come again, and pass.
fn reset() {
    let meeting = Meeting::of(2);
    let others = [meeting.clone(), meeting.clone()].map(|meeting| {
        thread::spawn(move || {
            while meeting.pass().is_err() {
                assert_eq!(meeting.words[0].read(), 1);
            }
        })
    });
    meeting.words[0].write(1);
    meeting.reset();
    others.into_iter().for_each(|other| other.join().unwrap());
    assert!(!meeting.barrier.is_broken());
    meeting.assert_empty();
}

#[test]
fn reset_holds() {
    check(2, reset);
}

// ---------------------------------------------------------------------------------------------- giving up

/// The time of one of two is up at any moment: both pass, or nobody and the barrier is broken.
fn time_out() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let impatient = thread::spawn(move || other.pass_in_time());
    let passed = meeting.pass().is_ok();
    let impatient = impatient.join().unwrap();
    assert_eq!(impatient, if passed { GaveUp::Passed } else { GaveUp::Broke });
    assert_eq!(meeting.barrier.is_broken(), !passed);
    meeting.assert_empty();
}

#[test]
fn time_out_holds() {
    check(3, time_out);
}

/// The time of two of three is up: one of them breaks it, and the other one is told.
fn time_out_of_two() {
    let meeting = Meeting::of(3);
    let other = meeting.clone();
    let other = thread::spawn(move || other.pass_in_time());
    let both = [meeting.pass_in_time(), other.join().unwrap()];
    assert!(both.contains(&GaveUp::Broke) && both.contains(&GaveUp::WasBroken), "{both:?}");
    meeting.assert_empty();
}

#[test]
fn time_out_of_two_holds() {
    check(3, time_out_of_two);
}

#[test]
#[should_panic(expected = "deadlock")] // the seat of one who has arrived is overlooked
fn time_out_of_two_fails_without_arrived() {
    twin(3, Part::Arrived, time_out_of_two);
}

#[test]
#[should_panic(expected = "deadlock")]
fn time_out_of_two_fails_without_broke() {
    twin(3, Part::Broke, time_out_of_two);
}

/// Three come to a barrier of two, and the time of each may be up: they pass in pairs, whoever comes while the last one
/// acts.
fn time_out_beside_last() {
    let meeting = Meeting::of(2);
    let others = [meeting.clone(), meeting.clone()].map(|other| thread::spawn(move || other.pass_in_time()));
    let mut all = vec![meeting.pass_in_time()];
    all.extend(others.map(|other| other.join().unwrap()));
    let passed = all.iter().filter(|how| **how == GaveUp::Passed).count();
    assert!(passed == 0 || passed == 2, "{all:?}");
    assert_eq!(all.contains(&GaveUp::Broke), meeting.barrier.is_broken());
    meeting.assert_empty();
}

#[test]
fn time_out_beside_last_holds() {
    check(1, time_out_beside_last);
}

/// One who leaves does not make the others wait for ever: they pass, because it came, or the barrier is broken.
fn leave() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let leaver = thread::spawn(move || other.arrive_and_leave());
    let passed = meeting.pass().is_ok();
    leaver.join().unwrap();
    assert_eq!(meeting.barrier.is_broken(), !passed);
    meeting.assert_empty();
}

#[test]
fn leave_holds() {
    check(3, leave);
}

/// One who leaves a generation that was reset does not break the next one.
fn leave_after_reset() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let leaver = thread::spawn(move || other.arrive_and_leave());
    meeting.reset();
    leaver.join().unwrap();
    let other = meeting.clone();
    let broken = meeting.barrier.is_broken();
    let second = thread::spawn(move || other.pass().is_err());
    assert_eq!((meeting.pass().is_err(), second.join().unwrap()), (broken, broken));
    meeting.assert_empty();
}

#[test]
fn leave_after_reset_holds() {
    check(2, leave_after_reset);
}

// ---------------------------------------------------------------------------------------------- deaths

/// One of three died while it waited, and it is found out just when another one comes: that one is not left waiting.
fn death_of_one_who_waits() {
    let meeting = Meeting::of(3);
    core::mem::forget(meeting.arrive_as(dead()).unwrap());
    let other = meeting.clone();
    let waiter = thread::spawn(move || assert_eq!(other.pass(), Err(BarrierError::Broken)));
    meeting.recover();
    waiter.join().unwrap();
    assert!(meeting.barrier.is_broken());
    meeting.assert_empty();
}

#[test]
fn death_of_one_who_waits_holds() {
    check(3, death_of_one_who_waits);
}

#[test]
#[should_panic(expected = "deadlock")]
fn death_of_one_who_waits_fails_without_dead_awaited() {
    twin(3, Part::DeadAwaited, death_of_one_who_waits);
}

/// One of two died while it waited, and it is found out just when the other one comes: that one passes, or is told.
fn death_beside_last() {
    let meeting = Meeting::of(2);
    core::mem::forget(meeting.arrive_as(dead()).unwrap());
    let other = meeting.clone();
    let last = thread::spawn(move || other.pass());
    meeting.recover();
    assert_eq!(last.join().unwrap(), if meeting.barrier.is_broken() { Err(BarrierError::Broken) } else { Ok(1) });
    meeting.assert_empty();
}

#[test]
fn death_beside_last_holds() {
    check(3, death_beside_last);
}

/// One of two dies at the fault point that it reaches after so many others, wherever that is: the other one passes, or is
/// told, and never told after it was the last.
fn death_at<const POINTS: u32>() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let dying = thread::spawn(move || other.pass_doomed(POINTS));
    let other = meeting.clone();
    let waiter = thread::spawn(move || other.pass());
    let ended = dying.join().unwrap();
    meeting.recover();
    let passed = match waiter.join() {
        Ok(Ok(_)) => true,
        Ok(Err(BarrierError::Broken)) => false,
        other => panic!("{other:?}"),
    };
    assert_eq!(meeting.barrier.is_broken(), !passed);
    assert!(passed || ended.is_none());
    meeting.assert_empty();
}

/// More than there are on the longest way through a barrier.
const POINTS: u32 = 12;

#[test]
fn death_at_any_point_holds() {
    let models: [fn(); POINTS as usize] = [
        death_at::<0>,
        death_at::<1>,
        death_at::<2>,
        death_at::<3>,
        death_at::<4>,
        death_at::<5>,
        death_at::<6>,
        death_at::<7>,
        death_at::<8>,
        death_at::<9>,
        death_at::<10>,
        death_at::<11>,
    ];
    models.into_iter().for_each(|model| check(2, model));
}

#[test]
#[should_panic(expected = "deadlock")] // it was the last one, and died when it acted
fn death_at_any_point_fails_without_dead_acted() {
    twin(2, Part::DeadActed, death_at::<0>);
}

/// One who breaks the barrier dies before it has told anybody.
fn death_of_one_who_breaks() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let waiter = thread::spawn(move || assert_eq!(other.pass(), Err(BarrierError::Broken)));
    assert_eq!(die_at(0, || meeting.abort()), None);
    meeting.recover();
    waiter.join().unwrap();
    meeting.assert_empty();
}

#[test]
fn death_of_one_who_breaks_holds() {
    check(3, death_of_one_who_breaks);
}

#[test]
#[should_panic(expected = "deadlock")]
fn death_of_one_who_breaks_fails_without_dead_broke() {
    twin(3, Part::DeadBroke, death_of_one_who_breaks);
}

/// One who resets the barrier dies before it has told anybody: the next one who comes does, and begins the next generation.
fn death_of_one_who_resets() {
    let meeting = Meeting::of(2);
    let other = meeting.clone();
    let waiter = thread::spawn(move || while other.pass().is_err() {});
    assert_eq!(die_at(0, || meeting.reset()), None);
    assert_eq!(meeting.pass().map(drop), Ok(()));
    waiter.join().unwrap();
    meeting.assert_empty();
}

#[test]
fn death_of_one_who_resets_holds() {
    check(3, death_of_one_who_resets);
}
