//! Whoever holds the lock of a queue that keeps an order may be killed anywhere: afterwards an operation was done, or it
//! was not.
//!
//! One who is doomed ends at a point by unwinding, with nothing on the way that would be dropped: all that others can see
//! of it is what it did so far. Where something would be, its thread stops there for ever instead.

use core::cell::{Cell, RefCell};
use core::mem::ManuallyDrop;
use std::sync::mpsc::Sender;
use std::thread;

use multigil::fault::{doom, until_killed};
use multigil::ordered::Locked;

use super::*;

/// How many messages there are when somebody dies, after how many there were at most: with a table that stays as it is,
/// that grows by a put, and that shrinks by a get.
const SIZES: [(usize, usize); 15] = [
    (0, 0),
    (0, 1),
    (1, 1),
    (2, 2),
    (3, 3),
    (32, 40),
    (63, 63),
    (64, 64),
    (65, 65),
    (33, 65),
    (32, 65),
    (192, 192),
    (129, 200),
    (33, 200),
    (200, 200),
];
/// Sizes of payloads: in the entry, in a block though short, in a block.
const LENGTHS: [usize; 3] = [6, 50, 300];

/// Does it, and dies at the point that comes after so many; false if there are not as many.
fn dies_at(point: u32, act: impl FnOnce()) -> bool {
    until_killed(point, act).is_err()
}

/// The `number`-th message: every length, and priorities of which some are equal.
fn numbered(number: usize) -> Vec<u8> {
    message(number as u64 * 1000, (number * 37 % 50) as u8, LENGTHS[number % LENGTHS.len()], true)
}

/// A queue with so many messages, after there were more, and what should be in it.
fn filled<O: Order>(region: &Region, me: PeerId, (size, most): (usize, usize)) -> (Handle<'_, OrderedQueue<O>>, Model) {
    let queue = region.create_ordered_queue::<O>(me, 0).unwrap();
    let mut model = Model::new::<O>(0);
    for number in 0..most {
        try_put(&queue, &numbered(number), ENDLESS).unwrap();
        model.put(numbered(number)).unwrap();
    }
    for _ in size..most {
        assert_eq!(try_get(&queue, ENDLESS), model.get().map_err(refused));
    }
    (queue, model)
}

/// Without the end that a value usually has.
fn abandoned<T>(value: T) -> ManuallyDrop<T> {
    ManuallyDrop::new(value)
}

fn locked<'q, O: Order>(queue: &'q Handle<'_, OrderedQueue<O>>, peer: PeerId) -> ManuallyDrop<Locked<'q, O>> {
    abandoned(queue.try_lock(queue.region(), Owner { peer, thread: 7 }).unwrap().unwrap())
}

fn put_and_end<O: Order>(queue: &Handle<'_, OrderedQueue<O>>, peer: PeerId, bytes: &[u8]) {
    let mut message = abandoned(Message::new(queue.region(), peer));
    message.set_bytes(1, bytes).unwrap();
    let mut locked = locked(queue, peer);
    let keys = [key_of(bytes)];
    Put { messages: slice::from_mut(&mut *message), keys: &keys, put: 0 }
        .perform(&mut locked, judge(&mut { ENDLESS }))
        .unwrap();
    drop(ManuallyDrop::into_inner(locked));
    drop(ManuallyDrop::into_inner(message));
}

/// Gives what was got, unless there is nothing.
fn get_and_end<O: Order>(queue: &Handle<'_, OrderedQueue<O>>, peer: PeerId) -> Option<Vec<u8>> {
    let mut message = abandoned(Message::new(queue.region(), peer));
    let mut locked = locked(queue, peer);
    let got = Get { message: &mut message, quietly: false }.perform(&mut locked, judge(&mut { ENDLESS })).is_ok();
    drop(ManuallyDrop::into_inner(locked));
    let bytes = got.then(|| read(&message));
    drop(ManuallyDrop::into_inner(message));
    bytes
}

/// The queue is what the model is; it goes on, until it is empty, and nothing of the dead is left.
fn check<O: Order>(queue: &Handle<'_, OrderedQueue<O>>, mut model: Model, dead: PeerId) {
    let region = queue.region();
    assert_eq!(queue.len(), model.messages.len() as u64);
    assert_eq!(queue.unfinished(), model.unfinished as u64);
    for number in 1000..1005 {
        // Of every length: what is free is taken again.
        assert_eq!(try_put(queue, &numbered(number), ENDLESS), model.put(numbered(number)).map_err(refused));
    }
    loop {
        let (got, expected) = (try_get(queue, ENDLESS), model.get().map_err(refused));
        assert_eq!(got, expected);
        if got.is_err() {
            break;
        }
    }
    region.leave(dead);
    let blocks = region.statistics().memory.blocks;
    assert_eq!(blocks, 3, "the queue, where its table begins, and who has handles to what");
}

