//! Queues with a participant that dies: at each fault point on its way, one after the other. The others put right what
//! it left, and nothing that was acknowledged is lost, half-written or there twice.
#![cfg(feature = "faults")]

mod support;

use std::mem::{ManuallyDrop, forget};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use multigil::control::AnyQueue;
use multigil::error::GetError;
use multigil::fault::until_killed;
use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::object::{Handle, Message, Region};
use multigil::queue::Queue;

use crate::support::{limit, payload};

/// A region as one process has it.
struct Process {
    region: Region,
    me: PeerId,
}

impl Process {
    fn new() -> Process {
        let region = Region::new().unwrap();
        let me = region.register().unwrap();
        Process { region, me }
    }

    /// Another one with the same region.
    fn other(&self) -> Process {
        let region = Region::open(self.region.file()).unwrap();
        let me = region.register().unwrap();
        Process { region, me }
    }

    /// What the process does until it is killed at the point that it reaches after so many others; false if it does not
    /// reach it. Either way it ends then, and nothing of it is dropped but its memory and its file.
    fn until_killed(self, points: u32, action: impl FnOnce(&Process)) -> bool {
        until_killed(points, || action(&self)).is_err()
    }

    fn message(&self) -> ManuallyDrop<Message<'_>> {
        let mut message = Message::new(&self.region, self.me);
        message.prepare(u64::MAX);
        ManuallyDrop::new(message)
    }

    /// A message that is a number, in a slot or in a block, or that keeps an object alive, too.
    fn number(&self, number: u64, inner: Option<ObjectId>) -> ManuallyDrop<Message<'_>> {
        let mut message = self.message();
        let length = if number % 3 == 1 { 700 } else { 8 };
        let pins = inner.filter(|_| number % 3 == 2).map(|id| (id, ObjectKind::Queue));
        message.allocate(1, length, pins.as_slice()).unwrap();
        message.write(0, &number.to_ne_bytes());
        message.write(8, &payload(number, length - 8));
        message
    }

    fn queue(&self, id: ObjectId) -> ManuallyDrop<Handle<'_, Queue>> {
        ManuallyDrop::new(self.region.attach(id, self.me).unwrap())
    }

    fn put(&self, queue: &Queue, number: u64, inner: Option<ObjectId>) {
        let mut message = self.number(number, inner);
        queue.put(&mut message, &self.region, self.me, None).unwrap();
    }

    fn get(&self, queue: &Queue) -> Result<(u64, bool), GetError> {
        let mut message = self.message();
        queue.get(&mut message, &self.region, self.me, None)?;
        let got = (number_of(&message), message.is_redelivered());
        drop(ManuallyDrop::into_inner(message));
        Ok(got)
    }
}

fn number_of(message: &Message<'_>) -> u64 {
    let mut bytes = vec![0; message.length()];
    message.read(0, &mut bytes);
    let (first, rest) = bytes.split_first_chunk().unwrap();
    let number = u64::from_ne_bytes(*first);
    assert_eq!(rest, payload(number, rest.len()), "half-written");
    number
}

/// How a queue is when somebody comes who will die: messages that were put and got, and that are put then.
const STATES: [(&str, u64, u64); 6] = [
    ("empty", 0, 0),
    ("half full", 0, 16),
    ("full", 0, 32),
    ("wrapping", 20, 30),
    ("at the end of the second ring", 0, 96),
    ("with a ring to give back", 31, 3),
];

/// What somebody does, as it says itself: it may be killed before it says so.
#[derive(Default)]
struct Said {
    /// Numbers that were put, and those that might be.
    put: Vec<u64>,
    might_put: Vec<u64>,
    /// Numbers that were got, and how many more it might have got.
    got: Vec<u64>,
    might_have_got: usize,
    acknowledged: Vec<u64>,
    might_acknowledge: bool,
    shut_down: bool,
    emptied: bool,
}

type Act = fn(&Process, &Queue, ObjectId, &mut Said);

