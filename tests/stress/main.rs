//! The engine under load, on real threads: every message exactly once and in order, every wake arrives, and in the end
//! nothing is held. What `tests/loom` proves for two or three steps is tried here for millions.
#![expect(clippy::disallowed_types, reason = "the tests' own flags are no part of the engine")]

#[cfg(feature = "faults")]
mod deaths;
mod primitives;
#[path = "../support/mod.rs"]
mod support;

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use multigil::barrier::{Arrival, Barrier};
use multigil::control::AnyQueue;
use multigil::error::{AcquireError, BarrierError, GetError, PutError, WaitError};
use multigil::event::{Bell, LOOKOUT_SLICE, Lookout, Parker, Patience, Watchable, wait_any};
use multigil::flag::Flag;
use multigil::layout::PeerId;
use multigil::lock::{Lock, Owner};
use multigil::object::{Handle, Message, Region};
use multigil::queue::{LARGE_BYTES, Queue};
use multigil::semaphore::Semaphore;
use multigil::waiters::Call;

use support::{limit, payload};

/// Waiting without spinning: every wait is a sleep, and every wake matters.
const NO_SPIN: Duration = Duration::ZERO;
const SPIN: Duration = Duration::from_micros(20);

fn region() -> (Region, PeerId) {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    (region, me)
}

/// Small numbers that look random: the same ones in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Mostly short ones, sometimes a block, seldom a large one.
    fn size(&mut self) -> usize {
        let size = match self.below(1000) {
            0 => 1 << 20,
            1..20 => 64 << 10,
            20..200 => self.below(5000),
            _ => self.below(120),
        };
        size as usize
    }
}

/// How threads wait: for ever, or again and again for a moment.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    spin: Duration,
    moments: bool,
}

impl Waiting {
    fn patience<'a>(self, dice: &mut Dice, parker: &'a Parker) -> Patience<'a> {
        let moment = self.moments.then(|| Instant::now() + Duration::from_micros(dice.below(300)));
        Patience::new(moment, self.spin, parker)
    }
}

/// Who produced a message, and which one of its messages it is; then the payload.
fn write(message: &mut Message<'_>, producer: u64, number: u64, size: usize) {
    let seed = producer << 32 | number;
    message.allocate(1, size + 8, &[]).unwrap();
    message.write(0, &seed.to_le_bytes());
    message.write(8, &payload(seed, size));
}

/// The same, and that the payload is intact.
fn read(message: &Message<'_>) -> (u64, u64) {
    let mut bytes = vec![0; message.length()];
    message.read(0, &mut bytes);
    let seed = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes[8..], payload(seed, bytes.len() - 8), "the payload is another one's");
    (seed >> 32, seed & 0xFFFF_FFFF)
}

/// Puts until the queue is shut down or `count` are in; how many are.
fn produce(queue: &Handle<'_, Queue>, producer: u64, count: u64, waiting: Waiting, parker: &Parker) -> u64 {
    let (region, me) = (queue.region(), queue.owner());
    let mut dice = Dice(producer);
    let mut message = Message::new(region, me);
    for number in 0..count {
        write(&mut message, producer, number, dice.size());
        loop {
            match queue.put(&mut message, region, me, Some(&waiting.patience(&mut dice, parker))) {
                Ok(()) => break,
                Err(PutError::Full) => assert!(waiting.moments),
                Err(PutError::Interrupted) => {
                    parker.take_interrupt();
                }
                Err(PutError::ShutDown) => return number,
                Err(error) => panic!("{error}"),
            }
        }
    }
    count
}

