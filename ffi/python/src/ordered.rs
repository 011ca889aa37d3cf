//! What `LifoQueue` and `PriorityQueue` have of their own: a lock to wait for, keys, and comparing items by value.
//!
//! ```text
//!   with the GIL     the lock is free → put or get, comparing by key, and by value if need be
//!   without it       wait for the lock, for an item or a place → put or get as far as keys decide
//!   with it again    what keys did not decide
//! ```

use std::time::Instant;

use multigil::error::{GetError, OrderedError, WaitError};
use multigil::event::Patience;
use multigil::key::{Encoder, Key, Sequence};
use multigil::object::{Handle, Message};
use multigil::ordered::{Contender, Get, Locked, Name, Operation, Order, OrderedQueue, Outcome, Peek, Places, Put};
use pyo3::ffi;

use crate::handle::owner;
use crate::py::{Owned, Raised, Result, check, raise};
use crate::queue::{Batch, Kind, prepare};
use crate::state::State;
use crate::wait::{self, Subject, Willing};
use crate::{codec, errors};

impl<O: Order> Kind for OrderedQueue<O> {
    const COMPARES: bool = O::BY_PRIORITY;

    #[inline]
    unsafe fn put(
        state: &'static State,
        queue: &Handle<'static, Self>,
        item: *mut ffi::PyObject,
        willing: Willing,
    ) -> Result<()> {
        let mut message = Message::new(queue.region(), queue.owner());
        codec::encode(state, queue, item, &mut message)?;
        let keys = if O::BY_PRIORITY { [key(item)] } else { [Key::default()] };
        let mut put = Put { messages: core::slice::from_mut(&mut message), keys: &keys, put: 0 };
        perform(state, queue, &mut put, &[item], &willing)?.or_else(|error| errors::put(state, error))
    }

    unsafe fn put_all(
        state: &'static State,
        queue: &Handle<'static, Self>,
        messages: &mut [Message<'static>],
        items: &[Owned],
        put: &mut usize,
        willing: Willing,
    ) -> Result<()> {
        let items: Vec<_> = items.iter().map(Owned::as_ptr).collect();
        let keys: Vec<_> = items.iter().map(|item| key(*item)).collect();
        let mut operation = Put { messages, keys: &keys, put: 0 };
        let result = perform(state, queue, &mut operation, &items, &willing);
        *put = operation.put;
        result?.or_else(|error| errors::put(state, error))
    }

    #[inline]
    unsafe fn get(
        state: &'static State,
        queue: &Handle<'static, Self>,
        message: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>> {
        get(state, queue, message, willing, false)
    }

    fn batch<'q>(state: &'static State, queue: &'q Handle<'static, Self>) -> impl Batch + 'q {
        OrderedBatch { state, queue, places: queue.places(queue.region()) }
    }

    unsafe fn peek(
        state: &'static State,
        queue: &Handle<'static, Self>,
        copy: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>> {
        loop {
            match perform(state, queue, &mut Peek { copy }, &[], willing)? {
                Err(GetError::Large(bytes)) => prepare(copy, bytes)?,
                result => return Ok(result),
            }
        }
    }

    unsafe fn shut_down(state: &'static State, queue: &Handle<'static, Self>, immediate: bool) -> Result<()> {
        with_lock(state, queue, |locked| locked.shut_down(immediate))
    }

    unsafe fn clear(state: &'static State, queue: &Handle<'static, Self>) -> Result<()> {
        with_lock(state, queue, |locked| locked.clear())
    }
}

#[inline]
unsafe fn get<O: Order>(
    state: &'static State,
    queue: &Handle<'static, OrderedQueue<O>>,
    message: &mut Message<'_>,
    willing: &Willing,
    quietly: bool,
) -> Result<core::result::Result<(), GetError>> {
    loop {
        match perform(state, queue, &mut Get { message, quietly }, &[], willing)? {
            Err(GetError::Large(bytes)) => prepare(message, bytes)?,
            result => return Ok(result),
        }
    }
}

struct OrderedBatch<'q, O: Order> {
    state: &'static State,
    queue: &'q Handle<'static, OrderedQueue<O>>,
    places: Places<'q>,
}

impl<O: Order> Batch for OrderedBatch<'_, O> {
    unsafe fn get(
        &mut self,
        message: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>> {
        let result = get(self.state, self.queue, message, willing, true)?;
        if result.is_ok() {
            self.places.note();
        }
        Ok(result)
    }

    fn tell(&mut self) {
        self.places.tell();
    }
}

/// Takes the lock, if it is free.
#[inline]
unsafe fn try_lock<'a, O: Order>(queue: &'a Handle<'static, OrderedQueue<O>>) -> Result<Option<Locked<'a, O>>> {
    match queue.try_lock(queue.region(), owner(queue)) {
        Ok(locked) => Ok(locked),
        Err(error) => raise(ffi::PyExc_RuntimeError, &error.to_string()),
    }
}

