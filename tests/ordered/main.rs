//! Keys are in the order of what they are made of; queues that keep an order do what a list and a heap do.

#[cfg(feature = "faults")]
mod deaths;
mod overwritten;
#[path = "../support/mod.rs"]
mod support;

use core::cmp::Ordering;
use core::convert::Infallible;
use core::slice;
use std::sync::mpsc::channel;

use multigil::control::AnyQueue;
use multigil::error::{GetError, InUse, OrderedError, PutError};
use multigil::event::{Parker, Patience};
use multigil::key::{Encoder, KEY_BYTES, Key, Sequence};
use multigil::layout::PeerId;
use multigil::lock::Owner;
use multigil::object::{Handle, Message, Region};
use multigil::ordered::{Contender, Get, Lifo, Operation, Order, OrderedQueue, Outcome, Peek, Priority, Put};
use multigil::queue::LARGE_BYTES;
use proptest::collection::vec;
use proptest::prelude::*;

use support::{limit, payload};

// ---------------------------------------------------------------------------------------------- keys

/// A value as Python has it.
#[derive(Clone, Debug)]
enum Value {
    Integer(i64),
    Float(f64),
    Text(Vec<u32>),
    Bytes(Vec<u8>),
    Nothing,
    Sequence(bool, Vec<Value>),
    Other,
}

impl Value {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Value::Integer(value) => encoder.integer(*value),
            Value::Float(value) => encoder.float(*value),
            Value::Text(points) => encoder.text(points.iter().copied()),
            Value::Bytes(bytes) => encoder.bytes(bytes),
            Value::Nothing => encoder.nothing(),
            Value::Sequence(is_tuple, values) => {
                encoder.open(if *is_tuple { Sequence::Tuple } else { Sequence::List });
                values.iter().for_each(|value| value.encode(encoder));
                encoder.close();
            }
            Value::Other => encoder.other(),
        }
    }

    fn key(&self) -> Key {
        let mut encoder = Encoder::default();
        self.encode(&mut encoder);
        encoder.finish()
    }

    /// The order of the two in Python; None if it has none, or only their classes know it.
    fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Integer(one), Value::Integer(other)) => Some(one.cmp(other)),
            (Value::Integer(one), Value::Float(other)) => compare_exactly(*one, *other),
            (Value::Float(one), Value::Integer(other)) => compare_exactly(*other, *one).map(Ordering::reverse),
            (Value::Float(one), Value::Float(other)) => one.partial_cmp(other),
            (Value::Text(one), Value::Text(other)) => Some(one.cmp(other)),
            (Value::Bytes(one), Value::Bytes(other)) => Some(one.cmp(other)),
            (Value::Nothing, Value::Nothing) => Some(Ordering::Equal),
            (Value::Sequence(one_class, one), Value::Sequence(other_class, other)) if one_class == other_class => {
                for (one, other) in one.iter().zip(other) {
                    match one.compare(other)? {
                        Ordering::Equal => {}
                        order => return Some(order),
                    }
                }
                Some(one.len().cmp(&other.len()))
            }
            _ => None,
        }
    }

    /// An upper bound of the length of its key.
    fn length(&self) -> usize {
        match self {
            Value::Integer(_) | Value::Float(_) => 11,
            Value::Text(points) => 2 + 4 * points.len(),
            Value::Bytes(bytes) => 2 + 2 * bytes.len(),
            Value::Nothing => 1,
            Value::Sequence(_, values) => 2 + values.iter().map(Value::length).sum::<usize>(),
            Value::Other => KEY_BYTES,
        }
    }
}

fn compare_exactly(integer: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        None
    } else if float.abs() >= 2_f64.powi(64) {
        Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater })
    } else {
        let whole = i128::from(integer).cmp(&(float.floor() as i128));
        Some(if whole == Ordering::Equal && float > float.floor() { Ordering::Less } else { whole })
    }
}

/// Numbers close to each other, around every border.
fn integer() -> impl Strategy<Value = i64> {
    let border = prop::sample::select(vec![0, 1 << 24, 1 << 53, 1 << 54, 1 << 62, i64::MAX]);
    (border, any::<bool>(), -5..5_i64).prop_map(|(border, negative, step): (i64, bool, i64)| {
        let border = if negative { border.wrapping_neg() } else { border };
        border.saturating_add(step)
    })
}