/// Gets until the queue is shut down and empty; what there was, by producer, whose messages come in order.
fn consume(queue: &Handle<'_, Queue>, producers: u64, waiting: Waiting, parker: &Parker) -> Vec<Vec<u64>> {
    let (region, me) = (queue.region(), queue.owner());
    let mut got = vec![Vec::new(); producers as usize];
    let mut dice = Dice(99);
    let mut message = Message::new(region, me);
    message.prepare(u64::MAX);
    loop {
        match queue.get(&mut message, region, me, Some(&waiting.patience(&mut dice, parker))) {
            Ok(()) => {
                let (producer, number) = read(&message);
                let before = &mut got[producer as usize];
                assert!(before.last().is_none_or(|last| *last < number), "{number} of {producer} comes too late");
                before.push(number);
            }
            Err(GetError::Empty) => assert!(waiting.moments),
            Err(GetError::Interrupted) => {
                parker.take_interrupt();
            }
            Err(GetError::ShutDown) => return got,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Interrupts everybody again and again until the end.
fn rain(parkers: &[Parker], end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        parkers.iter().for_each(Parker::interrupt);
        thread::sleep(Duration::from_micros(200));
    }
}

/// Everything that producers put is got once, in each producer's order.
fn exactly_once(producers: u64, consumers: u64, count: u64, maxsize: i64, waiting: Waiting, raining: bool) {
    let (region, me) = region();
    let queue = region.create_queue(me, maxsize).unwrap();
    let parkers: Vec<Parker> = (0..producers + consumers).map(|_| Parker::default()).collect();
    let end = AtomicBool::new(false);
    let mut got = vec![Vec::new(); producers as usize];
    thread::scope(|scope| {
        let (queue, parkers, end) = (&queue, &parkers[..], &end);
        if raining {
            scope.spawn(move || rain(parkers, end));
        }
        let producing: Vec<_> = (0..producers)
            .map(|producer| scope.spawn(move || produce(queue, producer, count, waiting, &parkers[producer as usize])))
            .collect();
        let consuming: Vec<_> = (producers..producers + consumers)
            .map(|consumer| scope.spawn(move || consume(queue, producers, waiting, &parkers[consumer as usize])))
            .collect();
        for producer in producing {
            assert_eq!(producer.join().unwrap(), count);
        }
        queue.shut_down(false, &region, me);
        for consumer in consuming {
            for (all, some) in got.iter_mut().zip(consumer.join().unwrap()) {
                all.extend(some);
            }
        }
        end.store(true, Ordering::Relaxed);
    });
    for mut numbers in got {
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..count), "each exactly once");
    }
    drop(queue);
    let memory = region.statistics().memory;
    assert_eq!((memory.blocks, memory.in_use), (0, 0));
}

#[test]
fn one_to_one() {
    let _limit = limit(120);
    for maxsize in [0, 1, 100] {
        exactly_once(1, 1, 10_000, maxsize, Waiting { spin: SPIN, moments: false }, false);
        exactly_once(1, 1, 5_000, maxsize, Waiting { spin: NO_SPIN, moments: false }, false);
    }
}

#[test]
fn many_to_many() {
    let _limit = limit(120);
    for maxsize in [0, 1, 5, 100] {
        exactly_once(4, 4, 3_000, maxsize, Waiting { spin: NO_SPIN, moments: false }, false);
        exactly_once(3, 5, 3_000, maxsize, Waiting { spin: SPIN, moments: false }, false);
    }
}

#[test]
fn many_to_many_with_timeouts() {
    let _limit = limit(120);
    for maxsize in [0, 1, 100] {
        exactly_once(3, 3, 3_000, maxsize, Waiting { spin: NO_SPIN, moments: true }, false);
    }
}

#[test]
fn many_to_many_with_interrupts() {
    let _limit = limit(120);
    for maxsize in [0, 1, 100] {
        exactly_once(3, 3, 3_000, maxsize, Waiting { spin: NO_SPIN, moments: false }, true);
        exactly_once(2, 2, 2_000, maxsize, Waiting { spin: NO_SPIN, moments: true }, true);
    }
}

/// A queue that is shut down at any moment: all that was let in is got, or thrown away if it is to be immediate.
#[test]
fn shutting_down_loses_nothing() {
    let _limit = limit(120);
    let (region, me) = region();
    let waiting = Waiting { spin: SPIN, moments: false };
    let mut dice = Dice(1);
    for round in 0..600 {
        let immediate = round % 3 == 0;
        let queue = region.create_queue(me, if round % 2 == 0 { 0 } else { 3 }).unwrap();
        let parkers: [Parker; 4] = Default::default();
        let pause = dice.below(20_000);
        thread::scope(|scope| {
            let (queue, parkers) = (&queue, &parkers);
            let producing =
                [0, 1].map(|n| scope.spawn(move || produce(queue, n, u64::MAX, waiting, &parkers[n as usize])));
            let consuming = [2, 3].map(|n| scope.spawn(move || consume(queue, 2, waiting, &parkers[n])));
            (0..pause).for_each(|_| spin_loop());
            queue.shut_down(immediate, &region, me);
            let put = producing.map(|producer| producer.join().unwrap());
            let got = consuming.map(|consumer| consumer.join().unwrap());
            let got_of = |producer: usize| got.iter().map(|got| got[producer].len() as u64).sum::<u64>();
            if !immediate {
                assert_eq!(put, [got_of(0), got_of(1)], "what was put is got");
            }
            assert_eq!(queue.unfinished(), got_of(0) + got_of(1), "what was thrown away counts as done");
        });
        assert_eq!(queue.len(), 0);
    }
    assert_eq!(region.statistics().memory.blocks, 0);
}

