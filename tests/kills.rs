//! A process is killed after every single instruction of an operation, and the others go on.
//!
//! The parent prepares a region and forks a child, which opens the region for itself, stops, and begins the operation.
//! The parent lets it make one instruction after the other (`PTRACE_SINGLESTEP`). After each one that has changed the
//! region's file it makes a copy of that. Nobody has a lock on the copy: in there, all who took part were killed at that
//! instruction. Whoever opens it then does what any survivor does, and checks what is left: an operation was done, or
//! it was not, and nothing is lost or held by the dead.
//!
//! A few times on the way the child itself is killed (`SIGKILL`), where the copy says that it may be: what the kernel
//! does then, with the real file, must be the same. To do that each time would take a time that grows with the square
//! of the number of instructions.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "fork and ptrace")]

mod support;

use multigil::control::AnyQueue;
use multigil::error::GetError;
use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::lock::{Lock, Owner};
use multigil::object::{Handle, Message, Region, SharedLock, SharedState};
use multigil::queue::Queue;

use crate::support::limit;
use crate::support::photograph::Photograph;

/// A participant: a region as a process has it, and a name in it.
#[derive(Clone, Copy)]
struct Peer {
    region: &'static Region,
    me: PeerId,
}

impl Peer {
    fn of(region: &'static Region) -> Peer {
        Peer { region, me: region.register().unwrap() }
    }

    fn owner(self) -> Owner {
        Owner { peer: self.me, thread: 1 }
    }
}

/// After each of so many instructions a child is killed in earnest, as far as the time allows.
const EARNEST: usize = 61;
const MOST_EARNEST: u32 = 1_200;

/// Has everybody die after each instruction of `operation`, and `check` look at what is left.
///
/// `prepare` makes what the operation is made on, whose ids `keep` gives, and `begin` what the child needs before it
/// begins. `check` gets a participant, beside whom all others are dead, and whether the operation was ended.
fn die_everywhere<S, B, K>(
    name: &str,
    prepare: impl Fn(Peer) -> S,
    keep: impl Fn(&S) -> K,
    begin: impl Fn(Peer, &S) -> B,
    operation: impl Fn(Peer, &S, &mut B),
    check: impl Fn(Peer, &K, bool),
) {
    // A child inherits the files of all tests, and lives when others' participants are to be dead.
    static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one = ONE.lock();
    let _limit = limit(120);
    let here = Peer::of(Box::leak(Box::new(Region::new().unwrap())));
    let state = prepare(here);
    let kept = keep(&state);
    let child = begin_child(here, &state, &begin, &operation);
    wait_until_stopped(child);
    let (mut steps, mut copies) = (0, 0);
    let look = |region: Region, kept: &K, ended: bool| {
        let region = Box::into_raw(Box::new(region));
        // SAFETY: it is there until all that was made of it here is gone.
        let survivor = Peer::of(unsafe { &*region });
        check(survivor, kept, ended);
        survivor.region.leave(survivor.me);
        // SAFETY: it was made so, and nothing is left of it.
        drop(unsafe { Box::from_raw(region) });
    };
    let mut last = Photograph::of(here.region);
    look(last.open().unwrap(), &kept, false);
    loop {
        let ended = !step(child);
        let now = Photograph::of(here.region);
        if ended || now != last {
            look(now.open().unwrap(), &kept, ended);
            copies += 1;
            last = now;
        }
        if ended {
            break;
        }
        steps += 1;
    }
    println!("{name}: {steps} instructions, {copies} of them changed the region");
    for killed_after in (0..steps.min(MOST_EARNEST)).step_by(EARNEST) {
        let region = Box::into_raw(Box::new(Region::new().unwrap()));
        // SAFETY: it is there until all that was made of it here is gone.
        let here = Peer::of(unsafe { &*region });
        let state = prepare(here);
        let kept = keep(&state);
        let child = begin_child(here, &state, &begin, &operation);
        wait_until_stopped(child);
        let ended = (0..killed_after).any(|_| !step(child)); // it need not be as many instructions each time
        if !ended {
            // SAFETY: the child is ours.
            unsafe { libc::kill(child, libc::SIGKILL) };
            assert!(libc::WIFSIGNALED(wait_for(child)));
        }
        let survivor = Region::open(here.region.file()).unwrap();
        // Here all die, too, without a word.
        core::mem::forget(state);
        // SAFETY: nothing that is left of it is used.
        drop(unsafe { Box::from_raw(region) });
        look(survivor, &kept, ended);
    }
}

