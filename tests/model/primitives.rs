//! Condition, barrier and reentrant lock against models of them.

use multigil::barrier::{Arrival, Barrier, Last};
use multigil::condition::Condition;
use multigil::error::{BarrierError, NotOwned, OwnerDied, ReacquireError};
use multigil::layout::{ObjectKind, PeerId};
use multigil::lock::{Owner, RLock};
use multigil::object::Region;
use multigil::waiters::{Call, Sitting};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::limit;
use crate::{assert_empty, region};

fn owner(me: PeerId) -> Owner {
    Owner { peer: me, thread: 1 }
}

/// Nothing is taken any more, and no bench either.
#[track_caller]
fn assert_nothing_left(region: &Region) {
    assert_eq!(region.statistics().count(ObjectKind::Bench), 0);
    assert_empty(region);
}

/// A seat, and the call that should have come there.
struct Waiter<'a> {
    sitting: Sitting<'a>,
    call: Option<Call>,
}

#[derive(Clone, Debug)]
enum ConditionStep {
    Sit(usize),
    Leave(Index),
    PassOn(Index),
    Notify(u32),
    NotifyAll,
}

fn condition_step() -> impl Strategy<Value = ConditionStep> {
    prop_oneof![
        10 => (1..4_usize).prop_map(ConditionStep::Sit),
        1 => (30..90_usize).prop_map(ConditionStep::Sit),
        10 => any::<Index>().prop_map(ConditionStep::Leave),
        5 => any::<Index>().prop_map(ConditionStep::PassOn),
        5 => (0..8_u32).prop_map(ConditionStep::Notify),
        1 => Just(ConditionStep::NotifyAll),
    ]
}

/// Calls the first ones that are not called yet, and says how many.
fn call_first(waiters: &mut [Waiter<'_>], count: usize) -> u32 {
    let waiting = waiters.iter_mut().filter(|waiter| waiter.call.is_none()).take(count);
    waiting.map(|waiter| waiter.call = Some(Call::Called)).count() as u32
}

#[derive(Clone, Debug)]
enum BarrierStep {
    Arrive,
    Release,
    Fail,
    Abort,
    Reset,
    TimeOut(Index),
    Abandon(Index),
    Leave(Index),
}

fn barrier_step() -> impl Strategy<Value = BarrierStep> {
    prop_oneof![
        30 => Just(BarrierStep::Arrive),
        20 => Just(BarrierStep::Release),
        1 => Just(BarrierStep::Fail),
        1 => Just(BarrierStep::Abort),
        3 => Just(BarrierStep::Reset),
        1 => any::<Index>().prop_map(BarrierStep::TimeOut),
        1 => any::<Index>().prop_map(BarrierStep::Abandon),
        10 => any::<Index>().prop_map(BarrierStep::Leave),
    ]
}

/// What a barrier should be.
#[derive(Default)]
struct BarrierModel<'a> {
    /// All who sit there, those of former generations too.
    waiters: Vec<Waiter<'a>>,
    /// How many of the last ones of them are of this generation.
    arrived: usize,
    acting: bool,
    broken: bool,
}

impl BarrierModel<'_> {
    /// Ends the generation.
    fn end(&mut self, call: Call, broken: bool) {
        let former = self.waiters.len() - self.arrived;
        self.waiters[former..].iter_mut().for_each(|waiter| waiter.call = Some(call));
        (self.arrived, self.acting, self.broken) = (0, false, broken);
    }

    /// Whether that waiter is of a generation that has not ended.
    fn waits(&self, place: usize) -> bool {
        self.waiters[place].call.is_none()
    }
}

#[derive(Clone, Copy, Debug)]
enum RLockStep {
    Acquire,
    Release,
    ReleaseSave,
    Restore(u32),
    /// All of its peer's threads.
    Die,
}