fn number() -> impl Strategy<Value = Value> {
    let specials = vec![0.0, -0.0, 0.5, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        integer().prop_map(Value::Integer),
        integer().prop_map(|value| Value::Float(value as f64)),
        integer().prop_map(|value| Value::Float(value as f64 + 0.5)),
        any::<f64>().prop_map(Value::Float),
        prop::sample::select(specials).prop_map(Value::Float),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let point =
        prop::sample::select(vec![0, 1, 0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xD800, 0xDFFF, 0xFFFF, 0x1_0000, 0x10_FFFF]);
    let byte = prop::sample::select(vec![0, 1, 2, 0x41, 0xFE, 0xFF]);
    let leaf = prop_oneof![
        4 => number(),
        2 => vec(point, 0..5).prop_map(Value::Text),
        1 => vec(0x60..0x63_u32, 0..60).prop_map(Value::Text),
        2 => vec(byte, 0..5).prop_map(Value::Bytes),
        1 => Just(Value::Nothing),
        1 => Just(Value::Other),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        (any::<bool>(), vec(inner, 0..4)).prop_map(|(class, values)| Value::Sequence(class, values))
    })
}

/// Two values that have much in common.
fn pair() -> impl Strategy<Value = (Value, Value)> {
    prop_oneof![
        (value(), value()),
        (number(), number()),
        (vec(value(), 0..4), vec(value(), 0..2), vec(value(), 0..2)).prop_map(|(common, one, other)| {
            let with = |rest| Value::Sequence(true, common.iter().cloned().chain(rest).collect());
            (with(one), with(other))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever keys decide is what Python decides, and short keys decide all that has an order without Python.
    #[test]
    fn keys((one, other) in pair()) {
        let decided = one.key().compare(&other.key());
        let expected = one.compare(&other);
        if decided.is_some() {
            prop_assert_eq!(decided, expected);
        } else if one.length().max(other.length()) <= KEY_BYTES {
            prop_assert_eq!(expected, None);
        }
        prop_assert_eq!(other.key().compare(&one.key()), decided.map(Ordering::reverse));
    }
}

/// The shorter sequence comes first whatever the longer one goes on with, and classes are in no order.
#[test]
fn key_of_sequences() {
    let tuple = |values: &[Value]| Value::Sequence(true, values.to_vec()).key();
    let one = Value::Integer(1);
    assert_eq!(tuple(&[]).compare(&tuple(&[Value::Other])), Some(Ordering::Less));
    assert_eq!(tuple(slice::from_ref(&one)).compare(&tuple(&[one.clone(), Value::Nothing])), Some(Ordering::Less));
    assert_eq!(tuple(&[one.clone(), Value::Other]).compare(&tuple(&[one.clone(), Value::Other])), None);
    assert_eq!(tuple(slice::from_ref(&one)).compare(&tuple(&[Value::Text(vec![])])), None);
    assert_eq!(tuple(slice::from_ref(&one)).compare(&one.key()), None);
    assert_eq!(tuple(slice::from_ref(&one)).compare(&Value::Sequence(false, vec![one.clone()]).key()), None);
    assert_eq!(Value::Other.key().compare(&Value::Other.key()), None);
}

// ---------------------------------------------------------------------------------------------- queues

fn region() -> (Region, PeerId) {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    (region, me)
}

#[track_caller]
fn assert_empty(region: &Region) {
    let statistics = region.statistics();
    assert_eq!((statistics.memory.blocks, statistics.memory.in_use), (0, 0));
    assert_eq!(statistics.objects.iter().sum::<u64>(), 0);
}

/// A message's first byte is its priority; one with an odd last byte has no key.
fn key_of(bytes: &[u8]) -> Key {
    let mut encoder = Encoder::default();
    if bytes.last().is_some_and(|last| last % 2 != 0) {
        encoder.other()
    } else {
        encoder.integer(bytes[0].into())
    }
    encoder.finish()
}

fn read(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.length()];
    message.read(0, &mut bytes);
    bytes
}

/// Compares by the first byte, until it has done so `patience` times.
fn judge(patience: &mut u64) -> impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, ()> + '_ {
    |one, other| {
        *patience = patience.checked_sub(1).ok_or(())?;
        Ok(read(one.message).first() < read(other.message).first())
    }
}

fn owner(queue: &Handle<'_, OrderedQueue<impl Order>>) -> Owner {
    Owner { peer: queue.owner(), thread: 1 }
}

fn try_put(
    queue: &Handle<'_, OrderedQueue<impl Order>>,
    bytes: &[u8],
    mut patience: u64,
) -> Result<(), OrderedError<PutError, ()>> {
    let mut message = Message::new(queue.region(), queue.owner());
    message.set_bytes(1, bytes).unwrap();
    let mut locked = queue.try_lock(queue.region(), owner(queue)).unwrap().unwrap();
    let keys = [key_of(bytes)];
    Put { messages: slice::from_mut(&mut message), keys: &keys, put: 0 }.perform(&mut locked, judge(&mut patience))
}

fn try_get(
    queue: &Handle<'_, OrderedQueue<impl Order>>,
    mut patience: u64,
) -> Result<Vec<u8>, OrderedError<GetError, ()>> {
    let mut message = Message::new(queue.region(), queue.owner());
    loop {
        let mut locked = queue.try_lock(queue.region(), owner(queue)).unwrap().unwrap();
        match (Get { message: &mut message, quietly: false }).perform(&mut locked, judge(&mut patience)) {
            Err(OrderedError::Refused(GetError::Large(bytes))) => {
                assert!(bytes > LARGE_BYTES);
                message.prepare(bytes);
            }
            result => return result.map(|()| read(&message)),
        }
    }
}

/// Puts messages of these bytes in one call; how many were put, and why no more.
fn try_put_many(
    queue: &Handle<'_, OrderedQueue<impl Order>>,
    all: &[Vec<u8>],
) -> (usize, Result<(), OrderedError<PutError, ()>>) {
    let message = |bytes: &Vec<u8>| {
        let mut message = Message::new(queue.region(), queue.owner());
        message.set_bytes(1, bytes).unwrap();
        message
    };
    let mut messages: Vec<_> = all.iter().map(message).collect();
    let keys: Vec<_> = all.iter().map(|bytes| key_of(bytes)).collect();
    let mut locked = queue.try_lock(queue.region(), owner(queue)).unwrap().unwrap();
    let mut put = Put { messages: &mut messages, keys: &keys, put: 0 };
    let result = put.perform(&mut locked, judge(&mut { ENDLESS }));
    (put.put, result)
}

fn try_peek(queue: &Handle<'_, OrderedQueue<impl Order>>) -> Result<Vec<u8>, OrderedError<GetError, ()>> {
    let mut copy = Message::new(queue.region(), queue.owner());
    copy.prepare(u64::MAX);
    let mut locked = queue.try_lock(queue.region(), owner(queue)).unwrap().unwrap();
    Peek { copy: &mut copy }.perform(&mut locked, judge(&mut 0)).map(|()| read(&copy))
}

/// What a queue should be: a list, or a heap as Python keeps one, by exchanges of neighbours.
#[derive(Clone)]
struct Model {
    by_priority: bool,
    messages: Vec<Vec<u8>>,
    maxsize: i64,
    unfinished: usize,
    shut_down: bool,
}

impl Model {
    fn new<O: Order>(maxsize: i64) -> Model {
        Model { by_priority: O::BY_PRIORITY, messages: vec![], maxsize, unfinished: 0, shut_down: false }
    }

    fn is_full(&self) -> bool {
        self.maxsize > 0 && self.messages.len() >= self.maxsize as usize
    }

    fn put(&mut self, bytes: Vec<u8>) -> Result<(), PutError> {
        if self.shut_down {
            return Err(PutError::ShutDown);
        }
        if self.is_full() {
            return Err(PutError::Full);
        }
        self.messages.push(bytes);
        self.unfinished += 1;
        if self.by_priority {
            self.rise(self.messages.len() - 1);
        }
        Ok(())
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.messages[place][0] < self.messages[(place - 1) / 2][0] {
            self.messages.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn peek(&self) -> Result<Vec<u8>, GetError> {
        let next = if self.by_priority { self.messages.first() } else { self.messages.last() };
        next.cloned().ok_or(self.nothing())
    }

    fn nothing(&self) -> GetError {
        if self.shut_down { GetError::ShutDown } else { GetError::Empty }
    }

    fn clear(&mut self) {
        // Each counts as done, as far as anything is still to be done.
        self.unfinished -= self.messages.len().min(self.unfinished);
        self.messages.clear();
    }

    fn get(&mut self) -> Result<Vec<u8>, GetError> {
        let nothing = self.nothing();
        if !self.by_priority || self.messages.is_empty() {
            return self.messages.pop().ok_or(nothing);
        }
        let first = self.messages.swap_remove(0);
        let mut place = 0;
        while 2 * place + 1 < self.messages.len() {
            let left = 2 * place + 1;
            let is_left = self.messages.get(left + 1).is_none_or(|right| self.messages[left][0] < right[0]);
            let lesser = if is_left { left } else { left + 1 };
            self.messages.swap(place, lesser);
            place = lesser;
        }
        if !self.messages.is_empty() {
            self.rise(place);
        }
        Ok(first)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        priority: u8,
        size: usize,
        is_native: bool,
    },
    PutMany(usize),
    Get,
    GetMany(usize),
    Peek,
    Clear,
    /// With a comparison that fails after so many.
    PutOrFail(u8, u64),
    GetOrFail(u64),
    Done,
    SetMaxsize(i64),
    ShutDown {
        immediate: bool,
    },
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => prop::sample::select(vec![2, 7, 8, 9, 111, 112, 113, 128, 4096]),
        2 => 2..10_000_usize,
        1 => prop::sample::select(vec![1 << 20, (1 << 20) + 1]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0..20_u8, size(), any::<bool>()).prop_map(|(priority, size, is_native)| Step::Put {
        priority,
        size,
        is_native,
    });
    prop_oneof![
        30 => put,
        6 => (0..200_usize).prop_map(Step::PutMany),
        30 => Just(Step::Get),
        6 => (0..300_usize).prop_map(Step::GetMany),
        10 => Just(Step::Peek),
        1 => Just(Step::Clear),
        10 => (0..20_u8, 0..3_u64).prop_map(|(priority, patience)| Step::PutOrFail(priority, patience)),
        10 => (0..6_u64).prop_map(Step::GetOrFail),
        20 => Just(Step::Done),
        4 => prop_oneof![Just(0), -1..40_i64].prop_map(Step::SetMaxsize),
        1 => any::<bool>().prop_map(|immediate| Step::ShutDown { immediate }),
    ]
}

/// A message of at least two bytes: its priority first, at the end whether it has a key.
fn message(seed: u64, priority: u8, size: usize, is_native: bool) -> Vec<u8> {
    let mut bytes = payload(seed, size);
    bytes[0] = priority;
    bytes[size - 1] = u8::from(!is_native);
    bytes
}

fn refused<E>(error: E) -> OrderedError<E, ()> {
    OrderedError::Refused(error)
}

const ENDLESS: u64 = u64::MAX;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// A queue does what a list or a heap does, and nothing at all when a comparison fails; when it is gone, so is
    /// everything in it.
    #[test]
    fn queue(by_priority in any::<bool>(), maxsize in prop_oneof![Just(0), -1..40_i64], steps in vec(step(), 0..120)) {
        if by_priority { run::<Priority>(maxsize, steps) } else { run::<Lifo>(maxsize, steps) }?;
    }
}

fn run<O: Order>(maxsize: i64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let _limit = limit(120);
    let (region, me) = region();
    let queue = region.create_ordered_queue::<O>(me, maxsize).unwrap();
    let mut model = Model::new::<O>(maxsize);
    let mut seed = 0;
    for step in steps {
        seed += 1000;
        match step {
            Step::Put { priority, size, is_native } => {
                let bytes = message(seed, priority, size, is_native);
                prop_assert_eq!(try_put(&queue, &bytes, ENDLESS), model.put(bytes).map_err(refused));
            }
            Step::PutMany(count) => {
                let numbers = 0..count as u64;
                let make = |number| message(seed + number, (seed + number * 7) as u8 % 50, 8, number % 4 != 0);
                let all: Vec<_> = numbers.map(make).collect();
                let (put, result) = try_put_many(&queue, &all);
                for bytes in &all[..put] {
                    prop_assert_eq!(model.put(bytes.clone()), Ok(()));
                }
                let rest = all.get(put).map_or(Ok(()), |bytes| model.put(bytes.clone()));
                prop_assert_eq!(result, rest.map_err(refused));
            }
            Step::Peek => prop_assert_eq!(try_peek(&queue), model.peek().map_err(refused)),
            Step::Clear => {
                queue.try_lock(&region, owner(&queue)).unwrap().unwrap().clear().unwrap();
                model.clear();
            }
            Step::Get => prop_assert_eq!(try_get(&queue, ENDLESS), model.get().map_err(refused)),
            Step::GetMany(count) => {
                for _ in 0..count {
                    prop_assert_eq!(try_get(&queue, ENDLESS), model.get().map_err(refused));
                }
            }
            Step::PutOrFail(priority, patience) => {
                let bytes = message(seed, priority, 150, false);
                let blocks = region.statistics().memory.blocks;
                match try_put(&queue, &bytes, patience) {
                    Err(OrderedError::Incomparable(())) => {
                        prop_assert_eq!(region.statistics().memory.blocks, blocks);
                    }
                    result => prop_assert_eq!(result, model.put(bytes).map_err(refused)),
                }
            }
            Step::GetOrFail(patience) => match try_get(&queue, patience) {
                Err(OrderedError::Incomparable(())) => {}
                result => prop_assert_eq!(result, model.get().map_err(refused)),
            },
            Step::Done => {
                prop_assert_eq!(queue.task_done(&region).is_ok(), model.unfinished > 0);
                model.unfinished = model.unfinished.saturating_sub(1);
            }
            Step::SetMaxsize(maxsize) => {
                queue.set_maxsize(maxsize, &region);
                model.maxsize = maxsize;
            }
            Step::ShutDown { immediate } => {
                queue.try_lock(&region, owner(&queue)).unwrap().unwrap().shut_down(immediate).unwrap();
                model.shut_down = true;
                if immediate {
                    model.clear();
                }
            }
        }
        prop_assert_eq!(queue.len(), model.messages.len() as u64);
        prop_assert_eq!(queue.is_empty(), model.messages.is_empty());
        prop_assert_eq!(queue.is_full(), model.is_full());
        prop_assert_eq!(queue.maxsize(), model.maxsize);
        prop_assert_eq!(queue.unfinished(), model.unfinished as u64);
        prop_assert_eq!(queue.is_shut_down(), model.shut_down);
    }
    drop(queue);
    assert_empty(&region);
    Ok(())
}

/// Puts `inner` into `outer`, in a message of `length` other bytes.
fn put_inside<O: Order>(outer: &Handle<'_, OrderedQueue<O>>, inner: &Handle<'_, OrderedQueue<O>>, length: usize) {
    let (region, me) = (outer.region(), outer.owner());
    let mut message = Message::new(region, me);
    message.allocate(1, length, &[(inner.id(), O::KIND)]).unwrap();
    message.write(0, &payload(1, length));
    let mut locked = outer.try_lock(region, owner(outer)).unwrap().unwrap();
    Put { messages: slice::from_mut(&mut message), keys: &[], put: 0 }
        .perform(&mut locked, |_, _| Ok::<_, Infallible>(false))
        .unwrap();
}

fn queue_in_message<O: Order>() {
    let _limit = limit(60);
    let (region, me) = region();
    for length in [0, 1, 100, 104, 105, 4096] {
        let outer = region.create_ordered_queue::<O>(me, 0).unwrap();
        let inner = region.create_ordered_queue::<O>(me, 0).unwrap();
        let id = inner.id();
        try_put(&inner, b"inside", ENDLESS).unwrap();
        put_inside(&outer, &inner, length);
        put_inside(&outer, &inner, length);
        drop(inner);
        assert_eq!(region.statistics().count(O::KIND), 2, "the messages keep it alive");
        assert_eq!(try_get(&outer, ENDLESS).unwrap(), payload(1, length));
        assert_eq!(try_get(&region.attach::<OrderedQueue<O>>(id, me).unwrap(), ENDLESS).unwrap(), b"inside");
        drop(outer);
        assert!(region.attach::<OrderedQueue<O>>(id, me).is_err(), "the id leads to nothing any more");
        assert_empty(&region);
    }
}

#[test]
fn queue_in_message_lives_on() {
    queue_in_message::<Lifo>();
    queue_in_message::<Priority>();
}

/// A queue in a queue in a queue, 10,000 deep: the last handle's end is the end of all of them, without recursion.
#[test]
fn nested_queues_end_without_recursion() {
    let _limit = limit(60);
    let (region, me) = region();
    let mut outermost = region.create_ordered_queue::<Lifo>(me, 0).unwrap();
    for depth in 0..10_000 {
        let outer = region.create_ordered_queue::<Lifo>(me, 0).unwrap();
        put_inside(&outer, &outermost, depth % 3 * 100);
        outermost = outer;
    }
    let region = &region;
    std::thread::scope(|scope| {
        // A stack that even one frame per queue would overflow.
        std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, move || drop(outermost)).unwrap();
    });
    assert_empty(region);
}

/// Who holds the lock cannot take it again and is told so; others get it when it is free.
#[test]
fn lock_is_not_taken_twice() {
    let _limit = limit(60);
    let (region, me) = region();
    let queue = region.create_ordered_queue::<Lifo>(me, 0).unwrap();
    let other = Owner { peer: me, thread: 2 };
    let locked = queue.try_lock(&region, owner(&queue)).unwrap();
    assert!(queue.try_lock(&region, owner(&queue)).is_err_and(|error| error == InUse));
    assert!(queue.try_lock(&region, other).unwrap().is_none());
    drop(locked);
    assert!(queue.try_lock(&region, other).unwrap().is_some());
}

/// Threads that put and get, and wait for messages, places and the lock: each message is got exactly once.
#[test]
fn threads() {
    let _limit = limit(120);
    put_and_get::<Lifo>(0);
    put_and_get::<Lifo>(2);
    put_and_get::<Priority>(0);
    put_and_get::<Priority>(5);
}

fn put_and_get<O: Order>(maxsize: i64) {
    const EACH: u64 = 20_000;
    const THREADS: u32 = 3;
    let (region, me) = region();
    let queue = region.create_ordered_queue::<O>(me, maxsize).unwrap();
    let (got, all) = channel();
    let as_thread = |thread| Owner { peer: me, thread };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (queue, region, got) = (&queue, &region, got.clone());
            scope.spawn(move || {
                let mut message = Message::new(region, me);
                for number in 0..EACH {
                    let value = u64::from(thread) * EACH + number;
                    message.set_word(1, value);
                    let mut encoder = Encoder::default();
                    if number % 8 == 0 {
                        encoder.other()
                    } else {
                        encoder.integer(value as i64 % 100)
                    }
                    let keys = [encoder.finish()];
                    let put = Put { messages: slice::from_mut(&mut message), keys: &keys, put: 0 };
                    perform(queue, region, put, as_thread(thread + 1)).unwrap();
                }
            });
            scope.spawn(move || {
                let mut message = Message::new(region, me);
                for _ in 0..EACH {
                    let get = Get { message: &mut message, quietly: false };
                    perform(queue, region, get, as_thread(thread + 101)).unwrap();
                    got.send(message.first_word()).unwrap();
                    queue.task_done(region).unwrap();
                }
            });
        }
    });
    drop(got);
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..EACH * u64::from(THREADS)));
    assert_eq!((queue.len(), queue.unfinished()), (0, 0));
    drop(queue);
    assert_empty(&region);
}