/// Puts messages in batches of various lengths until the queue is shut down or `count` are in; how many are.
fn produce_batches(queue: &Handle<'_, Queue>, producer: u64, count: u64, waiting: Waiting, parker: &Parker) -> u64 {
    let (region, me) = (queue.region(), queue.owner());
    let mut dice = Dice(producer);
    let mut done = 0;
    while done < count {
        let length = (1 + dice.below(50)).min(count - done);
        let mut messages: Vec<_> = (0..length).map(|_| Message::new(region, me)).collect();
        for (message, number) in messages.iter_mut().zip(done..) {
            write(message, producer, number, dice.size());
        }
        let mut put = 0;
        loop {
            match queue.put_many(&mut messages, &mut put, region, me, Some(&waiting.patience(&mut dice, parker))) {
                Ok(()) => break,
                Err(PutError::Full) => assert!(waiting.moments),
                Err(PutError::Interrupted) => {
                    parker.take_interrupt();
                }
                Err(PutError::ShutDown) => return done + put as u64,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(put as u64, length);
        done += length;
    }
    done
}

/// Looks until the queue is shut down and empty. What is seen gets no older.
fn peek(queue: &Handle<'_, Queue>, producers: u64, waiting: Waiting, parker: &Parker) {
    let (region, me) = (queue.region(), queue.owner());
    let mut last = vec![0; producers as usize];
    let mut dice = Dice(7);
    let mut message = Message::new(region, me);
    message.prepare(u64::MAX);
    loop {
        let patience = waiting.patience(&mut dice, parker);
        match queue.peek(&mut message, region, me, (dice.below(2) == 0).then_some(&patience)) {
            Ok(()) => {
                let (producer, number) = read(&message);
                let last = &mut last[producer as usize];
                assert!(*last <= number, "{number} of {producer} comes too late");
                *last = number;
            }
            Err(GetError::Empty) => thread::yield_now(),
            Err(GetError::Peeked) => drop(queue.settle(region, &patience)),
            Err(GetError::Interrupted) => {
                parker.take_interrupt();
            }
            Err(GetError::ShutDown) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// As `consume`, in batches; what there was, by producer.
fn consume_batches(queue: &Handle<'_, Queue>, producers: u64, waiting: Waiting, parker: &Parker) -> Vec<Vec<u64>> {
    let (region, me) = (queue.region(), queue.owner());
    let mut got = vec![Vec::new(); producers as usize];
    let mut dice = Dice(98);
    let mut message = Message::new(region, me);
    message.prepare(u64::MAX);
    loop {
        let mut batch = queue.batch(region, me);
        let patience = waiting.patience(&mut dice, parker);
        let mut waits = Some(&patience);
        for _ in 0..1 + dice.below(50) {
            match batch.get(&mut message, waits.take()) {
                Ok(()) => {
                    let (producer, number) = read(&message);
                    let before = &mut got[producer as usize];
                    assert!(before.last().is_none_or(|last| *last < number), "{number} of {producer} comes too late");
                    before.push(number);
                }
                Err(GetError::Empty | GetError::Peeked) => break,
                Err(GetError::Interrupted) => {
                    parker.take_interrupt();
                    break;
                }
                Err(GetError::ShutDown) => return got,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Batches and single messages at once, and some who only look: each message exactly once, in its producer's order.
#[test]
fn batches_and_peekers() {
    const COUNT: u64 = 2_000;
    let _limit = limit(120);
    let (region, me) = region();
    for (maxsize, moments, raining) in
        [(0, false, false), (1, false, false), (20, false, false), (0, true, true), (20, false, true), (1, true, true)]
    {
        let waiting = Waiting { spin: if maxsize == 20 { SPIN } else { NO_SPIN }, moments };
        let queue = region.create_queue(me, maxsize).unwrap();
        let parkers: [Parker; 6] = Default::default();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let (queue, [one, two, three, four, five, six]) = (&queue, &parkers);
            if raining {
                scope.spawn(|| rain(&parkers, &end));
            }
            let producing = [
                scope.spawn(move || produce(queue, 0, COUNT, waiting, one)),
                scope.spawn(move || produce_batches(queue, 1, COUNT, waiting, two)),
            ];
            for parker in [five, six] {
                scope.spawn(move || peek(queue, 2, waiting, parker));
            }
            let consuming = [
                scope.spawn(move || consume(queue, 2, waiting, three)),
                scope.spawn(move || consume_batches(queue, 2, waiting, four)),
            ];
            assert_eq!(producing.map(|producer| producer.join().unwrap()), [COUNT; 2]);
            queue.shut_down(false, &region, me);
            let mut got = consuming.map(|consumer| consumer.join().unwrap()).concat();
            let mut other = got.split_off(2);
            for (numbers, more) in got.iter_mut().zip(&mut other) {
                numbers.append(more);
                numbers.sort_unstable();
                assert!(numbers.iter().copied().eq(0..COUNT), "each exactly once");
            }
            end.store(true, Ordering::Relaxed);
        });
    }
    assert_eq!(region.statistics().memory.blocks, 0);
}

/// Those who look never make a queue seem empty that is not, even to those who don't wait.
#[test]
fn peeked_queue_is_not_empty() {
    let _limit = limit(120);
    let (region, me) = region();
    let waiting = Waiting { spin: NO_SPIN, moments: false };
    let queue = region.create_queue(me, 0).unwrap();
    let parkers: [Parker; 3] = Default::default();
    thread::scope(|scope| {
        let [one, two, three] = &parkers;
        assert_eq!(produce(&queue, 0, 5_000, waiting, one), 5_000);
        for parker in [two, three] {
            let queue = &queue;
            scope.spawn(move || peek(queue, 1, waiting, parker));
        }
        let mut message = Message::new(&region, me);
        message.prepare(u64::MAX);
        for expected in 0..5_000 {
            while let Err(error) = queue.get(&mut message, &region, me, None) {
                assert_eq!(error, GetError::Peeked);
                queue.settle(&region, &Patience::new(None, NO_SPIN, one)).unwrap();
            }
            assert_eq!(read(&message), (0, expected));
        }
        queue.shut_down(false, &region, me);
    });
}

/// A queue that is cleared again and again, and shut down at last: what is not got is thrown away, as done.
#[test]
fn clearing_loses_nothing_else() {
    let _limit = limit(120);
    let (region, me) = region();
    let waiting = Waiting { spin: SPIN, moments: false };
    let mut dice = Dice(2);
    for round in 0..200 {
        let queue = region.create_queue(me, if round % 2 == 0 { 0 } else { 10 }).unwrap();
        let parkers: [Parker; 6] = Default::default();
        let pauses: Vec<_> = (0..20).map(|_| dice.below(2_000)).collect();
        thread::scope(|scope| {
            let (queue, [one, two, three, four, five, six]) = (&queue, &parkers);
            scope.spawn(move || produce(queue, 0, u64::MAX, waiting, one));
            scope.spawn(move || produce_batches(queue, 1, u64::MAX, waiting, two));
            scope.spawn(move || peek(queue, 2, waiting, five));
            let consuming = [
                scope.spawn(move || consume(queue, 2, waiting, three)),
                scope.spawn(move || consume_batches(queue, 2, waiting, four)),
            ];
            for pause in pauses {
                (0..pause).for_each(|_| spin_loop());
                queue.clear(&region, me, &Patience::new(None, NO_SPIN, six)).unwrap();
            }
            queue.shut_down(round % 3 == 0, &region, me);
            let got = consuming.map(|consumer| consumer.join().unwrap()).concat();
            assert_eq!(queue.unfinished(), got.iter().map(|got| got.len() as u64).sum::<u64>());
        });
        assert_eq!(queue.len(), 0);
    }
    assert_eq!(region.statistics().memory.blocks, 0);
}

/// `join` returns when the last task is done, not before.
#[test]
fn join_waits_for_the_last_task() {
    let _limit = limit(120);
    let (region, me) = region();
    let done = AtomicU64::new(0);
    for round in 1..200 {
        let queue = region.create_queue(me, 0).unwrap();
        let tasks = round % 7 + 1;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let parker = Parker::default();
                    let mut message = Message::new(&region, me);
                    while queue.get(&mut message, &region, me, Some(&Patience::new(None, NO_SPIN, &parker))).is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                        queue.task_done(&region).unwrap();
                    }
                });
            }
            let before = done.load(Ordering::Relaxed);
            let mut message = Message::new(&region, me);
            for task in 0..tasks {
                message.set_word(1, task);
                queue.put(&mut message, &region, me, None).unwrap();
            }
            queue.join(&region, &Patience::new(None, NO_SPIN, &Parker::default())).unwrap();
            assert_eq!(done.load(Ordering::Relaxed), before + tasks);
            queue.shut_down(false, &region, me);
        });
        assert!(queue.task_done(&region).is_err());
    }
}

/// Two threads that wake each other through the kernel, each step: no wake is lost.
#[test]
fn ping_pong() {
    let _limit = limit(120);
    let (region, me) = region();
    let [there, back] = [(); 2].map(|()| region.create_queue(me, 1).unwrap());
    let pass = |from: &Handle<'_, Queue>, to: &Handle<'_, Queue>| {
        let parker = Parker::default();
        let patience = Patience::new(None, NO_SPIN, &parker);
        let mut message = Message::new(&region, me);
        for expected in 0..20_000 {
            from.get(&mut message, &region, me, Some(&patience)).unwrap();
            assert_eq!(message.first_word(), expected);
            message.set_word(1, expected + 1);
            to.put(&mut message, &region, me, Some(&patience)).unwrap();
            message.set_word(1, 0);
        }
    };
    let mut first = Message::new(&region, me);
    first.set_word(1, 0);
    there.put(&mut first, &region, me, None).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| pass(&there, &back));
        // The other end sends back what it got: the number that is expected next.
        let parker = Parker::default();
        let patience = Patience::new(None, NO_SPIN, &parker);
        let mut message = Message::new(&region, me);
        for _ in 0..20_000 {
            back.get(&mut message, &region, me, Some(&patience)).unwrap();
            there.put(&mut message, &region, me, Some(&patience)).unwrap();
        }
    });
}