/// Somebody dies at every point of a put.
fn put<O: Order>(sizes: &[(usize, usize)], recover: impl Fn(&OrderedQueue<O>, &Region, PeerId)) {
    let (region, me) = region();
    for (size, bytes) in sizes.iter().flat_map(|size| LENGTHS.map(|length| (*size, length))) {
        // Below all others, among them, above them.
        for priority in [0, 25, 255] {
            let bytes = message(77, priority, bytes, true);
            let mut was_put = false;
            for point in 0.. {
                let (queue, mut model) = filled::<O>(&region, me, size);
                let dead = region.register().unwrap();
                let died = dies_at(point, || put_and_end(&queue, dead, &bytes));
                recover(&queue, &region, dead);
                assert!(queue.len() > size.0 as u64 || !was_put, "it was in the queue, one step before");
                was_put = queue.len() > size.0 as u64;
                if was_put {
                    model.put(bytes.clone()).unwrap();
                }
                check(&queue, model, dead);
                drop(queue);
                assert_empty(&region);
                if !died {
                    assert!(was_put && point > 5);
                    break;
                }
            }
        }
    }
}

/// Somebody dies at every point of a get.
fn get<O: Order>(sizes: &[(usize, usize)], recover: impl Fn(&OrderedQueue<O>, &Region, PeerId)) {
    let (region, me) = region();
    for size in sizes.iter().copied() {
        let mut was_got = false;
        for point in 0.. {
            let (queue, mut model) = filled::<O>(&region, me, size);
            let dead = region.register().unwrap();
            let mut got = None;
            let died = dies_at(point, || got = get_and_end(&queue, dead));
            recover(&queue, &region, dead);
            assert!(queue.len() < size.0 as u64 || !was_got, "it was out of the queue, one step before");
            was_got = queue.len() < size.0 as u64;
            let expected = if was_got { model.get().ok() } else { None };
            if !died {
                assert_eq!(got, expected);
                assert_eq!(was_got, size.0 > 0);
            }
            check(&queue, model, dead);
            drop(queue);
            assert_empty(&region);
            if !died {
                break;
            }
        }
    }
}

fn recover<O: Order>(queue: &OrderedQueue<O>, region: &Region, dead: PeerId) {
    queue.recover(region, dead);
}

#[test]
fn put_is_done_or_not() {
    let _limit = limit(300);
    put::<Lifo>(&SIZES, recover);
    put::<Priority>(&SIZES, recover);
}

#[test]
fn get_is_done_or_not() {
    let _limit = limit(300);
    get::<Lifo>(&SIZES, recover);
    get::<Priority>(&SIZES, recover);
}

/// Whoever puts things right dies, too, at every point, and somebody else begins again.
#[test]
fn recovery_begins_again() {
    fn deaths<O: Order>(operate: impl Fn(&dyn Fn(&OrderedQueue<O>, &Region, PeerId))) {
        for point in 0.. {
            let died = Cell::new(false);
            operate(&|queue, region, dead| {
                died.set(dies_at(point, || queue.recover(region, dead)) || died.get());
                queue.recover(region, dead);
            });
            if !died.get() {
                assert!(point > 4);
                break;
            }
        }
    }
    let _limit = limit(300);
    deaths::<Lifo>(|recover| put(&[(0, 0), (7, 7)], recover));
    deaths::<Lifo>(|recover| get(&[(1, 1), (33, 65)], recover));
    deaths::<Priority>(|recover| put(&[(7, 7), (64, 64)], recover));
    deaths::<Priority>(|recover| get(&[(7, 7), (33, 65)], recover));
}

/// Does it on a thread of its own, which stops for ever at the point that comes after so many; false if there are not as
/// many.
fn stops_at(point: u32, act: impl FnOnce() + Send + 'static) -> bool {
    thread_local! {
        static STOPPED: RefCell<Option<Sender<bool>>> = const { RefCell::new(None) };
    }
    fn stop(_: &'static str) {
        STOPPED.with_borrow(|stopped| stopped.as_ref().unwrap().send(true).unwrap());
        loop {
            thread::park();
        }
    }
    let (stopped, result) = channel();
    let live = move || {
        STOPPED.set(Some(stopped.clone()));
        doom(Some((point, stop)));
        act();
        doom(None);
        stopped.send(false).unwrap();
    };
    thread::Builder::new().stack_size(128 << 10).spawn(live).unwrap();
    result.recv().unwrap()
}

