//! The engine beside its peers: queues of crossbeam, locks of the standard library and parking_lot.
//!
//! ```text
//! cargo bench [-- FILTER]
//! ```
//! Short by default. The machine has to be idle, and the figures of two threads depend on which processors they get.
//! A peer moves a boxed slice where we copy bytes in and out: that is what each is made for.
#![expect(clippy::disallowed_types, reason = "the peers are measured here")]

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use multigil::condition::Condition;
use multigil::event::{Parker, Patience};
use multigil::layout::PeerId;
use multigil::lock::{Lock, Owner};
use multigil::object::{Handle, Message, Region};
use multigil::queue::Queue;
use multigil::semaphore::Semaphore;

const SIZES: [(&str, usize); 4] = [("64 B", 64), ("1 KiB", 1 << 10), ("64 KiB", 1 << 16), ("1 MiB", 1 << 20)];
/// Messages that a bounded queue holds.
const CAPACITY: i64 = 1024;
/// How long a waiter spins before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

fn region() -> (Region, PeerId) {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    (region, me)
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    group
}

/// A message put and got again by the same thread.
fn put_get(criterion: &mut Criterion) {
    let (region, me) = region();
    let queue = region.create_queue(me, 0).unwrap();
    let mut message = Message::new(&region, me);

    let mut group = group(criterion, "put and get, int");
    group.bench_function("multigil", |bencher| {
        bencher.iter(|| {
            message.set_word(1, black_box(7));
            queue.put(&mut message, &region, me, None).unwrap();
            queue.get(&mut message, &region, me, None).unwrap();
            black_box(message.first_word())
        });
    });
    let array = crossbeam_queue::ArrayQueue::new(CAPACITY as usize);
    group.bench_function("crossbeam ArrayQueue", |bencher| {
        bencher.iter(|| {
            array.push(black_box(7_u64)).unwrap();
            array.pop().unwrap()
        });
    });
    let segments = crossbeam_queue::SegQueue::new();
    group.bench_function("crossbeam SegQueue", |bencher| {
        bencher.iter(|| {
            segments.push(black_box(7_u64));
            segments.pop().unwrap()
        });
    });
    let (sender, receiver) = crossbeam_channel::unbounded();
    group.bench_function("crossbeam channel", |bencher| {
        bencher.iter(|| {
            sender.try_send(black_box(7_u64)).unwrap();
            receiver.try_recv().unwrap()
        });
    });
    group.finish();

    for (name, size) in SIZES {
        let payload = vec![1_u8; size];
        let mut copy = vec![0; size];
        let mut group = self::group(criterion, &format!("put and get, {name}"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("multigil", |bencher| {
            bencher.iter(|| {
                message.set_bytes(1, black_box(&payload)).unwrap();
                queue.put(&mut message, &region, me, None).unwrap();
                queue.get(&mut message, &region, me, None).unwrap();
                message.read(0, &mut copy);
                black_box(&copy);
            });
        });
        group.bench_function("crossbeam channel", |bencher| {
            let (sender, receiver) = crossbeam_channel::unbounded();
            bencher.iter(|| {
                sender.try_send(Box::<[u8]>::from(black_box(&payload[..]))).unwrap();
                black_box(receiver.try_recv().unwrap())
            });
        });
        group.bench_function("plain copy, twice", |bencher| {
            let mut between = vec![0; size];
            bencher.iter(|| {
                between.copy_from_slice(black_box(&payload));
                copy.copy_from_slice(black_box(&between));
                black_box(&copy);
            });
        });
    }
}

/// How long it takes from the first `send` until the last of `count` messages has been received by another thread.
fn one_way(count: u64, send: impl Fn(u64) + Sync, receive: impl Fn() -> u64) -> Duration {
    let start = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !start.load(Ordering::Acquire) {
                spin_loop();
            }
            (0..count).for_each(&send);
        });
        let started = Instant::now();
        start.store(true, Ordering::Release);
        for expected in 0..count {
            assert_eq!(receive(), expected);
        }
        started.elapsed()
    })
}

/// How long `count` messages take to another thread and back, one at a time.
fn there_and_back(count: u64, there: &Channel<'_>, back: &Channel<'_>) -> Duration {
    thread::scope(|scope| {
        scope.spawn(|| (0..count).for_each(|_| (back.send)((there.receive)())));
        let started = Instant::now();
        for sent in 0..count {
            (there.send)(sent);
            assert_eq!((back.receive)(), sent);
        }
        started.elapsed()
    })
}