const ACTS: [(&str, Act); 8] = [
    ("put", |process, queue, inner, said| {
        for number in 1000..1004 {
            said.might_put.push(number);
            process.put(queue, number, Some(inner));
            said.put.push(number);
        }
    }),
    ("put many", |process, queue, inner, said| {
        let mut messages: Vec<_> = (1000..1012).map(|number| process.number(number, Some(inner))).collect();
        said.might_put.extend(1000..1012);
        // As the slice that it is but for its destructors.
        let mut batch: Vec<Message<'_>> = messages.drain(..).map(ManuallyDrop::into_inner).collect();
        let mut put = 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            queue.put_many(&mut batch, &mut put, &process.region, process.me, None).unwrap();
        }));
        forget(batch);
        said.put.extend(1000..1000 + put as u64);
        result.unwrap_or_else(|reason| resume_unwind(reason));
    }),
    ("get", |process, queue, _, said| {
        for _ in 0..4 {
            said.might_have_got = 1;
            said.got.extend(process.get(queue).map(|(number, _)| number));
            said.might_have_got = 0;
        }
    }),
    ("get many", |process, queue, _, said| {
        let mut batch = ManuallyDrop::new(queue.batch(&process.region, process.me));
        for _ in 0..40 {
            let mut message = process.message();
            said.might_have_got = 1;
            if batch.get(&mut message, None).is_ok() {
                said.got.push(number_of(&message));
            }
            said.might_have_got = 0;
            drop(ManuallyDrop::into_inner(message));
        }
        batch.tell();
    }),
    ("get and report done", |process, queue, _, said| {
        for _ in 0..4 {
            said.might_have_got = 1;
            let Ok((number, _)) = process.get(queue) else { break };
            said.got.push(number);
            said.might_have_got = 0;
            said.might_acknowledge = true;
            queue.task_done(&process.region).unwrap();
            said.might_acknowledge = false;
            said.acknowledged.push(number);
        }
        said.might_have_got = 0;
    }),
    ("peek", |process, queue, _, _| {
        for _ in 0..2 {
            let mut message = process.message();
            if queue.peek(&mut message, &process.region, process.me, None).is_ok() {
                number_of(&message);
            }
            drop(ManuallyDrop::into_inner(message));
        }
    }),
    ("shut down", |process, queue, _, said| {
        said.shut_down = true;
        queue.shut_down(false, &process.region, process.me);
    }),
    ("shut down at once", |process, queue, _, said| {
        (said.shut_down, said.emptied) = (true, true);
        queue.shut_down(true, &process.region, process.me);
    }),
];

/// One death; false if the process is not killed, because it does not come by so many points.
fn die(redelivers: bool, state: (&str, u64, u64), act: (&str, Act), point: u32, recoverer: Option<u32>) -> [bool; 2] {
    let here = Process::new();
    let inner = here.region.create_queue(here.me, 0).unwrap();
    let before = here.region.statistics();
    let queue = here.region.create_queue(here.me, 0).unwrap();
    assert!(queue.set_redelivers(redelivers, &here.region, here.me));
    for number in 0..state.1 {
        here.put(&queue, number, Some(inner.id()));
        assert_eq!(here.get(&queue), Ok((number, false)));
        queue.task_done(&here.region).unwrap();
    }
    let initial: Vec<u64> = (state.1..state.1 + state.2).collect();
    initial.iter().for_each(|number| here.put(&queue, *number, Some(inner.id())));

    let mut said = Said::default();
    let victim = here.other();
    let is_killed =
        victim.until_killed(point, |process| act.1(process, &process.queue(queue.id()), inner.id(), &mut said));
    let about = format!("{} of a queue that is {}, at point {point}, redelivering: {redelivers}", act.0, state.0);

    let mut is_recoverer_killed = false;
    if let Some(point) = recoverer {
        let recoverer = here.other();
        is_recoverer_killed = recoverer.until_killed(point, |process| {
            process.region.recover_dead(process.me);
        });
    }
    here.region.recover_dead(here.me);
    assert_eq!(here.region.recover_dead(here.me), 0, "{about}");

    let count = queue.len();
    let mut left = Vec::new();
    loop {
        match here.get(&queue) {
            Ok(got) => left.push(got),
            Err(GetError::Empty) => break,
            Err(GetError::ShutDown) if said.shut_down => break,
            Err(error) => panic!("{about}: {error}"),
        }
        queue.task_done(&here.region).unwrap();
    }
    assert!(count == left.len() as u64 && queue.len() == 0, "{about}: {count} for {left:?}");

    let numbers: Vec<u64> = left.iter().map(|(number, _)| *number).collect();
    // All that was put is there, and of the rest as much as was ready, in its order.
    let theirs: Vec<u64> = numbers.iter().copied().filter(|number| *number >= 1000).collect();
    if !said.emptied {
        assert!(theirs.starts_with(&said.put) && said.might_put.starts_with(&theirs), "{about}: {theirs:?}");
    }
    let old: Vec<u64> = numbers.iter().copied().filter(|number| *number < 1000).collect();
    assert!(old.is_sorted_by(|one, other| one < other), "{about}: in order, and once: {old:?}");
    if !said.emptied {
        let gone: Vec<u64> = initial.iter().copied().filter(|number| !old.contains(number)).collect();
        if redelivers {
            let most = said.acknowledged.len() + usize::from(said.might_acknowledge);
            assert!(gone.starts_with(&said.acknowledged) && gone.len() <= most, "{about}: lost {gone:?}");
        } else {
            let most = said.got.len() + said.might_have_got;
            assert!(gone.starts_with(&said.got) && gone.len() <= most, "{about}: lost {gone:?}");
        }
    }
    for (number, is_redelivered) in &left {
        if said.got.contains(number) {
            assert!(*is_redelivered, "{about}: {number} was got before");
        } else if said.might_have_got == 0 {
            assert!(!is_redelivered || act.0 == "peek", "{about}: {number} was never got");
        }
    }
    // Each message that was put counts once, but for those that never came to be.
    let got_and_not_done =
        if redelivers { 0 } else { initial.len() + theirs.len() - left.len() - said.acknowledged.len() };
    if !said.emptied && act.0 != "get and report done" {
        assert_eq!(queue.unfinished(), got_and_not_done as u64, "{about}");
    }
    // It serves others as before.
    if !said.shut_down {
        for number in 2000..2100 {
            here.put(&queue, number, Some(inner.id()));
            assert_eq!(here.get(&queue), Ok((number, false)), "{about}");
            queue.task_done(&here.region).unwrap();
        }
    }
    drop(queue);
    let after = here.region.statistics();
    assert_eq!((after.memory.blocks, after.objects), (before.memory.blocks, before.objects), "{about}");
    [is_killed, is_recoverer_killed]
}