/// Does something with the lock held that has no need of Python.
unsafe fn with_lock<O: Order>(
    state: &'static State,
    queue: &Handle<'static, OrderedQueue<O>>,
    act: impl Fn(Locked<'_, O>) -> core::result::Result<(), GetError>,
) -> Result<()> {
    let result = if let Some(locked) = try_lock(queue)? {
        act(locked)
    } else {
        let me = owner(queue);
        let lock_and_act = |patience: &Patience<'_>| queue.lock(queue.region(), me, patience).map(&act);
        // Without a deadline there is no other error than the one that `wait` deals with.
        wait::wait(state, Subject::of(queue), None, lock_and_act, |error| *error == WaitError::Interrupted)?
            .unwrap_or(Ok(()))
    };
    result.or_else(|error| errors::get(state, error))
}

/// Puts, gets or looks. `items` are those that are put.
#[inline]
unsafe fn perform<O: Order, P: Operation<O>>(
    state: &'static State,
    queue: &Handle<'static, OrderedQueue<O>>,
    operation: &mut P,
    items: &[*mut ffi::PyObject],
    willing: &Willing,
) -> Result<core::result::Result<(), P::Error>> {
    match (attempt(state, queue, operation, items, willing)?, willing) {
        (Attempt::NotYet, Willing::Until(deadline)) => perform_later(state, queue, operation, items, *deadline),
        (outcome, _) => Ok(outcome.result::<O, P>()),
    }
}

/// Waits for an item or a place.
#[cold]
unsafe fn perform_later<O: Order, P: Operation<O>>(
    state: &'static State,
    queue: &Handle<'static, OrderedQueue<O>>,
    operation: &mut P,
    items: &[*mut ffi::PyObject],
    deadline: Option<Instant>,
) -> Result<core::result::Result<(), P::Error>> {
    loop {
        let outcome = wait::wait(
            state,
            Subject::of(queue),
            deadline,
            |patience| queue.wait_for_change(operation, queue.region(), owner(queue), patience),
            |error| *error == WaitError::Interrupted,
        )?;
        // Held until the attempt is over: if that fails, somebody else is woken.
        let _turn = match outcome {
            Ok(Outcome::Performed(result)) => return Ok(result),
            Ok(Outcome::Undecided(turn)) => turn,
            Err(_) => return Ok(Err(P::NOT_YET)),
        };
        match attempt(state, queue, operation, items, &Willing::Until(deadline))? {
            Attempt::NotYet => {} // somebody else was quicker
            outcome => return Ok(outcome.result::<O, P>()),
        }
    }
}

/// What became of an attempt.
enum Attempt<E> {
    Done(core::result::Result<(), E>),
    /// There is no item, or no place.
    NotYet,
    /// The time was up before the lock was free.
    TimedOut,
}

impl<E> Attempt<E> {
    fn result<O: Order, P: Operation<O, Error = E>>(self) -> core::result::Result<(), E> {
        match self {
            Attempt::Done(result) => result,
            Attempt::NotYet | Attempt::TimedOut => Err(P::NOT_YET),
        }
    }
}

/// Does it if it can be done now: waits for the lock at most.
#[inline]
unsafe fn attempt<O: Order, P: Operation<O>>(
    state: &'static State,
    queue: &Handle<'static, OrderedQueue<O>>,
    operation: &mut P,
    items: &[*mut ffi::PyObject],
    willing: &Willing,
) -> Result<Attempt<P::Error>> {
    // Its objects go when the lock is free again: nobody knows what that runs.
    let mut values = Values { state, queue, items, queued: Vec::new() };
    let result = match try_lock(queue)? {
        Some(mut locked) => operation.perform(&mut locked, |one, other| values.is_less(&one, &other)),
        None => match wait_for_lock(state, queue, operation, willing)? {
            Some(Outcome::Performed(result)) => result.map_err(OrderedError::Refused),
            Some(Outcome::Undecided(mut locked)) => {
                operation.perform(&mut locked, |one, other| values.is_less(&one, &other))
            }
            None => return Ok(Attempt::TimedOut),
        },
    };
    match result {
        Ok(()) => Ok(Attempt::Done(Ok(()))),
        Err(OrderedError::Refused(error)) if error == P::NOT_YET => Ok(Attempt::NotYet),
        Err(OrderedError::Refused(error)) => Ok(Attempt::Done(Err(error))),
        Err(OrderedError::Incomparable(Raised)) => Err(Raised),
    }
}

/// None if the time was up. Who may not wait for an item or a place waits for the lock all the same, as in the standard
/// library.
#[cold]
unsafe fn wait_for_lock<'a, O: Order, P: Operation<O>>(
    state: &'static State,
    queue: &'a Handle<'static, OrderedQueue<O>>,
    operation: &mut P,
    willing: &Willing,
) -> Result<Option<Outcome<P::Error, Locked<'a, O>>>> {
    let deadline = if let Willing::Until(deadline) = willing { *deadline } else { None };
    let outcome = wait::wait(
        state,
        Subject::of(queue),
        deadline,
        |patience| queue.wait_for_lock(operation, queue.region(), owner(queue), patience),
        |error| *error == WaitError::Interrupted,
    )?;
    Ok(outcome.ok())
}