/// A child that stops when it is about to begin the operation.
fn begin_child<S, B>(
    here: Peer,
    state: &S,
    begin: &impl Fn(Peer, &S) -> B,
    operation: &impl Fn(Peer, &S, &mut B),
) -> libc::pid_t {
    // SAFETY: the child only uses what it makes itself, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        let there = Peer::of(Box::leak(Box::new(Region::open(here.region.file()).unwrap())));
        let mut begun = begin(there, state);
        // SAFETY: no memory is passed.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            operation(there, state, &mut begun);
            libc::_exit(0);
        }
    }
    child
}

fn wait_for(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel fills the live number.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

fn wait_until_stopped(child: libc::pid_t) {
    assert!(libc::WIFSTOPPED(wait_for(child)), "the child stops before it begins");
}

/// Lets the child make one instruction; false if it has ended.
fn step(child: libc::pid_t) -> bool {
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) }, 0);
    let status = wait_for(child);
    if libc::WIFEXITED(status) {
        assert_eq!(libc::WEXITSTATUS(status), 0);
        return false;
    }
    assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP, "{status:#x}");
    true
}

/// What a survivor has of an object when all others are dead and have been put right.
fn survive<T: SharedState>(peer: Peer, id: ObjectId) -> Handle<'static, T> {
    let object = peer.region.attach(id, peer.me).unwrap();
    recover(peer);
    object
}

fn recover(peer: Peer) {
    assert!(peer.region.recover_dead(peer.me) >= 1);
    assert_eq!(peer.region.statistics().peers, 1);
}

/// The dead hold nothing: with these things of the survivor's, all is gone.
fn nothing_is_left<T>(peer: Peer, last: T) {
    drop(last);
    let left = peer.region.statistics();
    assert_eq!(left.memory.blocks, 0, "{left:?}");
}

// ---------------------------------------------------------------------------------------------- queues

/// A message of that number, in its slot or in a block.
fn message(peer: Peer, number: u64, length: usize) -> Message<'static> {
    let mut message = Message::new(peer.region, peer.me);
    message.allocate(1, length, &[]).unwrap();
    message.write(0, &number.to_ne_bytes());
    message.write(length - 8, &number.to_ne_bytes());
    message
}

/// The number of a message, which is whole.
fn number(message: &Message<'_>, length: usize) -> u64 {
    assert_eq!(message.length(), length);
    let mut ends = [[0; 8]; 2];
    message.read(0, &mut ends[0]);
    message.read(length - 8, &mut ends[1]);
    assert_eq!(ends[0], ends[1], "half a message was delivered");
    u64::from_ne_bytes(ends[0])
}

type Shared = Handle<'static, Queue>;

fn put(peer: Peer, queue: &Shared, message: &mut Message<'_>) {
    queue.put(message, peer.region, peer.me, None).unwrap();
}

fn get(peer: Peer, queue: &Shared) -> Result<Message<'static>, GetError> {
    let mut message = Message::new(peer.region, peer.me);
    queue.get(&mut message, peer.region, peer.me, None).map(|()| message)
}

/// The numbers of all messages in the queue.
fn drain(peer: Peer, queue: &Shared, length: usize) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        match get(peer, queue) {
            Ok(message) => found.push(number(&message, length)),
            Err(error) => {
                assert_eq!(error, GetError::Empty);
                return found;
            }
        }
    }
}

/// A queue in which so many messages have come and gone, and so many are, numbered from 0.
fn filled(peer: Peer, gone: u64, there: u64, length: usize) -> Shared {
    let queue = peer.region.create_queue(peer.me, 0).unwrap();
    for _ in 0..gone {
        put(peer, &queue, &mut message(peer, 0, length));
        get(peer, &queue).unwrap();
        queue.task_done(peer.region).unwrap();
    }
    (0..there).for_each(|number| put(peer, &queue, &mut message(peer, number, length)));
    queue
}

/// The same queue as the child has it.
fn attached(peer: Peer, queue: &Shared) -> Shared {
    peer.region.attach(queue.id(), peer.me).unwrap()
}