/// One thread at a time holds the lock, whatever else happens to those who wait for it.
#[test]
fn lock_excludes() {
    const THREADS: u32 = 4;
    const ROUNDS: u64 = 10_000;
    let _limit = limit(120);
    let (region, me) = region();
    let lock = region.create_shared::<Lock>(me, |_| {}).unwrap();
    for (moments, raining) in [(false, false), (true, false), (false, true), (true, true)] {
        let count = AtomicU64::new(0);
        let end = AtomicBool::new(false);
        let parkers: [Parker; THREADS as usize] = Default::default();
        let work = |thread: u32| {
            let owner = Owner { peer: me, thread: thread + 1 };
            let parker = &parkers[thread as usize];
            let mut dice = Dice(thread.into());
            let waiting = Waiting { spin: NO_SPIN, moments };
            for _ in 0..ROUNDS {
                loop {
                    match lock.acquire(owner, &waiting.patience(&mut dice, parker)) {
                        Ok(()) => break,
                        Err(AcquireError::TimedOut) => assert!(moments),
                        Err(AcquireError::Interrupted) => {
                            parker.take_interrupt();
                        }
                        Err(AcquireError::OwnerDied(died)) => panic!("{died}"),
                    }
                }
                assert_eq!(Lock::owner(&lock), Some(owner));
                // Not an addition: two at a time would lose one.
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                lock.release(region.bell()).unwrap();
            }
        };
        thread::scope(|scope| {
            let work = &work;
            if raining {
                scope.spawn(|| rain(&parkers, &end));
            }
            let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            end.store(true, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), u64::from(THREADS) * ROUNDS);
        assert!(!lock.is_locked());
    }
}

/// An interrupt ends a wait without end, whether it comes before the sleep or during it; the next wait is a wait again.
#[test]
fn interrupt_ends_a_wait() {
    let _limit = limit(60);
    let (region, me) = region();
    let queue = region.create_queue(me, 0).unwrap();
    let parker = Parker::default();
    for pause in [0, 1, 10, 2000] {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut message = Message::new(&region, me);
                queue.get(&mut message, &region, me, Some(&Patience::new(None, NO_SPIN, &parker)))
            });
            thread::sleep(Duration::from_micros(pause));
            parker.interrupt();
            assert_eq!(waiter.join().unwrap(), Err(GetError::Interrupted));
        });
        assert!(parker.take_interrupt() && !parker.take_interrupt());
    }
    let started = Instant::now();
    let patience = Patience::new(Some(started + Duration::from_millis(50)), NO_SPIN, &parker);
    let mut message = Message::new(&region, me);
    assert_eq!(queue.get(&mut message, &region, me, Some(&patience)), Err(GetError::Empty));
    assert!(started.elapsed() >= Duration::from_millis(50));
}