/// Items as Python's objects, for comparing them by value.
struct Values<'a, O: Order> {
    state: &'static State,
    queue: &'a Handle<'static, OrderedQueue<O>>,
    /// Those that are being put.
    items: &'a [*mut ffi::PyObject],
    /// Those of the queue that were compared already.
    queued: Vec<(Name, Owned)>,
}

impl<O: Order> Values<'_, O> {
    /// Whether Python says `one < other`.
    #[cold]
    unsafe fn is_less(&mut self, one: &Contender<'_, '_>, other: &Contender<'_, '_>) -> Result<bool> {
        let (one, other) = (self.value(one)?, self.value(other)?);
        Ok(check(ffi::PyObject_RichCompareBool(one, other, ffi::Py_LT))? != 0)
    }

    /// Borrowed.
    unsafe fn value(&mut self, contender: &Contender<'_, '_>) -> Result<*mut ffi::PyObject> {
        if let Name::Put(number) = contender.name {
            return Ok(self.items[number]);
        }
        if let Some((_, known)) = self.queued.iter().find(|(name, _)| *name == contender.name) {
            return Ok(known.as_ptr());
        }
        let value = codec::decode(self.state, self.queue, contender.message)?;
        let borrowed = value.as_ptr();
        self.queued.push((contender.name, value));
        Ok(borrowed)
    }
}

/// The key of an item.
#[inline]
unsafe fn key(item: *mut ffi::PyObject) -> Key {
    let mut encoder = Encoder::default();
    if item == ffi::Py_None() {
        encoder.other(); // equal to itself, but not to be compared by <
    } else {
        encode(item, &mut encoder);
    }
    encoder.finish()
}

/// Adds a value to a key. No code of Python's runs meanwhile.
unsafe fn encode(value: *mut ffi::PyObject, encoder: &mut Encoder) {
    if encoder.is_cut() {
        return;
    }
    // A subclass will do, if it inherits the comparison.
    let class = ffi::Py_TYPE(value);
    let is = |base: *mut ffi::PyTypeObject, flag: core::ffi::c_ulong| {
        let comparison = |class: *mut ffi::PyTypeObject| (*class).tp_richcompare.map(|function| function as usize);
        class == base || ffi::PyType_HasFeature(class, flag) != 0 && comparison(class) == comparison(base)
    };
    if is(&raw mut ffi::PyLong_Type, ffi::Py_TPFLAGS_LONG_SUBCLASS) {
        let mut overflow = 0;
        let number = ffi::PyLong_AsLongLongAndOverflow(value, &raw mut overflow);
        if overflow == 0 { encoder.integer(number) } else { encoder.other() }
    } else if is(&raw mut ffi::PyUnicode_Type, ffi::Py_TPFLAGS_UNICODE_SUBCLASS) {
        let (kind, data) = (ffi::PyUnicode_KIND(value), ffi::PyUnicode_DATA(value));
        let length = ffi::PyUnicode_GET_LENGTH(value) as usize;
        match kind {
            ffi::PyUnicode_1BYTE_KIND => {
                encoder.text((0..length).map(|place| u32::from(*data.cast::<u8>().add(place))))
            }
            ffi::PyUnicode_2BYTE_KIND => {
                encoder.text((0..length).map(|place| u32::from(*data.cast::<u16>().add(place))));
            }
            _ => encoder.text((0..length).map(|place| *data.cast::<u32>().add(place))),
        }
    } else if is(&raw mut ffi::PyTuple_Type, ffi::Py_TPFLAGS_TUPLE_SUBCLASS) {
        encoder.open(Sequence::Tuple);
        encode_all(ffi::PyTuple_GET_SIZE(value), |place| ffi::PyTuple_GET_ITEM(value, place), encoder);
    } else if !cfg!(Py_GIL_DISABLED) && is(&raw mut ffi::PyList_Type, ffi::Py_TPFLAGS_LIST_SUBCLASS) {
        // Without a GIL, somebody might change it meanwhile.
        encoder.open(Sequence::List);
        encode_all(ffi::PyList_GET_SIZE(value), |place| ffi::PyList_GET_ITEM(value, place), encoder);
    } else if is(&raw mut ffi::PyBytes_Type, ffi::Py_TPFLAGS_BYTES_SUBCLASS) {
        let (start, length) = (ffi::PyBytes_AS_STRING(value), ffi::PyBytes_Size(value));
        encoder.bytes(core::slice::from_raw_parts(start.cast(), length as usize));
    } else if class == &raw mut ffi::PyFloat_Type {
        encoder.float(ffi::PyFloat_AS_DOUBLE(value));
    } else if value == ffi::Py_None() {
        encoder.nothing();
    } else {
        encoder.other();
    }
}

unsafe fn encode_all(
    length: ffi::Py_ssize_t,
    value: impl Fn(ffi::Py_ssize_t) -> *mut ffi::PyObject,
    encoder: &mut Encoder,
) {
    for place in 0..length {
        encode(value(place), encoder);
        if encoder.is_cut() {
            return;
        }
    }
    encoder.close();
}