fn less(one: Contender<'_, '_>, other: Contender<'_, '_>) -> Result<bool, Infallible> {
    Ok(one.message.first_word() % 100 < other.message.first_word() % 100)
}

/// As a binding does it.
fn perform<O: Order, P: Operation<O>>(
    queue: &OrderedQueue<O>,
    region: &Region,
    mut operation: P,
    me: Owner,
) -> Result<(), P::Error> {
    let parker = Parker::default();
    let patience = Patience::new(None, core::time::Duration::ZERO, &parker);
    let mut turn = None;
    loop {
        let result = match queue.try_lock(region, me).unwrap() {
            Some(mut locked) => operation.perform(&mut locked, less),
            None => match queue.wait_for_lock(&mut operation, region, me, &patience).unwrap() {
                Outcome::Performed(result) => result.map_err(OrderedError::Refused),
                Outcome::Undecided(mut locked) => operation.perform(&mut locked, less),
            },
        };
        match result {
            Ok(()) => return Ok(()),
            Err(OrderedError::Refused(error)) if error != P::NOT_YET => return Err(error),
            Err(_) => drop(turn.take()),
        }
        match queue.wait_for_change(&mut operation, region, me, &patience).unwrap() {
            Outcome::Performed(result) => return result,
            Outcome::Undecided(next) => turn = Some(next),
        }
    }
}