/// A participant that died wakes nobody: whoever sleeps looks out by itself, even if it is woken for something else all
/// the time.
#[test]
fn sleepers_look_out() {
    let _limit = limit(60);
    #[derive(Debug)]
    struct Repair<'a>(&'a Semaphore);
    impl Lookout for Repair<'_> {
        fn look_out(&self) {
            self.0.release(PeerId::new(1).unwrap(), 1, &Bell::default()).unwrap();
        }
    }

    let (semaphore, flag, bell, parker) = (Semaphore::default(), Flag::default(), Bell::default(), Parker::default());
    let repair = Repair(&semaphore);
    for rung in [false, true] {
        let patience = Patience::new(None, NO_SPIN, &parker).watching(&repair);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while rung && !end.load(Ordering::Relaxed) {
                    bell.ring();
                    thread::sleep(LOOKOUT_SLICE / 10);
                }
            });
            let started = Instant::now();
            assert_eq!(wait_any(&[&flag, &semaphore], &bell, &patience), Ok(1));
            assert!(started.elapsed() < 10 * LOOKOUT_SLICE);
            end.store(true, Ordering::Relaxed);
        });
        assert_eq!(semaphore.acquire(PeerId::new(1).unwrap(), &bell, &patience), Ok(()));
        assert_eq!(semaphore.value(), 0, "once is enough");
    }
    // A time limit and a slice count from their beginning, not from the last time that the thread looked out.
    let patience = patience_in(Some(3 * LOOKOUT_SLICE), &parker).watching(&repair);
    assert_eq!(flag.wait(flag.now(), &bell, &patience), Err(WaitError::TimedOut));
    let patience = patience_in(None, &parker).watching(&repair).in_slices(3 * LOOKOUT_SLICE);
    let started = Instant::now();
    assert_eq!(flag.wait(flag.now(), &bell, &patience), Err(WaitError::Interrupted));
    assert!(started.elapsed() >= 3 * LOOKOUT_SLICE);
}