/// Blocking operations on some queue of words.
struct Channel<'a> {
    send: Box<dyn Fn(u64) + Sync + 'a>,
    receive: Box<dyn Fn() -> u64 + Sync + 'a>,
}

fn ours<'a>(queue: &'a Handle<'a, Queue>, parkers: &'a [Parker; 2]) -> Channel<'a> {
    let (region, me) = (queue.region(), queue.owner());
    Channel {
        send: Box::new(move |word| {
            let mut message = Message::new(region, me);
            message.set_word(1, word);
            queue.put(&mut message, region, me, Some(&Patience::new(None, SPIN, &parkers[0]))).unwrap();
        }),
        receive: Box::new(move || {
            let mut message = Message::new(region, me);
            queue.get(&mut message, region, me, Some(&Patience::new(None, SPIN, &parkers[1]))).unwrap();
            message.first_word()
        }),
    }
}

fn crossbeams<'a>(bound: Option<usize>) -> Channel<'a> {
    let (sender, receiver) = bound.map_or_else(crossbeam_channel::unbounded, crossbeam_channel::bounded);
    Channel {
        send: Box::new(move |word| sender.send(word).unwrap()),
        receive: Box::new(move || receiver.recv().unwrap()),
    }
}

/// One thread puts, another gets; and a round trip between the two.
fn two_threads(criterion: &mut Criterion) {
    let (region, me) = region();
    for (name, maxsize) in [("unbounded", 0), ("bounded", CAPACITY)] {
        let mut group = group(criterion, &format!("one way, int, {name}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("multigil", |bencher| {
            bencher.iter_custom(|count| {
                let queue = region.create_queue(me, maxsize).unwrap();
                let parkers = [Parker::default(), Parker::default()];
                let channel = ours(&queue, &parkers);
                one_way(count, &channel.send, &channel.receive)
            });
        });
        group.bench_function("crossbeam channel", |bencher| {
            bencher.iter_custom(|count| {
                let channel = crossbeams((maxsize > 0).then_some(maxsize as usize));
                one_way(count, &channel.send, &channel.receive)
            });
        });
        if maxsize > 0 {
            group.bench_function("crossbeam ArrayQueue, spinning", |bencher| {
                bencher.iter_custom(|count| {
                    let queue = crossbeam_queue::ArrayQueue::new(maxsize as usize);
                    let send = |word| {
                        while queue.push(word).is_err() {
                            spin_loop();
                        }
                    };
                    one_way(count, send, || {
                        loop {
                            match queue.pop() {
                                Some(word) => break word,
                                None => spin_loop(),
                            }
                        }
                    })
                });
            });
        }
    }

    let mut group = group(criterion, "round trip, int");
    group.bench_function("multigil", |bencher| {
        bencher.iter_custom(|count| {
            let queues = [region.create_queue(me, 0).unwrap(), region.create_queue(me, 0).unwrap()];
            let parkers = [Parker::default(), Parker::default()];
            there_and_back(
                count,
                &ours(&queues[0], &parkers),
                &ours(&queues[1], &[Parker::default(), Parker::default()]),
            )
        });
    });
    group.bench_function("crossbeam channel", |bencher| {
        bencher.iter_custom(|count| there_and_back(count, &crossbeams(None), &crossbeams(None)));
    });
}

/// Takes and gives back a lock `count` times, alone or beside another thread that does the same all the time.
fn locking(count: u64, contended: bool, section: impl Fn(&Parker) + Sync) -> Duration {
    let done = AtomicBool::new(!contended);
    thread::scope(|scope| {
        scope.spawn(|| {
            let parker = Parker::default();
            while !done.load(Ordering::Relaxed) {
                section(&parker);
            }
        });
        let parker = Parker::default();
        let started = Instant::now();
        (0..count).for_each(|_| section(&parker));
        let elapsed = started.elapsed();
        done.store(true, Ordering::Relaxed);
        elapsed
    })
}