/// The states of a ring of 32 slots: empty, half full, at its end, and full, where another one is linked.
const STATES: [(&str, u64, u64); 4] = [("empty", 0, 0), ("half full", 0, 16), ("wrapping", 31, 1), ("full", 0, 32)];

/// A queue goes on as any other: nobody waits for the dead, and no task is counted that was not put.
fn goes_on(peer: Peer, queue: &Shared, length: usize) {
    assert_eq!(queue.len(), 0);
    for _ in 0..queue.unfinished() {
        queue.task_done(peer.region).unwrap();
    }
    (0..70).for_each(|number| put(peer, queue, &mut message(peer, number, length)));
    assert_eq!((queue.len(), queue.unfinished()), (70, 70));
    assert_eq!(drain(peer, queue, length), (0..70).collect::<Vec<_>>());
}

/// The message is in the queue, whole, or it is not; all others are, in their order.
fn producers(length: usize) {
    for (state, gone, there) in STATES {
        die_everywhere(
            &format!("put of {length} bytes, {state}"),
            |peer| filled(peer, gone, there, length),
            Handle::id,
            |peer, queue| (attached(peer, queue), message(peer, 99, length)),
            |peer, _, (queue, message)| put(peer, queue, message),
            |peer, id, ended| {
                let queue = survive::<Queue>(peer, *id);
                let unfinished = queue.unfinished();
                let found = drain(peer, &queue, length);
                let is_there = found.last() == Some(&99);
                assert!(is_there || !ended, "an acknowledged message is lost");
                let others: Vec<u64> = (0..there).collect();
                assert_eq!(&found[..found.len() - usize::from(is_there)], others);
                assert_eq!(unfinished, found.len() as u64);
                goes_on(peer, &queue, length);
                nothing_is_left(peer, queue);
            },
        );
    }
}

#[test]
fn producers_of_short_messages() {
    producers(16);
}

#[test]
fn producers_of_long_messages() {
    producers(200);
}

/// The message was got, or the next consumer gets it; all others are there, in their order.
fn consumers(length: usize) {
    for (state, gone, there) in STATES.into_iter().skip(1).chain([("grown", 0, 40)]) {
        die_everywhere(
            &format!("get of {length} bytes, {state}"),
            |peer| filled(peer, gone, there, length),
            Handle::id,
            attached,
            |peer, _, queue| drop(get(peer, queue).unwrap()),
            |peer, id, ended| {
                let queue = survive::<Queue>(peer, *id);
                assert_eq!(queue.unfinished(), there);
                let found = drain(peer, &queue, length);
                let was_got = found.first() != Some(&0);
                assert!(was_got || !ended, "a message that was got is delivered again");
                assert_eq!(found, (u64::from(was_got)..there).collect::<Vec<_>>());
                goes_on(peer, &queue, length);
                nothing_is_left(peer, queue);
            },
        );
    }
}

#[test]
fn consumers_of_short_messages() {
    consumers(16);
}

#[test]
fn consumers_of_long_messages() {
    consumers(200);
}

// ---------------------------------------------------------------------------------------------- locks

/// The lock is held by nobody, and whoever takes it next is told if its owner died with it.
#[test]
fn owners() {
    die_everywhere(
        "acquire and release of a lock",
        |peer| peer.region.create_shared::<Lock>(peer.me, |_| {}).unwrap(),
        Handle::id,
        |peer, lock| peer.region.attach::<SharedLock>(lock.id(), peer.me).unwrap(),
        |peer, _, lock| {
            assert_eq!(lock.try_acquire(peer.owner()), Ok(true));
            lock.release(peer.region.bell()).unwrap();
        },
        |peer, id, ended| {
            let lock = survive::<SharedLock>(peer, *id);
            let first = lock.try_acquire(peer.owner());
            if first.is_err() {
                assert!(!ended);
                assert_eq!(lock.try_acquire(peer.owner()), Ok(true), "it is said once, and the lock is free then");
            } else {
                assert_eq!(first, Ok(true));
            }
            lock.release(peer.region.bell()).unwrap();
            nothing_is_left(peer, lock);
        },
    );
}

// ---------------------------------------------------------------------------------------------- objects