fn patience_in(limit: Option<Duration>, parker: &Parker) -> Patience<'_> {
    Patience::new(limit.map(|limit| Instant::now() + limit), NO_SPIN, parker)
}

/// A large message is only given to a consumer who is prepared for it, whoever else takes messages at the same time.
#[test]
fn large_messages_wait_for_the_prepared() {
    let _limit = limit(120);
    let (region, me) = region();
    let queue = region.create_queue(me, 4).unwrap();
    let put = |count: usize, length: usize| {
        let parker = Parker::default();
        let mut message = Message::new(&region, me);
        for _ in 0..count {
            message.allocate(1, length, &[]).unwrap();
            queue.put(&mut message, &region, me, Some(&Patience::new(None, SPIN, &parker))).unwrap();
        }
    };
    let get = || {
        let parker = Parker::default();
        let mut refused = 0;
        loop {
            let mut message = Message::new(&region, me);
            match queue.get(&mut message, &region, me, Some(&Patience::new(None, SPIN, &parker))) {
                Ok(()) => assert!(message.length() as u64 <= LARGE_BYTES, "nobody has prepared for it"),
                Err(GetError::Large(bytes)) => {
                    refused += 1;
                    message.prepare(bytes);
                    match queue.get(&mut message, &region, me, None) {
                        Ok(()) | Err(GetError::Empty) => {}
                        Err(GetError::ShutDown) => return refused,
                        Err(error) => panic!("{error}"),
                    }
                }
                Err(GetError::ShutDown) => return refused,
                Err(error) => panic!("{error}"),
            }
        }
    };
    thread::scope(|scope| {
        let consumers = [(); 3].map(|()| scope.spawn(get));
        let small = scope.spawn(|| put(30_000, 8));
        put(10_000, LARGE_BYTES as usize + 1);
        small.join().unwrap();
        queue.shut_down(false, &region, me);
        let refused: u64 = consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum();
        assert!(refused >= 10_000);
    });
}

/// Waits until one of the things is ready, however often it is disturbed, and gives its place.
fn first_ready(
    region: &Region,
    things: &[&dyn Watchable],
    waiting: Waiting,
    dice: &mut Dice,
    parker: &Parker,
) -> usize {
    loop {
        match wait_any(things, region.bell(), &waiting.patience(dice, parker)) {
            Ok(place) => return place,
            Err(WaitError::TimedOut) => assert!(waiting.moments),
            Err(WaitError::Interrupted) => {
                parker.take_interrupt();
            }
        }
    }
}

/// Takes what there is in any of the queues until all are shut down and empty; how many messages it were.
fn consume_any(queues: &[Handle<'_, Queue>], waiting: Waiting, parker: &Parker) -> u64 {
    let (region, me) = (queues[0].region(), queues[0].owner());
    let mut open: Vec<_> = queues.iter().collect();
    let (mut got, mut dice) = (0, Dice(7));
    while !open.is_empty() {
        let things: Vec<&dyn Watchable> = open.iter().map(|queue| *queue as &dyn Watchable).collect();
        let place = first_ready(region, &things, waiting, &mut dice, parker);
        let mut message = Message::new(region, me);
        match open[place].get(&mut message, region, me, None) {
            Ok(()) => got += 1,
            Err(GetError::Empty) => {} // somebody else was quicker
            Err(GetError::ShutDown) => drop(open.remove(place)),
            Err(error) => panic!("{error}"),
        }
    }
    got
}

/// Those who wait for any of several queues and those who wait for one: each message is got by somebody, and each hears
/// of the end. Whoever comes too late has taken nobody's wake.
#[test]
fn any_of_several_queues() {
    const COUNT: u64 = 4_000;
    let _limit = limit(120);
    for (moments, raining) in [(false, false), (true, false), (false, true)] {
        let (region, me) = region();
        let queues = [0, 1, 5].map(|maxsize| region.create_queue(me, maxsize).unwrap());
        let waiting = Waiting { spin: NO_SPIN, moments };
        let parkers: [Parker; 9] = Default::default();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let (region, queues, parkers) = (&region, &queues, &parkers);
            if raining {
                scope.spawn(|| rain(parkers, &end));
            }
            let watching = [0, 1, 2].map(|n| scope.spawn(move || consume_any(queues, waiting, &parkers[n])));
            let getting = [0, 1, 2].map(|n| {
                let get = move || consume_any(&queues[n..=n], waiting, &parkers[3 + n]);
                scope.spawn(get)
            });
            let putting = [0, 1, 2].map(|n| {
                let parker = &parkers[6 + n];
                scope.spawn(move || {
                    let (mut dice, mut message) = (Dice(n as u64), Message::new(region, me));
                    for number in 0..COUNT {
                        message.set_word(1, number);
                        while queues[n]
                            .put(&mut message, region, me, Some(&waiting.patience(&mut dice, parker)))
                            .is_err()
                        {
                            parker.take_interrupt();
                        }
                    }
                })
            });
            putting.into_iter().for_each(|producer| producer.join().unwrap());
            queues.iter().for_each(|queue| queue.shut_down(false, region, me));
            let got: u64 = watching.into_iter().chain(getting).map(|consumer| consumer.join().unwrap()).sum();
            assert_eq!(got, 3 * COUNT);
            end.store(true, Ordering::Relaxed);
        });
    }
}