/// Somebody dies at every point of a `clear` or `shut_down`: what was thrown away was counted as done. Some of the
/// messages, or all of them, had been reported done before.
fn throw_away<O: Order>(region: &'static Region, me: PeerId, done_before: usize, act: fn(Locked<'static, O>)) {
    for point in 0.. {
        let (queue, mut model) = filled::<O>(region, me, (34, 66));
        for _ in 0..done_before {
            queue.task_done(region).unwrap();
        }
        let dead = region.register().unwrap();
        let theirs = Box::leak(Box::new(region.attach::<OrderedQueue<O>>(queue.id(), dead).unwrap()));
        let owner = Owner { peer: dead, thread: 7 };
        let died = stops_at(point, move || act(theirs.try_lock(region, owner).unwrap().unwrap()));
        queue.recover(region, dead);
        model.messages.truncate(queue.len() as usize);
        // Each that is gone is done, as far as anything was to be done.
        model.unfinished = (66 - done_before).saturating_sub(34 - model.messages.len());
        model.shut_down = queue.is_shut_down();
        if model.shut_down || !died {
            assert!(queue.is_empty());
        }
        check(&queue, model, dead);
        drop(queue);
        assert_empty(region);
        if !died {
            break;
        }
    }
}

#[test]
fn what_is_thrown_away_is_counted() {
    let _limit = limit(300);
    let region: &'static Region = Box::leak(Box::new(Region::new().unwrap())); // the dead have it for ever
    let me = region.register().unwrap();
    for done_before in [0, 40, 66] {
        throw_away::<Lifo>(region, me, done_before, |locked| locked.clear().unwrap());
        throw_away::<Priority>(region, me, done_before, |locked| locked.shut_down(true).unwrap());
    }
}

/// Somebody dies at every point of a queue's end, and so does the one who goes on with it.
#[test]
fn end_is_gone_on_with() {
    fn end<O: Order>() {
        let (here, me) = region();
        for point in 0.. {
            let there = Region::open(here.file()).unwrap();
            let dead = there.register().unwrap();
            let (queue, _) = filled::<O>(&there, dead, (34, 66));
            let died = dies_at(point, || drop(queue));
            drop(there); // a process is dead when its file is closed
            let there = Region::open(here.file()).unwrap();
            let next = there.register().unwrap();
            let next_died = dies_at(point * 13 % 389, || assert!(there.recover(dead, next)));
            drop(there);
            assert_eq!(here.recover_dead(me), usize::from(next_died) + 1);
            assert_empty(&here);
            if !died {
                break;
            }
        }
    }
    let _limit = limit(300);
    end::<Lifo>();
    end::<Priority>();
}

/// Somebody dies at every point of a put, and somebody else waits for the message or for the lock: it is not left asleep,
/// though nobody looks out.
#[test]
fn whoever_waits_goes_on() {
    fn wait<O: Order>() {
        for point in 0.. {
            let (region, me) = region();
            let queue = region.create_ordered_queue::<O>(me, 0).unwrap();
            let dead = region.register().unwrap();
            let died = thread::scope(|scope| {
                scope.spawn(|| {
                    let mut message = Message::new(&region, me);
                    let get = Get { message: &mut message, quietly: false };
                    perform(&queue, &region, get, Owner { peer: me, thread: 1 }).unwrap();
                });
                let died = dies_at(point, || {
                    let mut message = abandoned(Message::new(&region, dead));
                    message.set_bytes(1, &numbered(2)).unwrap();
                    let parker = Parker::default();
                    let patience = Patience::new(None, core::time::Duration::ZERO, &parker);
                    let locked = queue.lock(&region, Owner { peer: dead, thread: 7 }, &patience).unwrap();
                    let mut locked = abandoned(locked);
                    let put = Put { messages: slice::from_mut(&mut *message), keys: &[], put: 0 };
                    { put }.perform(&mut locked, less).unwrap();
                    drop(ManuallyDrop::into_inner(locked));
                });
                queue.recover(&region, dead);
                if queue.put_in_all() == 0 {
                    let mut message = Message::new(&region, me);
                    message.set_word(1, 7);
                    let put = Put { messages: slice::from_mut(&mut message), keys: &[], put: 0 };
                    perform(&queue, &region, put, Owner { peer: me, thread: 2 }).unwrap();
                }
                died
            });
            if !died {
                break;
            }
        }
    }
    let _limit = limit(300);
    for _ in 0..20 {
        wait::<Lifo>();
        wait::<Priority>();
    }
}
