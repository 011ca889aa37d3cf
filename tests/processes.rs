//! One region opened several times, as processes do: each with its own mapping, its own open file, its own participants.
//! What a process leaves that ends without a word, the others put right.

mod support;

use std::time::{Duration, Instant};

use multigil::barrier::Barrier;
use multigil::condition::Condition;
use multigil::error::{AcquireError, AttachError, BarrierError, OwnerDied, RegionError};
use multigil::event::{Parker, Patience};
use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::lock::{Lock, Owner, RLock};
use multigil::memory::Format;
use multigil::object::{Location, Message, Region, SharedBarrier, SharedCondition, SharedLock, SharedRLock, Watch};
use multigil::queue::Queue;
use multigil::waiters::Call;

use crate::support::limit;

fn region() -> (Region, PeerId) {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    (region, me)
}

/// The region as another process has it.
fn opened(region: &Region) -> (Region, PeerId) {
    let other = Region::open(region.file()).unwrap();
    let me = other.register().unwrap();
    (other, me)
}

fn get(region: &Region, me: PeerId, id: ObjectId) -> Vec<u8> {
    let queue = region.attach::<Queue>(id, me).unwrap();
    let mut message = Message::new(region, me);
    message.prepare(u64::MAX);
    queue.get(&mut message, region, me, None).unwrap();
    let mut bytes = vec![0; message.length()];
    message.read(0, &mut bytes);
    bytes
}

fn put(region: &Region, me: PeerId, id: ObjectId, bytes: &[u8], pins: &[(ObjectId, ObjectKind)]) {
    let queue = region.attach::<Queue>(id, me).unwrap();
    let mut message = Message::new(region, me);
    message.allocate(1, bytes.len(), pins).unwrap();
    message.write(0, bytes);
    queue.put(&mut message, region, me, None).unwrap();
}

#[test]
fn messages_go_from_one_to_the_other() {
    let _limit = limit(60);
    let (here, me) = region();
    let (there, other) = opened(&here);
    assert_ne!(me, other);
    assert_eq!(here.number(), there.number());
    let queue = here.create_queue(me, 0).unwrap();
    for length in [0, 1, 112, 113, 5000, 1 << 20, 100 << 20] {
        let bytes: Vec<u8> = (0..length).map(|place| place as u8).collect();
        put(&here, me, queue.id(), &bytes, &[]);
        assert_eq!(get(&there, other, queue.id()), bytes);
        put(&there, other, queue.id(), &bytes, &[]);
        assert_eq!(get(&here, me, queue.id()), bytes);
    }
    assert_eq!(here.statistics().memory.blocks, there.statistics().memory.blocks);
}

/// What a process had that has gone is given back, and what it had sent is still there.
#[test]
fn the_dead_leave_nothing_but_their_messages() {
    let _limit = limit(60);
    let (here, me) = region();
    let queue = here.create_queue(me, 0).unwrap();
    let before = here.statistics();
    let (there, other) = opened(&here);
    let own = there.create_queue(other, 0).unwrap();
    let inner = there.create_queue(other, 0).unwrap();
    put(&there, other, queue.id(), b"with a queue", &[(inner.id(), ObjectKind::Queue)]);
    let mut unsent = Message::new(&there, other);
    unsent.allocate(1, 10_000, &[(inner.id(), ObjectKind::Queue)]).unwrap();
    let memory = there.create_memory(other, Format { meaning: 0, width: 1 }, 1 << 20).unwrap();
    // The process ends: nothing of it is dropped, but its file is closed.
    let (own_id, inner_id, memory_id) = (own.id(), inner.id(), memory.id());
    core::mem::forget((own, inner, unsent, memory));
    assert_eq!(here.recover_dead(me), 0, "it lives");
    drop(there);
    assert_eq!(here.recover_dead(me), 1);
    assert_eq!(here.recover_dead(me), 0);
    assert!(matches!(here.attach::<Queue>(own_id, me), Err(AttachError::Gone)));
    assert!(matches!(here.attach::<Queue>(memory_id, me), Err(AttachError::Gone | AttachError::Corrupt)));
    drop(here.attach::<Queue>(inner_id, me).expect("the message that was put keeps it alive"));
    assert_eq!(get(&here, me, queue.id()), b"with a queue");
    assert!(matches!(here.attach::<Queue>(inner_id, me), Err(AttachError::Gone)));
    let after = here.statistics();
    assert_eq!((after.memory.blocks, after.memory.in_use), (before.memory.blocks, before.memory.in_use));
    assert_eq!((after.objects, after.peers), (before.objects, before.peers));
}