/// Exactly as many are taken of each semaphore as were given, by one who waits for it and by two who wait for both: a
/// wake that is lost leaves somebody asleep for ever.
#[test]
fn any_of_several_semaphores() {
    const EACH: u64 = 4_000;
    let _limit = limit(120);
    for (moments, raining) in [(false, false), (true, false), (false, true), (true, true)] {
        let (region, me) = region();
        let semaphores = [(); 2].map(|()| region.create_shared::<Semaphore>(me, |_| {}).unwrap());
        let waiting = Waiting { spin: NO_SPIN, moments };
        let parkers: [Parker; 4] = Default::default();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let (region, semaphores, parkers) = (&region, &semaphores, &parkers);
            if raining {
                scope.spawn(|| rain(parkers, &end));
            }
            // How many each thread takes of each.
            let quotas = [[EACH, 0], [0, EACH], [EACH / 2, EACH / 2], [EACH / 2, EACH / 2]];
            let takers: Vec<_> = quotas
                .into_iter()
                .zip(parkers)
                .map(|(mut left, parker)| {
                    scope.spawn(move || {
                        let mut dice = Dice(left[0]);
                        loop {
                            let wanted: Vec<usize> = (0..2).filter(|n| left[*n] > 0).collect();
                            let taken = match wanted[..] {
                                [] => return,
                                [only] => {
                                    let patience = waiting.patience(&mut dice, parker);
                                    let taken = semaphores[only].acquire(me, region.bell(), &patience);
                                    parker.take_interrupt();
                                    taken.is_ok().then_some(only)
                                }
                                _ => {
                                    let things = [&semaphores[0] as &dyn Watchable, &semaphores[1]];
                                    let place = first_ready(region, &things, waiting, &mut dice, parker);
                                    semaphores[place].try_acquire(me).then_some(place)
                                }
                            };
                            if let Some(taken) = taken {
                                left[taken] -= 1;
                            }
                        }
                    })
                })
                .collect();
            for n in 0..4 * EACH {
                semaphores[n as usize % 2].release(me, 1, region.bell()).unwrap();
                if n % 64 == 0 {
                    thread::yield_now();
                }
            }
            takers.into_iter().for_each(|taker| taker.join().unwrap());
            end.store(true, Ordering::Relaxed);
        });
        assert_eq!(semaphores.map(|semaphore| semaphore.value()), [0, 0]);
    }
}