fn die_everywhere(redelivers: bool) {
    let _limit = limit(300);
    for state in STATES {
        for act in ACTS {
            let deaths = (0..).take_while(|point| die(redelivers, state, act, *point, None)[0]).count();
            println!("{}, {}: {deaths} deaths", act.0, state.0);
            assert!(deaths > 0 || state.2 == 0, "{} comes by a point", act.0);
        }
    }
}

/// Who ends in good order leaves what it did not acknowledge, too, and nothing else.
#[test]
fn unacknowledged_messages_come_back_from_who_leaves() {
    let _limit = limit(60);
    let here = Process::new();
    let inner = here.region.create_queue(here.me, 0).unwrap();
    let queue = here.region.create_queue(here.me, 0).unwrap();
    assert!(queue.set_redelivers(true, &here.region, here.me));
    let before = here.region.statistics();
    for _ in 0..3 {
        (0..9).for_each(|number| here.put(&queue, number, Some(inner.id())));
        let there = here.region.register().unwrap();
        let mut message = Message::new(&here.region, there);
        for _ in 0..5 {
            queue.get(&mut message, &here.region, there, None).unwrap();
        }
        queue.task_done(&here.region).unwrap();
        drop(message);
        assert_eq!((queue.len(), queue.unfinished()), (4, 8));
        here.region.leave(there);
        assert_eq!((queue.len(), queue.unfinished()), (8, 8));
        for number in 1..9 {
            assert_eq!(here.get(&queue), Ok((number, number < 5)));
            assert_eq!(queue.is_redelivered(&here.region), number < 5);
            queue.task_done(&here.region).unwrap();
        }
    }
    let after = here.region.statistics();
    assert_eq!((after.memory.blocks, after.objects, after.peers), (before.memory.blocks, before.objects, before.peers));
}

/// Somebody who does not wait finds out, too, that the oldest message's producer is dead.
#[test]
fn who_does_not_wait_finds_the_dead() {
    let _limit = limit(60);
    for point in 0..4 {
        let here = Process::new();
        let queue = here.region.create_queue(here.me, 0).unwrap();
        let victim = here.other();
        assert!(victim.until_killed(point, |process| process.put(&process.queue(queue.id()), 0, None)));
        here.put(&queue, 1, None);
        let mut got = here.get(&queue);
        while got == Err(GetError::Empty) {
            got = here.get(&queue); // others look for the dead once in a while only
        }
        assert!(matches!(got, Ok((0 | 1, false))), "{got:?}");
    }
}

#[test]
fn queue_survives() {
    die_everywhere(false);
}

#[test]
fn redelivering_queue_survives() {
    die_everywhere(true);
}

/// Whoever puts it right may be killed, too.
#[test]
fn recovery_survives() {
    let _limit = limit(300);
    for (redelivers, act) in [(false, ACTS[1]), (false, ACTS[3]), (true, ACTS[4])] {
        let mut deaths = 0;
        // Of several messages, the first one's points and a later one's.
        for point in (0..).step_by(31) {
            let is_killed = |recoverer| die(redelivers, STATES[1], act, point, Some(recoverer));
            deaths += (0..).take_while(|recoverer| is_killed(*recoverer) == [true; 2]).count();
            if !is_killed(0)[0] {
                break;
            }
        }
        println!("{}: {deaths} deaths of two", act.0);
        assert!(deaths > 100);
    }
}