fn rlock_step() -> impl Strategy<Value = RLockStep> {
    prop_oneof![
        5 => Just(RLockStep::Acquire),
        4 => Just(RLockStep::Release),
        1 => Just(RLockStep::ReleaseSave),
        1 => (1..5_u32).prop_map(RLockStep::Restore),
        1 => Just(RLockStep::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Calls reach those who came first, however they sit, leave, and sit in each other's seats.
    #[test]
    fn condition(steps in vec(condition_step(), 0..200)) {
        let _limit = limit(120);
        let (region, me) = region();
        let condition = region.create_shared::<Condition>(me, |_| {}).unwrap();
        let mut waiters: Vec<Waiter<'_>> = Vec::new(); // in the order in which they came
        for step in steps {
            match step {
                ConditionStep::Sit(count) => waiters.extend((0..count).map(|_| {
                    Waiter { sitting: condition.sit(&region, owner(me)).unwrap(), call: None }
                })),
                ConditionStep::Leave(which) if !waiters.is_empty() => {
                    let waiter = waiters.remove(which.index(waiters.len()));
                    prop_assert_eq!(waiter.sitting.leave(), waiter.call);
                }
                ConditionStep::Notify(count) => {
                    prop_assert_eq!(condition.notify(&region, count), call_first(&mut waiters, count as usize));
                }
                ConditionStep::NotifyAll => {
                    condition.notify_all(&region);
                    call_first(&mut waiters, usize::MAX);
                }
                // One that has just been called, while nobody else has come.
                ConditionStep::PassOn(which) if !waiters.is_empty() => {
                    condition.notify_all(&region);
                    call_first(&mut waiters, usize::MAX);
                    let called = condition.leave(waiters.remove(which.index(waiters.len())).sitting);
                    let late = condition.sit(&region, owner(me)).unwrap();
                    condition.pass_on(&region, called.expect("all were called"));
                    prop_assert_eq!(late.leave(), None);
                }
                ConditionStep::Leave(_) | ConditionStep::PassOn(_) => {}
            }
            for waiter in &waiters {
                prop_assert_eq!(waiter.sitting.call(), waiter.call);
            }
            let waiting = waiters.iter().filter(|waiter| waiter.call.is_none()).count();
            prop_assert_eq!(condition.waiters().count(&region), waiting);
        }
        drop(waiters);
        drop(condition);
        assert_nothing_left(&region);
    }

    /// A barrier lets generations pass and ends them as it should, one step after another.
    #[test]
    fn barrier(parties in 1..30_u32, steps in vec(barrier_step(), 0..400)) {
        let _limit = limit(120);
        let (region, me) = region();
        let bell = region.bell();
        let barrier = region.create_shared::<Barrier>(me, |barrier| barrier.initialize(parties)).unwrap();
        let mut model = BarrierModel::default();
        let mut last: Option<Last<'_>> = None; // maybe of a former generation
        for step in steps {
            match step {
                BarrierStep::Arrive => match barrier.try_arrive(&region, owner(me)) {
                    Err(error) => prop_assert_eq!((error, model.broken), (BarrierError::Broken, true)),
                    Ok(None) => prop_assert!(model.acting),
                    Ok(Some(Arrival::Last(arrived))) => {
                        prop_assert_eq!((arrived.index(), model.arrived as u32), (parties - 1, parties - 1));
                        model.acting = true;
                        last = Some(arrived); // if there was one, it was too late anyhow
                    }
                    Ok(Some(Arrival::Waiting(index, sitting))) => {
                        prop_assert_eq!((index as usize, model.acting, model.broken), (model.arrived, false, false));
                        model.waiters.push(Waiter { sitting, call: None });
                        model.arrived += 1;
                    }
                },
                BarrierStep::Release => if let Some(last) = last.take() {
                    let released = last.release(&region, bell);
                    prop_assert_eq!(released, if model.acting { Ok(()) } else { Err(BarrierError::Broken) });
                    if model.acting {
                        model.end(Call::Called, false);
                    }
                },
                BarrierStep::Fail => if let Some(last) = last.take() {
                    last.fail(&region, bell);
                    if model.acting {
                        model.end(Call::Dismissed, true);
                    }
                },
                BarrierStep::Abort => {
                    barrier.abort(&region, bell);
                    model.end(Call::Dismissed, true);
                }
                BarrierStep::Reset => {
                    barrier.reset(&region, bell);
                    model.end(Call::Dismissed, false);
                }
                BarrierStep::TimeOut(which) if !model.waiters.is_empty() => {
                    let place = which.index(model.waiters.len());
                    let breaks = model.waits(place) && !model.acting;
                    let ticket = model.waiters[place].sitting.ticket();
                    prop_assert_eq!(barrier.time_out(ticket, &region, bell), breaks);
                    if breaks {
                        model.end(Call::Dismissed, true);
                    }
                }
                BarrierStep::Abandon(which) if !model.waiters.is_empty() => {
                    let place = which.index(model.waiters.len());
                    barrier.abandon(model.waiters[place].sitting.ticket(), &region, bell);
                    if model.waits(place) {
                        model.end(Call::Dismissed, true);
                    }
                }
                // Whoever has been called, sooner or later.
                BarrierStep::Leave(which) if model.arrived < model.waiters.len() => {
                    let place = which.index(model.waiters.len() - model.arrived);
                    let waiter = model.waiters.remove(place);
                    prop_assert_eq!(waiter.sitting.leave(), waiter.call);
                }
                BarrierStep::TimeOut(_) | BarrierStep::Abandon(_) | BarrierStep::Leave(_) => {}
            }
            for waiter in &model.waiters {
                prop_assert_eq!(waiter.sitting.call(), waiter.call);
            }
            let arrived = model.arrived as u32 + u32::from(model.acting);
            prop_assert_eq!((barrier.arrived(), barrier.is_broken()), (arrived, model.broken));
        }
        drop(model);
        drop(barrier);
        assert_nothing_left(&region);
    }

    /// A reentrant lock is its owner's, who is a thread of an interpreter, as often as it was taken. When its owner has died,
    /// the next one is told.
    #[test]
    fn rlock(steps in vec((0..2_u32, 0..2_usize, rlock_step()), 0..200)) {
        let _limit = limit(120);
        let (region, me) = region();
        let peers = [me, region.register().unwrap()];
        let lock = region.create_shared::<RLock>(me, |_| {}).unwrap();
        let (mut model, mut died): (Option<(Owner, u32)>, _) = (None, None);
        for (thread, peer, step) in steps {
            let me = Owner { peer: peers[peer], thread: thread + 1 };
            let mine = model.filter(|(owner, _)| *owner == me).map(|(_, count)| count);
            let may_take = model.is_none() || mine.is_some();
            match step {
                RLockStep::Die => {
                    lock.recover(me.peer);
                    if let Some((owner, _)) = model.filter(|(owner, _)| owner.peer == me.peer) {
                        model = None;
                        died = Some(OwnerDied { peer: owner.peer.get(), thread: owner.thread });
                    }
                }
                RLockStep::Acquire => {
                    if let Some(died) = died.take() {
                        prop_assert_eq!(lock.try_acquire(me), Err(ReacquireError::OwnerDied(died)));
                    }
                    prop_assert_eq!(lock.try_acquire(me), Ok(may_take));
                    if may_take {
                        model = Some((me, mine.unwrap_or(0) + 1));
                    }
                }
                RLockStep::Release => {
                    prop_assert_eq!(lock.release(me, region.bell()), mine.map(|_| ()).ok_or(NotOwned));
                    if let Some(count) = mine {
                        model = (count > 1).then_some((me, count - 1));
                    }
                }
                RLockStep::ReleaseSave => {
                    prop_assert_eq!(lock.release_save(me, region.bell()), mine.ok_or(NotOwned));
                    if mine.is_some() {
                        model = None;
                    }
                }
                RLockStep::Restore(count) => {
                    if let Some(died) = died.take() {
                        prop_assert_eq!(lock.try_restore(me, count), Err(died));
                    }
                    prop_assert_eq!(lock.try_restore(me, count), Ok(may_take));
                    if may_take {
                        model = Some((me, count));
                    }
                }
            }
            prop_assert_eq!(lock.lock().is_locked(), model.is_some());
            prop_assert_eq!(lock.count(), model.map_or(0, |(_, count)| count));
            prop_assert_eq!(lock.is_owned(me), model.is_some_and(|(owner, _)| owner == me));
        }
        drop(lock);
        assert_empty(&region);
    }
}