/// Who waits for any of several things, a lock among them, is told when the lock is free, and takes no wake from those who
/// wait for the lock alone.
#[test]
fn any_of_a_lock_and_others() {
    const ROUNDS: u64 = 4_000;
    let _limit = limit(120);
    for (moments, raining) in [(false, false), (true, false), (false, true)] {
        let (region, me) = region();
        let lock = region.create_shared::<Lock>(me, |_| {}).unwrap();
        let never = region.create_shared::<Flag>(me, |_| {}).unwrap();
        let waiting = Waiting { spin: NO_SPIN, moments };
        let parkers: [Parker; 4] = Default::default();
        let end = AtomicBool::new(false);
        let count = AtomicU64::new(0);
        let work = |thread: u32, parker: &Parker| {
            let owner = Owner { peer: me, thread };
            let (mut done, mut dice) = (0, Dice(thread.into()));
            while done < ROUNDS {
                let taken = if thread % 2 == 0 {
                    assert_eq!(first_ready(&region, &[&never, &lock], waiting, &mut dice, parker), 1);
                    lock.try_acquire(owner).unwrap()
                } else {
                    let taken = lock.acquire(owner, &waiting.patience(&mut dice, parker)).is_ok();
                    parker.take_interrupt();
                    taken
                };
                if taken {
                    assert_eq!(Lock::owner(&lock), Some(owner));
                    // Not an addition: two at a time would lose one.
                    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    lock.release(region.bell()).unwrap();
                    done += 1;
                }
            }
        };
        thread::scope(|scope| {
            if raining {
                scope.spawn(|| rain(&parkers, &end));
            }
            let work = &work;
            let working: Vec<_> =
                parkers.iter().zip(1..).map(|(parker, thread)| scope.spawn(move || work(thread, parker))).collect();
            working.into_iter().for_each(|worker| worker.join().unwrap());
            end.store(true, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 4 * ROUNDS);
        assert!(!lock.is_locked());
    }
}

/// Who has arrived can't be late: its time may be up while the last one acts.
#[test]
fn time_is_up_while_the_last_one_acts() {
    let (region, me) = region();
    let barrier = region.create_shared::<Barrier>(me, |barrier| barrier.initialize(2)).unwrap();
    let bell = region.bell();
    let arrive = |thread| barrier.try_arrive(&region, Owner { peer: me, thread }).unwrap();
    let Some(Arrival::Waiting(0, sitting)) = arrive(1) else { panic!("the first one waits") };
    let Some(Arrival::Last(last)) = arrive(2) else { panic!("the second one is the last") };
    assert!(arrive(3).is_none(), "the third one is of the next generation");
    assert!(!barrier.time_out(sitting.ticket(), &region, bell));
    assert_eq!((sitting.call(), last.release(&region, bell)), (None, Ok(())));
    assert!(!barrier.time_out(sitting.ticket(), &region, bell));
    assert_eq!(sitting.call(), Some(Call::Called));
    assert!(!barrier.is_broken());
}

/// A barrier lets all of a generation pass or none, whoever runs out of patience and when.
#[test]
fn barrier_passes_all_or_none() {
    const PARTIES: u32 = 20; // more than there are seats in the object itself
    const ROUNDS: u64 = 200;
    let _limit = limit(120);
    let (region, me) = region();
    let create = || region.create_shared::<Barrier>(me, |barrier| barrier.initialize(PARTIES)).unwrap();
    let (barrier, before, after) = (create(), create(), create());
    let rounds: Vec<(AtomicU64, AtomicU64)> = (0..ROUNDS).map(|_| Default::default()).collect();
    let pass = |barrier: &Barrier, thread: u32, deadline: Option<Instant>| {
        let (bell, parker) = (region.bell(), Parker::default());
        let patience = Patience::new(deadline, NO_SPIN, &parker);
        let endless = Patience::new(None, NO_SPIN, &parker);
        match barrier.arrive(&region, Owner { peer: me, thread }, bell, &endless)? {
            Arrival::Last(last) => {
                let index = last.index();
                thread::yield_now(); // it acts
                last.release(&region, bell).map(|()| index)
            }
            Arrival::Waiting(index, sitting) => {
                let call = match sitting.wait(&patience) {
                    Ok(call) => call,
                    Err(_) if barrier.time_out(sitting.ticket(), &region, bell) => return Err(BarrierError::TimedOut),
                    Err(_) => sitting.wait(&endless).unwrap(),
                };
                if call == Call::Called { Ok(index) } else { Err(BarrierError::Broken) }
            }
        }
    };
    thread::scope(|scope| {
        for thread in 1..=PARTIES {
            let (region, barrier, before, after, rounds, pass) = (&region, &barrier, &before, &after, &rounds, &pass);
            scope.spawn(move || {
                let mut dice = Dice(thread.into());
                for (round, (passed, indices)) in rounds.iter().enumerate() {
                    pass(before, thread, None).unwrap();
                    let patience = match (round, thread) {
                        // In the first round somebody comes too late; in the second, nobody cares.
                        (0, 1) => Some(0),
                        (0, PARTIES) => {
                            while !barrier.is_broken() {
                                thread::yield_now();
                            }
                            None
                        }
                        (0 | 1, _) => None,
                        _ => (dice.below(8) == 0).then(|| dice.below(500)),
                    };
                    let deadline = patience.map(|patience| Instant::now() + Duration::from_micros(patience));
                    if let Ok(index) = pass(barrier, thread, deadline) {
                        passed.fetch_add(1, Ordering::Relaxed);
                        indices.fetch_or(1 << index, Ordering::Relaxed);
                    }
                    if pass(after, thread, None).unwrap() == 0 {
                        barrier.reset(region, region.bell());
                    }
                }
            });
        }
    });
    let mut broken = 0;
    for (passed, indices) in rounds {
        match (passed.into_inner(), indices.into_inner()) {
            (0, 0) => broken += 1,
            (passed, indices) => assert_eq!((passed, indices), (PARTIES.into(), (1 << PARTIES) - 1)),
        }
    }
    assert!(0 < broken && broken < ROUNDS, "{broken} of {ROUNDS} rounds were broken");
    drop((barrier, before, after));
    let statistics = region.statistics();
    assert_eq!((statistics.memory.blocks, statistics.count(multigil::layout::ObjectKind::Bench)), (0, 0));
}