/// A lock around nothing.
fn lock(criterion: &mut Criterion) {
    let (region, me) = region();
    let ours = region.create_shared::<Lock>(me, |_| {}).unwrap();
    let parking_lots = parking_lot::Mutex::new(());
    let standards = std::sync::Mutex::new(());
    for (name, contended) in [("uncontended", false), ("contended", true)] {
        let mut group = group(criterion, &format!("lock, {name}"));
        group.bench_function("multigil", |bencher| {
            let owner = Owner { peer: me, thread: 1 };
            bencher.iter_custom(|count| {
                locking(count, contended, |parker| {
                    ours.acquire(owner, &Patience::new(None, Duration::from_micros(2), parker)).unwrap();
                    ours.release(region.bell()).unwrap();
                })
            });
        });
        group.bench_function("parking_lot Mutex", |bencher| {
            bencher.iter_custom(|count| locking(count, contended, |_| drop(black_box(parking_lots.lock()))));
        });
        group.bench_function("std Mutex", |bencher| {
            bencher.iter_custom(|count| locking(count, contended, |_| drop(black_box(standards.lock()))));
        });
    }
}

/// A semaphore of one that nobody else wants.
fn semaphore(criterion: &mut Criterion) {
    let (region, me) = region();
    let mut group = group(criterion, "semaphore, uncontended");
    group.bench_function("multigil", |bencher| {
        let ours = region.create_shared::<Semaphore>(me, |semaphore| semaphore.initialize(1, true)).unwrap();
        let parker = Parker::default();
        bencher.iter(|| {
            ours.acquire(me, region.bell(), &Patience::new(None, SPIN, &parker)).unwrap();
            ours.release(me, 1, region.bell()).unwrap();
        });
    });
    group.bench_function("parking_lot Mutex and Condvar", |bencher| {
        let (value, more) = (parking_lot::Mutex::new(1), parking_lot::Condvar::new());
        bencher.iter(|| {
            let mut acquired = value.lock();
            more.wait_while(&mut acquired, |value| *value == 0);
            *acquired -= 1;
            drop(acquired);
            *value.lock() += 1;
            more.notify_one();
        });
    });
    group.bench_function("std Mutex and Condvar", |bencher| {
        let (value, more) = (std::sync::Mutex::new(1), std::sync::Condvar::new());
        bencher.iter(|| {
            *more.wait_while(value.lock().unwrap(), |value| *value == 0).unwrap() -= 1;
            *value.lock().unwrap() += 1;
            more.notify_one();
        });
    });
}

/// How long two threads take to give each other their turn `count` times.
fn taking_turns(count: u64, take: impl Fn(u64) + Sync) -> Duration {
    thread::scope(|scope| {
        scope.spawn(|| (0..count).for_each(|_| take(1)));
        let started = Instant::now();
        (0..count).for_each(|_| take(0));
        started.elapsed()
    })
}

/// A condition that two threads wait at for their turn.
fn condition(criterion: &mut Criterion) {
    let (region, me) = region();
    let mut group = group(criterion, "condition, round trip");
    group.bench_function("multigil", |bencher| {
        let lock = region.create_shared::<Lock>(me, |_| {}).unwrap();
        let condition = region.create_shared::<Condition>(me, |_| {}).unwrap();
        let turn = AtomicU64::new(0);
        bencher.iter_custom(|count| {
            taking_turns(count, |mine| {
                let (owner, parker) = (Owner { peer: me, thread: mine as u32 + 1 }, Parker::default());
                let patience = Patience::new(None, SPIN, &parker);
                lock.acquire(owner, &patience).unwrap();
                while turn.load(Ordering::Relaxed) != mine {
                    let sitting = condition.sit(&region, owner).unwrap();
                    lock.release(region.bell()).unwrap();
                    sitting.wait(&patience).unwrap();
                    lock.acquire(owner, &patience).unwrap();
                }
                turn.store(1 - mine, Ordering::Relaxed);
                condition.notify(&region, 1);
                lock.release(region.bell()).unwrap();
            })
        });
    });
    group.bench_function("parking_lot Condvar", |bencher| {
        let (turn, turned) = (parking_lot::Mutex::new(0), parking_lot::Condvar::new());
        bencher.iter_custom(|count| {
            taking_turns(count, |mine| {
                let mut turn = turn.lock();
                turned.wait_while(&mut turn, |turn| *turn != mine);
                *turn = 1 - mine;
                turned.notify_one();
            })
        });
    });
    group.bench_function("std Condvar", |bencher| {
        let (turn, turned) = (std::sync::Mutex::new(0), std::sync::Condvar::new());
        bencher.iter_custom(|count| {
            taking_turns(count, |mine| {
                *turned.wait_while(turn.lock().unwrap(), |turn| *turn != mine).unwrap() = 1 - mine;
                turned.notify_one();
            })
        });
    });
}

criterion_group!(benches, put_get, two_threads, lock, semaphore, condition);
criterion_main!(benches);