/// A message that holds the only reference to another queue: that lives as long as the message, and no longer.
#[test]
fn references() {
    die_everywhere(
        "put of a queue in a queue, and the end of its last handle",
        |peer| filled(peer, 0, 0, 16),
        Handle::id,
        |peer, queue| (attached(peer, queue), Some(peer.region.create_queue(peer.me, 0).unwrap())),
        |peer, _, (queue, inner)| {
            let mut message = Message::new(peer.region, peer.me);
            message.allocate(1, 16, &[(inner.as_ref().unwrap().id(), ObjectKind::Queue)]).unwrap();
            put(peer, queue, &mut message);
            drop(inner.take());
        },
        |peer, id, ended| {
            let queue = survive::<Queue>(peer, *id);
            let count = peer.region.statistics().count(ObjectKind::Queue);
            assert_eq!(count, 1 + queue.len(), "the message keeps the other queue, and nothing else does");
            assert!(queue.len() == 1 || !ended);
            drop(get(peer, &queue));
            assert_eq!(peer.region.statistics().count(ObjectKind::Queue), 1);
            nothing_is_left(peer, queue);
        },
    );
}

/// A queue with messages, large and small, one with a reference in it, is ended by its last handle.
#[test]
fn ends() {
    die_everywhere(
        "the end of a queue",
        |_| (),
        |()| (),
        |peer, ()| {
            let queue = filled(peer, 0, 3, 200);
            let inner = peer.region.create_queue(peer.me, 0).unwrap();
            let mut message = Message::new(peer.region, peer.me);
            message.allocate(1, 16, &[(inner.id(), ObjectKind::Queue)]).unwrap();
            put(peer, &queue, &mut message);
            (0..30).for_each(|number| put(peer, &queue, &mut self::message(peer, number, 16)));
            Some(queue)
        },
        |_, (), queue| drop(queue.take()),
        |peer, (), _| {
            recover(peer);
            nothing_is_left(peer, ());
        },
    );
}

/// Opening a region, taking part, and leaving.
#[test]
fn participants() {
    die_everywhere(
        "opening a region and leaving it",
        |peer| filled(peer, 0, 1, 16),
        Handle::id,
        |_, _| (),
        |peer, queue, ()| {
            let other = Peer::of(Box::leak(Box::new(Region::open(peer.region.file()).unwrap())));
            drop(attached(other, queue));
            other.region.leave(other.me);
        },
        |peer, id, _| {
            let queue = survive::<Queue>(peer, *id);
            assert_eq!(drain(peer, &queue, 16), [0]);
            nothing_is_left(peer, queue);
        },
    );
}

/// What a recoverer leaves that is killed, the next one puts right.
#[test]
fn recoverers() {
    die_everywhere(
        "recovery of one who died with a queue, a message in hand and a lock",
        |peer| (filled(peer, 0, 2, 200), peer.region.create_shared::<Lock>(peer.me, |_| {}).unwrap()),
        |(queue, lock)| (queue.id(), lock.id()),
        |peer, (queue, lock)| {
            let dead = Peer::of(Box::leak(Box::new(Region::open(peer.region.file()).unwrap())));
            let lock = dead.region.attach::<SharedLock>(lock.id(), dead.me).unwrap();
            assert_eq!(lock.try_acquire(dead.owner()), Ok(true));
            let queue = attached(dead, queue);
            let got = get(dead, &queue).unwrap();
            core::mem::forget((lock, queue, got, dead.region.create_queue(dead.me, 0).unwrap()));
            // SAFETY: nothing of it is used any more; its file is closed, and so it is dead.
            drop(unsafe { Box::from_raw(core::ptr::from_ref(dead.region).cast_mut()) });
        },
        |peer, _, ()| assert_eq!(peer.region.recover_dead(peer.me), 1),
        |peer, (queue, lock), _| {
            let queue = peer.region.attach::<Queue>(*queue, peer.me).unwrap();
            let lock = survive::<SharedLock>(peer, *lock);
            assert!(lock.try_acquire(peer.owner()).is_err());
            assert_eq!(lock.try_acquire(peer.owner()), Ok(true));
            assert_eq!(drain(peer, &queue, 200), [1]);
            nothing_is_left(peer, (queue, lock));
        },
    );
}