#[test]
fn names_lead_to_objects() {
    let _limit = limit(60);
    let name = format!("test-{}", std::process::id());
    assert!(Region::find(&name).unwrap().is_none());
    let here = Region::named(&name).unwrap();
    let there = Region::named(&name).unwrap();
    assert_eq!(here.number(), there.number());
    assert_eq!(here.location(), Location::Name(name.clone()));
    assert!(Region::names().unwrap().contains(&name));
    let (me, other) = (here.register().unwrap(), there.register().unwrap());
    let queue = here.create_queue(me, 0).unwrap();
    let named = (queue.id(), ObjectKind::Queue);
    here.give_name(me, 1, "inbox", named, None).unwrap();
    let lock = here.create_queue(me, 0).unwrap();
    let lock_id = (lock.id(), ObjectKind::Queue);
    assert!(here.give_name(me, 1, "inbox", lock_id, None).is_err());
    here.give_name(me, 2, "inbox", lock_id, None).unwrap();
    let id = queue.id();
    drop((queue, lock));
    assert_eq!(there.open_named::<Queue>(other, 1, "inbox").unwrap().id(), id);
    assert!(there.open_named::<Queue>(other, 1, "outbox").is_none());
    let mut names = there.object_names(other);
    names.sort_unstable();
    assert_eq!(names, [(1, "inbox".to_owned()), (2, "inbox".to_owned())]);
    assert!(there.take_name(other, 1, "inbox"));
    assert!(!there.take_name(other, 1, "inbox"));
    assert!(matches!(here.attach::<Queue>(id, me), Err(AttachError::Gone)));
    let (object, companion) = (here.create_queue(me, 0).unwrap(), here.create_queue(me, 0).unwrap());
    let (object_id, companion_id) = (object.id(), companion.id());
    let travelling = Some((companion_id, ObjectKind::Queue));
    here.give_name(me, 3, "two", (object_id, ObjectKind::Queue), travelling).unwrap();
    drop((object, companion));
    assert_eq!(there.find_name(other, 3, "two"), Some((object_id, Some(companion_id))));
    assert!(there.attach::<Queue>(companion_id, other).is_ok());
    assert!(there.take_name(other, 3, "two"));
    for id in [object_id, companion_id] {
        assert!(matches!(there.attach::<Queue>(id, other), Err(AttachError::Gone)));
    }
    assert!(Region::create_named(&name).unwrap().is_none(), "there is one");
    drop(here);
    assert!(Region::find(&name).unwrap().is_some(), "somebody uses it");
    drop(there);
    assert!(Region::find(&name).unwrap().is_none(), "the last one has taken it away");
    for bad in ["", "a/b", ".x", "a\0b", &"x".repeat(201)] {
        assert!(matches!(Region::named(bad), Err(RegionError::NoRegion(_))), "{bad:?}");
    }
}

/// What somebody waits for who died is given to those who live, and they wait no longer than it takes to find out.
#[test]
fn the_dead_are_not_waited_for() {
    let _limit = limit(60);
    let (here, me) = region();
    let lock = here.create_shared::<Lock>(me, |_| {}).unwrap();
    let again = here.create_shared::<RLock>(me, |_| {}).unwrap();
    let condition = here.create_shared::<Condition>(me, |_| {}).unwrap();
    let barrier = here.create_shared::<Barrier>(me, |barrier| barrier.initialize(2)).unwrap();
    let (there, other) = opened(&here);
    {
        let them = Owner { peer: other, thread: 7 };
        let lock = there.attach::<SharedLock>(lock.id(), other).unwrap();
        let again = there.attach::<SharedRLock>(again.id(), other).unwrap();
        let condition = there.attach::<SharedCondition>(condition.id(), other).unwrap();
        let barrier = there.attach::<SharedBarrier>(barrier.id(), other).unwrap();
        assert_eq!((lock.try_acquire(them), again.try_acquire(them)), (Ok(true), Ok(true)));
        core::mem::forget(condition.sit(&there, them).unwrap());
        core::mem::forget(barrier.try_arrive(&there, them).unwrap());
        core::mem::forget((lock, again, condition, barrier));
    }
    let us = Owner { peer: me, thread: 1 };
    let sitting = condition.sit(&here, us).unwrap();
    assert_eq!(condition.notify(&here, 1), 1); // the one that came first
    drop(there);

    let (parker, watch) = (Parker::default(), Watch { region: &here, me });
    let patience = Patience::new(None, Duration::ZERO, &parker).watching(&watch);
    let died = Err(AcquireError::OwnerDied(OwnerDied { peer: other.get(), thread: 7 }));
    let started = Instant::now();
    assert_eq!(lock.acquire(us, &patience), died);
    assert!(started.elapsed() < Duration::from_millis(100));
    assert_eq!(again.restore(us, 1, &patience), died);
    assert_eq!((lock.acquire(us, &patience), again.restore(us, 1, &patience)), (Ok(()), Ok(())));
    assert_eq!(sitting.wait(&patience), Ok(Call::Called));
    assert!(matches!(barrier.try_arrive(&here, us), Err(BarrierError::Broken)));
    assert_eq!(barrier.waiters().count(&here), 0);
}
