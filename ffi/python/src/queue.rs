//! `Queue`, `LifoQueue`, `PriorityQueue` and `SimpleQueue`: those of the module `queue` in every method, between threads
//! and interpreters.
//!
//! The methods are the same for all of them: they ask what kind of queue an object is a handle of, and a subclass with
//! hooks of its own is none of them.

use core::cell::Cell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use core::time::Duration;
use std::time::Instant;

use multigil::control::{AnyQueue, ForDone, ForPlace};
use multigil::error::{GetError, OutOfMemory, PutError, WaitError};
use multigil::event::Patience;
use multigil::layout::ObjectKind;
use multigil::object::{Handle, Message, SharedState};
use multigil::ordered::{Lifo, LifoQueue, Priority, PriorityQueue};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::handle::{self, HandleObject, Watched};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::{Objects, Place, State};
use crate::wait::{self, SPIN, Subject, Willing};
use crate::{alarm, asyncio, batch, codec, custom, errors};

/// A kind of shared queue.
pub(crate) trait Kind: AnyQueue + SharedState + Sized {
    /// Whether items are compared: `put_all` is to have them beside the messages.
    const COMPARES: bool;

    /// Puts an item.
    unsafe fn put(
        state: &'static State,
        queue: &Handle<'static, Self>,
        item: *mut ffi::PyObject,
        willing: Willing,
    ) -> Result<()>;

    /// Puts all messages, and counts in `put` those that were.
    unsafe fn put_all(
        state: &'static State,
        queue: &Handle<'static, Self>,
        messages: &mut [Message<'static>],
        items: &[Owned],
        put: &mut usize,
        willing: Willing,
    ) -> Result<()>;

    /// Takes the next item's message.
    unsafe fn get(
        state: &'static State,
        queue: &Handle<'static, Self>,
        message: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>>;

    /// Several such calls, of which producers are told once.
    fn batch<'q>(state: &'static State, queue: &'q Handle<'static, Self>) -> impl Batch + 'q;

    /// Copies the next item's message.
    unsafe fn peek(
        state: &'static State,
        queue: &Handle<'static, Self>,
        copy: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>>;

    unsafe fn shut_down(state: &'static State, queue: &Handle<'static, Self>, immediate: bool) -> Result<()>;

    unsafe fn clear(state: &'static State, queue: &Handle<'static, Self>) -> Result<()>;
}

/// Several gets. Producers are told when it is dropped at the latest.
pub(crate) trait Batch {
    /// Takes the next item's message.
    unsafe fn get(
        &mut self,
        message: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>>;

    /// Tells producers of the places that are free so far.
    fn tell(&mut self);
}

/// Does something with the shared queue that is behind an object, whatever kind it is, or something else if it is one
/// of Python's ([`custom`]).
macro_rules! with_queue {
    ($object:expr, |$state:ident, $queue:ident| $body:expr, $custom:expr) => {
        match $crate::handle::HandleObject::<multigil::queue::Queue>::kind($object) {
            Some(multigil::layout::ObjectKind::Queue) => {
                let ($state, $queue) = $crate::handle::HandleObject::<multigil::queue::Queue>::of($object);
                $body
            }
            Some(multigil::layout::ObjectKind::LifoQueue) => {
                let ($state, $queue) = $crate::handle::HandleObject::<multigil::ordered::LifoQueue>::of($object);
                $body
            }
            Some(multigil::layout::ObjectKind::PriorityQueue) => {
                let ($state, $queue) = $crate::handle::HandleObject::<multigil::ordered::PriorityQueue>::of($object);
                $body
            }
            _ => $custom,
        }
    };
}
pub(crate) use with_queue;

impl Kind for Queue {
    const COMPARES: bool = false;

    #[inline(always)]
    unsafe fn put(
        state: &'static State,
        queue: &Handle<'static, Queue>,
        item: *mut ffi::PyObject,
        willing: Willing,
    ) -> Result<()> {
        let mut message = Message::new(queue.region(), queue.owner());
        codec::encode(state, queue, item, &mut message)?;
        match queue.put(&mut message, queue.region(), queue.owner(), None) {
            Ok(()) => Ok(()),
            Err(PutError::Full) => put_waiting(state, queue, &mut message, willing),
            Err(error) => errors::put(state, error),
        }
    }

    unsafe fn put_all(
        state: &'static State,
        queue: &Handle<'static, Queue>,
        messages: &mut [Message<'static>],
        _: &[Owned],
        put: &mut usize,
        willing: Willing,
    ) -> Result<()> {
        let mut put_all =
            |patience: Option<&Patience<'_>>| queue.put_many(messages, put, queue.region(), queue.owner(), patience);
        let result = match (put_all(None), willing) {
            (Err(PutError::Full), Willing::Until(deadline)) => wait::wait(
                state,
                Subject::of(queue),
                deadline,
                |patience| put_all(Some(patience)),
                |error| *error == PutError::Interrupted,
            )?,
            (result, _) => result,
        };
        result.or_else(|error| errors::put(state, error))
    }

    #[inline(always)]
    unsafe fn get(
        state: &'static State,
        queue: &Handle<'static, Queue>,
        message: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>> {
        receive(state, queue, message, willing, SPIN, |message, patience| {
            queue.get(message, queue.region(), queue.owner(), patience)
        })
    }

    fn batch<'q>(state: &'static State, queue: &'q Handle<'static, Queue>) -> impl Batch + 'q {
        FifoBatch { state, queue, batch: queue.batch(queue.region(), queue.owner()) }
    }

    unsafe fn peek(
        state: &'static State,
        queue: &Handle<'static, Queue>,
        copy: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>> {
        receive(state, queue, copy, willing, SPIN, |copy, patience| {
            queue.peek(copy, queue.region(), queue.owner(), patience)
        })
    }

    unsafe fn shut_down(_: &'static State, queue: &Handle<'static, Queue>, immediate: bool) -> Result<()> {
        queue.shut_down(immediate, queue.region(), queue.owner());
        Ok(())
    }

    unsafe fn clear(state: &'static State, queue: &Handle<'static, Queue>) -> Result<()> {
        let clear = |patience: &Patience<'_>| queue.clear(queue.region(), queue.owner(), patience);
        // Without a deadline there is no other error than the one that `wait` deals with.
        let _ = wait::wait(state, Subject::of(queue), None, clear, |error| *error == WaitError::Interrupted)?;
        Ok(())
    }
}

struct FifoBatch<'q> {
    state: &'static State,
    queue: &'q Handle<'static, Queue>,
    batch: multigil::queue::Batch<'q>,
}

impl Batch for FifoBatch<'_> {
    #[inline(always)]
    unsafe fn get(
        &mut self,
        message: &mut Message<'_>,
        willing: &Willing,
    ) -> Result<core::result::Result<(), GetError>> {
        let batch = &mut self.batch;
        receive(self.state, self.queue, message, willing, SPIN, |message, patience| batch.get(message, patience))
    }

    fn tell(&mut self) {
        self.batch.tell();
    }
}

/// The message is ready; only a place is missing.
#[cold]
unsafe fn put_waiting(
    state: &State,
    queue: &Handle<'static, Queue>,
    message: &mut Message<'_>,
    willing: Willing,
) -> Result<()> {
    let Willing::Until(deadline) = willing else { return errors::put(state, PutError::Full) };
    let result = wait::wait(
        state,
        Subject::of(queue),
        deadline,
        |patience| queue.put(message, queue.region(), queue.owner(), Some(patience)),
        |error| *error == PutError::Interrupted,
    )?;
    result.or_else(|error| errors::put(state, error))
}

/// Has `take` fill the message, waits for it if need be and the caller is willing, spinning first for so long, and
/// prepares for a large one.
#[inline(always)]
pub(crate) unsafe fn receive(
    state: &State,
    queue: &Handle<'static, Queue>,
    message: &mut Message<'_>,
    willing: &Willing,
    spin: Duration,
    mut take: impl FnMut(&mut Message<'_>, Option<&Patience<'_>>) -> core::result::Result<(), GetError>,
) -> Result<core::result::Result<(), GetError>> {
    loop {
        let result = match (take(message, None), willing) {
            (Err(GetError::Empty | GetError::Peeked), Willing::Until(deadline)) => {
                wait_for_item(state, queue, *deadline, spin, |patience| take(message, Some(patience)))?
            }
            (result, _) => result,
        };
        match result {
            Err(GetError::Large(bytes)) => prepare(message, bytes)?,
            Err(GetError::Peeked) => settle(state, queue)?,
            result => return Ok(result),
        }
    }
}

/// Lets the message become so large, if there is memory for what it will become. If not, this raises MemoryError and
/// the item stays in its queue.
#[cold]
pub(crate) unsafe fn prepare(message: &mut Message<'_>, bytes: u64) -> Result<()> {
    drop(Owned::from_raw(ffi::PyBytes_FromStringAndSize(core::ptr::null(), bytes as ffi::Py_ssize_t))?);
    message.prepare(bytes);
    Ok(())
}

#[cold]
unsafe fn wait_for_item(
    state: &State,
    queue: &Handle<'static, Queue>,
    deadline: Option<Instant>,
    spin: Duration,
    take: impl FnMut(&Patience<'_>) -> core::result::Result<(), GetError>,
) -> Result<core::result::Result<(), GetError>> {
    wait::wait_spinning(state, Subject::of(queue), deadline, spin, take, |error| *error == GetError::Interrupted)
}

/// Waits for somebody who is looking at the oldest item: to go past would be to take a later one first.
#[cold]
unsafe fn settle(state: &State, queue: &Handle<'static, Queue>) -> Result<()> {
    let settle = |patience: &Patience<'_>| queue.settle(queue.region(), patience);
    // Without a deadline there is no other error than the one that `wait` deals with.
    let _ = wait::wait(state, Subject::of(queue), None, settle, |error| *error == WaitError::Interrupted)?;
    Ok(())
}

/// Takes an item. Those of more than a message's usual size are prepared for.
#[inline(always)]
unsafe fn get<K: Kind>(
    state: &'static State,
    queue: &Handle<'static, K>,
    willing: &Willing,
) -> Result<core::result::Result<Owned, GetError>> {
    let mut message = Message::new(queue.region(), queue.owner());
    match K::get(state, queue, &mut message, willing)? {
        Ok(()) => codec::decode(state, queue, &message).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

unsafe extern "C" fn queue_put(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| {
                if let Some(item) = arguments.single() {
                    return Kind::put(state, queue, item, Willing::Until(None));
                }
                let [item, block, timeout] = arguments.parse("put", [c"item", c"block", c"timeout"], 1)?;
                Kind::put(state, queue, item, put_willing(state, &**queue, block, timeout)?)
            },
            custom::call(object, c"put", arguments).map(drop)
        )
    })
}

/// `SimpleQueue.put` takes `block` and `timeout` for the sake of `Queue`'s and looks at neither: it never waits.
unsafe extern "C" fn simple_put(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [item, _, _] = Arguments::new(values, count, names).parse("put", [c"item", c"block", c"timeout"], 1)?;
        let (state, queue) = HandleObject::<Queue>::of(object);
        Kind::put(state, queue, item, Willing::No)
    })
}

unsafe extern "C" fn put_nowait(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| {
                let [item] = arguments.parse("put_nowait", [c"item"], 1)?;
                Kind::put(state, queue, item, Willing::No)
            },
            custom::call(object, c"put_nowait", arguments).map(drop)
        )
    })
}

unsafe extern "C" fn queue_get(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| {
                let willing = if arguments.is_empty() {
                    Willing::Until(None)
                } else {
                    let [block, timeout] = arguments.parse("get", [c"block", c"timeout"], 0)?;
                    get_willing(state, &**queue, block, timeout)?
                };
                get(state, queue, &willing)?.or_else(|error| not_got(state, object, error))
            },
            custom::call(object, c"get", arguments)
        )
    })
}

/// Raises what an attempt to get failed with.
#[cold]
pub(crate) unsafe fn not_got<T>(state: &State, object: *mut ffi::PyObject, error: GetError) -> Result<T> {
    if error == GetError::Empty {
        alarm::missed(object);
    }
    errors::get(state, error)
}

/// What a put waits for.
pub(crate) unsafe fn watch_place(state: &State, object: *mut ffi::PyObject) -> Result<Watched> {
    check_kind(state, object)?;
    with_queue!(
        object,
        |_state, queue| Ok(Watched { thing: Box::new(ForPlace(&**queue)), place: Some(handle::place(queue)) }),
        unreachable!("it was checked")
    )
}

/// What [`join`] waits for.
pub(crate) unsafe fn watch_done(state: &State, object: *mut ffi::PyObject) -> Result<Watched> {
    check_kind(state, object)?;
    with_queue!(
        object,
        |_state, queue| Ok(Watched { thing: Box::new(ForDone(&**queue)), place: Some(handle::place(queue)) }),
        unreachable!("it was checked")
    )
}

unsafe fn check_kind(state: &State, object: *mut ffi::PyObject) -> Result<()> {
    match handle::whereabouts_of(state, object) {
        Some((_, _, ObjectKind::Queue | ObjectKind::LifoQueue | ObjectKind::PriorityQueue)) => Ok(()),
        _ => raise(ffi::PyExc_TypeError, "it has to be a queue"),
    }
}

/// As the standard library's: a queue that is shut down and empty says so before it looks at the timeout.
pub(crate) unsafe fn get_willing(
    state: &State,
    queue: &impl AnyQueue,
    block: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<Willing> {
    if queue.is_shut_down() && queue.is_empty() {
        return errors::get(state, GetError::ShutDown);
    }
    wait::queue_timeout(block, timeout)
}

/// As the standard library's: a queue that is shut down says so first, and one without a bound, whose `put` never
/// waits, does not look at the timeout.
pub(crate) unsafe fn put_willing(
    state: &State,
    queue: &impl AnyQueue,
    block: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<Willing> {
    if queue.is_shut_down() {
        return errors::put(state, PutError::ShutDown);
    }
    if queue.maxsize() > 0 { wait::queue_timeout(block, timeout) } else { Ok(Willing::No) }
}

unsafe extern "C" fn get_nowait(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |state, queue| get(state, queue, &Willing::No)?.or_else(|error| not_got(state, object, error)),
            custom::call(object, c"get_nowait", Arguments::NONE)
        )
    })
}

/// `__next__`: waits for an item, and ends when the queue is shut down and empty.
unsafe extern "C" fn next(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            // An error without an exception: that is the end.
            |state, queue| get(state, queue, &Willing::Until(None))?.map_err(|_| Raised),
            custom::call(object, c"__next__", Arguments::NONE)
        )
    })
}

unsafe extern "C" fn peek(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| {
                let [block, timeout] = arguments.parse("peek", [c"block", c"timeout"], 0)?;
                let willing = get_willing(state, &**queue, block, timeout)?;
                let mut copy = Message::new(queue.region(), queue.owner());
                match Kind::peek(state, queue, &mut copy, &willing)? {
                    Ok(()) => codec::decode(state, queue, &copy),
                    Err(error) => not_got(state, object, error),
                }
            },
            custom::call(object, c"peek", arguments)
        )
    })
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        with_queue!(
            object,
            |state, queue| Kind::clear(state, queue),
            custom::call(object, c"clear", Arguments::NONE).map(drop)
        )
    })
}

unsafe extern "C" fn enter(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Ok(Owned::from_borrowed(object)))
}

unsafe extern "C" fn exit(
    object: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // The method, which a subclass may have overridden.
    py::guard_none(|| Owned::from_borrowed(object).attribute(c"shutdown")?.call(&[]).map(drop))
}

unsafe extern "C" fn iterate(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Ok(Owned::from_borrowed(object)))
}

unsafe extern "C" fn qsize(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |_state, queue| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(queue.len())),
            custom::call(object, c"qsize", Arguments::NONE)
        )
    })
}

unsafe extern "C" fn empty(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |_state, queue| Ok(Owned::bool(queue.is_empty())),
            custom::call(object, c"empty", Arguments::NONE)
        )
    })
}

unsafe extern "C" fn full(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |_state, queue| Ok(Owned::bool(queue.is_full())),
            custom::call(object, c"full", Arguments::NONE)
        )
    })
}

unsafe extern "C" fn task_done(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        with_queue!(
            object,
            |_state, queue| queue
                .task_done(queue.region())
                .or_else(|error| raise(ffi::PyExc_ValueError, &error.to_string())),
            custom::call(object, c"task_done", Arguments::NONE).map(drop)
        )
    })
}

unsafe extern "C" fn join(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        with_queue!(
            object,
            |state, queue| {
                if queue.unfinished() != 0 {
                    // Without a deadline there is no other error than the one that `wait` deals with.
                    let _ = wait::wait(
                        state,
                        Subject::of(queue),
                        None,
                        |patience| queue.join(queue.region(), patience),
                        |error| *error == WaitError::Interrupted,
                    )?;
                }
                Ok(())
            },
            custom::call(object, c"join", Arguments::NONE).map(drop)
        )
    })
}

unsafe extern "C" fn shutdown(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| {
                let [immediate] = arguments.parse("shutdown", [c"immediate"], 0)?;
                Kind::shut_down(state, queue, py::truth(immediate, false)?)
            },
            custom::call(object, c"shutdown", arguments).map(drop)
        )
    })
}

unsafe extern "C" fn reduce(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    unsafe fn reduced<K: Kind>(object: *mut ffi::PyObject, _: &Handle<'static, K>) -> Result<Owned> {
        handle::reduced::<K>(object, None)
    }
    py::guard(|| with_queue!(object, |_state, queue| reduced(object, queue), custom::refuse_to_reduce(object)))
}

const MAXSIZE: &CStr = c"maxsize";
const REDELIVER: &CStr = c"redeliver";
const UNFINISHED_TASKS: &CStr = c"unfinished_tasks";
const IS_SHUTDOWN: &CStr = c"is_shutdown";

unsafe extern "C" fn get_maxsize(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |_state, queue| Owned::from_raw(ffi::PyLong_FromLongLong(queue.maxsize())),
            custom::get_attribute(object, MAXSIZE)
        )
    })
}

unsafe extern "C" fn set_maxsize(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        with_queue!(
            object,
            |_state, queue| {
                if value.is_null() {
                    return raise(ffi::PyExc_AttributeError, "maxsize can't be deleted");
                }
                queue.set_maxsize(size(value)?, queue.region());
                Ok(())
            },
            custom::set_attribute(object, MAXSIZE, value)
        )
    })
}

unsafe extern "C" fn get_unfinished(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |_state, queue| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(queue.unfinished())),
            custom::get_attribute(object, UNFINISHED_TASKS)
        )
    })
}

unsafe extern "C" fn get_is_shutdown(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        with_queue!(
            object,
            |_state, queue| Ok(Owned::bool(queue.is_shut_down())),
            custom::get_attribute(object, IS_SHUTDOWN)
        )
    })
}

unsafe extern "C" fn set_unfinished(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| set_if_custom(object, UNFINISHED_TASKS, value))
}

unsafe extern "C" fn set_is_shutdown(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| set_if_custom(object, IS_SHUTDOWN, value))
}

/// An attribute that only Python's queues can be given.
unsafe fn set_if_custom(object: *mut ffi::PyObject, name: &CStr, value: *mut ffi::PyObject) -> Result<()> {
    if HandleObject::<Queue>::kind(object).is_none() {
        return custom::set_attribute(object, name, value);
    }
    raise(ffi::PyExc_AttributeError, &format!("{} can't be set", name.to_string_lossy()))
}

/// A size: any integer; one beyond 64 bits is as good as none.
unsafe fn size(object: *mut ffi::PyObject) -> Result<i64> {
    let number = Owned::from_raw(ffi::PyNumber_Index(object))?;
    let mut overflow = 0;
    let value = ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &raw mut overflow);
    if value == -1 && !ffi::PyErr_Occurred().is_null() {
        return Err(Raised);
    }
    Ok(if overflow == 0 { value } else { 0 })
}

/// Makes an object of what `create` makes, or one of Python's queues if a class that is derived from `base` has hooks.
unsafe fn make<K: Kind>(
    class: *mut ffi::PyTypeObject,
    base: fn(&Objects) -> &Cell<*mut ffi::PyObject>,
    create: impl FnOnce(Place) -> core::result::Result<Handle<'static, K>, OutOfMemory>,
) -> Result<Owned> {
    let state: &'static State = crate::state_of_type(class)?;
    if custom::has_hooks(class, state.object(base(&state.objects))?.as_ptr())? {
        return handle::wrap_nothing::<K>(state, class);
    }
    handle::wrap_made(state, class, create(state.here()))
}

// The arguments of the constructors are `initialize`'s business: a subclass may have others.

unsafe extern "C" fn new_queue(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| make(class, |objects| &objects.queue_type, |place| place.region.create_queue(place.me, 0)))
}

unsafe extern "C" fn new_lifo_queue(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let create = |place: Place| place.region.create_ordered_queue::<Lifo>(place.me, 0);
    py::guard(|| make(class, |objects| &objects.lifo_queue_type, create))
}

unsafe extern "C" fn new_priority_queue(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let create = |place: Place| place.region.create_ordered_queue::<Priority>(place.me, 0);
    py::guard(|| make(class, |objects| &objects.priority_queue_type, create))
}

unsafe extern "C" fn initialize(
    object: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    py::guard_status(|| {
        py::with_arguments(arguments, keywords, |arguments| {
            if HandleObject::<Queue>::kind(object) == Some(ObjectKind::Queue) {
                return initialize_queue(object, &arguments);
            }
            with_queue!(
                object,
                |_state, queue| {
                    let [maxsize] = arguments.parse("Queue", [MAXSIZE], 0)?;
                    let maxsize = if maxsize.is_null() { 0 } else { size(maxsize)? };
                    queue.set_maxsize(maxsize, queue.region());
                    Ok(())
                },
                custom::call(object, c"__init__", arguments).map(drop)
            )
        })
    })
}

/// The same for the one kind that delivers again. What it does so is a keyword only, as it is none of `queue.Queue`'s.
unsafe fn initialize_queue(object: *mut ffi::PyObject, arguments: &Arguments) -> Result<()> {
    let (_state, queue) = HandleObject::<Queue>::of(object);
    arguments.positional_at_most("Queue", 1)?;
    let [maxsize, redeliver] = arguments.parse("Queue", [MAXSIZE, REDELIVER], 0)?;
    let maxsize = if maxsize.is_null() { 0 } else { size(maxsize)? };
    let redelivers = py::truth(redeliver, false)?;
    if !queue.set_redelivers(redelivers, queue.region(), queue.owner()) {
        return raise(ffi::PyExc_RuntimeError, "redeliver cannot be changed any more: items were put");
    }
    queue.set_maxsize(maxsize, queue.region());
    Ok(())
}

unsafe extern "C" fn get_redeliver(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let redelivers = HandleObject::<Queue>::kind(object) == Some(ObjectKind::Queue) && {
            let (_state, queue) = HandleObject::<Queue>::of(object);
            queue.redelivers()
        };
        Ok(Owned::bool(redelivers))
    })
}

unsafe extern "C" fn get_redelivered(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let redelivered = HandleObject::<Queue>::kind(object) == Some(ObjectKind::Queue) && {
            let (_state, queue) = HandleObject::<Queue>::of(object);
            queue.is_redelivered(queue.region())
        };
        Ok(Owned::bool(redelivered))
    })
}

unsafe extern "C" fn new_simple_queue(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        py::check_no_arguments("SimpleQueue", class, &state.objects.simple_queue_type, arguments, keywords)?;
        let place = state.here();
        handle::wrap_made(state, class, place.region.create_queue(place.me, 0))
    })
}

const ITERATE: ffi::PyType_Slot = ffi::PyType_Slot { slot: ffi::Py_tp_iter, pfunc: iterate as *mut c_void };
const NEXT: ffi::PyType_Slot = ffi::PyType_Slot { slot: ffi::Py_tp_iternext, pfunc: next as *mut c_void };

const QSIZE: ffi::PyMethodDef =
    py::method_no_args(c"qsize", qsize, c"qsize($self)\n--\n\nThe number of items, as it was a moment ago.");
const EMPTY: ffi::PyMethodDef =
    py::method_no_args(c"empty", empty, c"empty($self)\n--\n\nWhether there was no item a moment ago.");
const PUT_DOC: &core::ffi::CStr = c"put($self, item, block=True, timeout=None)\n--\n\n\
Put an item into the queue.\n\n\
If block is true, wait for a place, at most timeout seconds if that is not None, and raise Full when there was none.\n\
Otherwise raise Full at once. Raises ShutDown after shutdown(), MemoryError when there is no memory for the item, and\n\
whatever pickling it raises; the queue is as it was then.";
const GET_DOC: &core::ffi::CStr = c"get($self, block=True, timeout=None)\n--\n\n\
Take the next item out of the queue.\n\n\
If block is true, wait for one, at most timeout seconds if that is not None, and raise Empty when none came. Otherwise\n\
raise Empty at once. Raises ShutDown when the queue is shut down and empty, and whatever unpickling the item raises.";
const PUT_NOWAIT: ffi::PyMethodDef =
    py::method_fast(c"put_nowait", put_nowait, c"put_nowait($self, item)\n--\n\nThe same as put(item, block=False).");
const GET: ffi::PyMethodDef = py::method_fast(c"get", queue_get, GET_DOC);
const GET_NOWAIT: ffi::PyMethodDef =
    py::method_no_args(c"get_nowait", get_nowait, c"get_nowait($self)\n--\n\nThe same as get(block=False).");
const PUT_MANY: ffi::PyMethodDef = py::method_fast(
    c"put_many",
    batch::put_many,
    c"put_many($self, items, block=True, timeout=None)\n--\n\n\
Put all items of an iterable into the queue, in their order, and wake those who wait for them once.\n\n\
All are pickled before the first is put. block and timeout are as for put(), timeout for all of them together. Whatever\n\
is raised (Full, ShutDown, MemoryError, by iterating or pickling, by a signal handler) has the attribute count: how many\n\
were put, so that items[error.count:] were not.",
);
const GET_MANY: ffi::PyMethodDef = py::method_fast(
    c"get_many",
    batch::get_many,
    c"get_many($self, count=None, block=True, timeout=None)\n--\n\n\
Wait for an item as get() does, and return it in a list with all that are there, or up to count.\n\n\
Those who wait for a place are woken once. Raises Empty and ShutDown as get() does, if there is not even one item. What\n\
unpickling an item raises has the attribute items, a list of those taken before it; those after it stay in the queue.",
);
const PEEK: ffi::PyMethodDef = py::method_fast(
    c"peek",
    peek,
    c"peek($self, block=True, timeout=None)\n--\n\n\
Return the next item, or rather a copy of it, and leave it in the queue. Waits and raises as get() does.",
);
const CLEAR: ffi::PyMethodDef = py::method_no_args(
    c"clear",
    clear,
    c"clear($self)\n--\n\nThrow away all items that are there now. Each counts as done.",
);
const REDUCE: ffi::PyMethodDef = py::method_no_args(c"__reduce__", reduce, c"Pickle the queue by its id.");

const QUEUE_HOOKS: [ffi::PyMethodDef; 4] = custom::hooks::<{ custom::QUEUE }>();
const LIFO_QUEUE_HOOKS: [ffi::PyMethodDef; 4] = custom::hooks::<{ custom::LIFO_QUEUE }>();
const PRIORITY_QUEUE_HOOKS: [ffi::PyMethodDef; 4] = custom::hooks::<{ custom::PRIORITY_QUEUE }>();

static mut QUEUE_METHODS: [ffi::PyMethodDef; 27] = [
    py::method_fast(c"put", queue_put, PUT_DOC),
    GET,
    PUT_NOWAIT,
    GET_NOWAIT,
    PUT_MANY,
    GET_MANY,
    PEEK,
    CLEAR,
    QSIZE,
    EMPTY,
    py::method_no_args(c"full", full, c"full($self)\n--\n\nWhether there was no place a moment ago."),
    py::method_no_args(
        c"task_done",
        task_done,
        c"task_done($self)\n--\n\nReport an item that was got as done. Raises ValueError if there was none.",
    ),
    py::method_no_args(c"join", join, c"join($self)\n--\n\nWait until every item that was put is reported done."),
    py::method_fast(
        c"shutdown",
        shutdown,
        c"shutdown($self, immediate=False)\n--\n\n\
Let no more items in: puts raise ShutDown, and so do gets once the queue is empty.\n\n\
If immediate is true, the queue is emptied now, and each item that is thrown away counts as done.",
    ),
    py::method_no_args(c"__enter__", enter, c"Give the queue itself."),
    py::method_fast(c"__exit__", exit, c"Shut the queue down."),
    asyncio::AGET,
    asyncio::APUT,
    asyncio::AJOIN,
    asyncio::QUEUE_FILENO,
    REDUCE,
    py::CLASS_GET_ITEM,
    QUEUE_HOOKS[0],
    QUEUE_HOOKS[1],
    QUEUE_HOOKS[2],
    QUEUE_HOOKS[3],
    py::METHODS_END,
];

/// Everything else is inherited.
const fn hooks_alone(hooks: [ffi::PyMethodDef; 4]) -> [ffi::PyMethodDef; 5] {
    let [init, qsize, put, get] = hooks;
    [init, qsize, put, get, py::METHODS_END]
}

static mut LIFO_QUEUE_METHODS: [ffi::PyMethodDef; 5] = hooks_alone(LIFO_QUEUE_HOOKS);
static mut PRIORITY_QUEUE_METHODS: [ffi::PyMethodDef; 5] = hooks_alone(PRIORITY_QUEUE_HOOKS);

static mut SIMPLE_QUEUE_METHODS: [ffi::PyMethodDef; 16] = [
    py::method_fast(
        c"put",
        simple_put,
        c"put($self, item, block=True, timeout=None)\n--\n\n\
Put an item into the queue, which never waits; block and timeout are there for the sake of Queue's.",
    ),
    GET,
    PUT_NOWAIT,
    GET_NOWAIT,
    PUT_MANY,
    GET_MANY,
    PEEK,
    CLEAR,
    QSIZE,
    EMPTY,
    asyncio::AGET,
    asyncio::APUT,
    asyncio::QUEUE_FILENO,
    REDUCE,
    py::CLASS_GET_ITEM,
    py::METHODS_END,
];

static mut QUEUE_ATTRIBUTES: [ffi::PyGetSetDef; 6] = [
    ffi::PyGetSetDef {
        name: MAXSIZE.as_ptr(),
        get: Some(get_maxsize),
        set: Some(set_maxsize),
        doc: c"The most items that the queue holds; 0 for any number. May be changed while the queue is in use."
            .as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: UNFINISHED_TASKS.as_ptr(),
        get: Some(get_unfinished),
        set: Some(set_unfinished),
        doc: c"How many items were put and not reported done.".as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: IS_SHUTDOWN.as_ptr(),
        get: Some(get_is_shutdown),
        set: Some(set_is_shutdown),
        doc: c"Whether shutdown() was called.".as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: REDELIVER.as_ptr(),
        get: Some(get_redeliver),
        set: None,
        doc: c"Whether items are delivered again that somebody got and did not report done before it died.".as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: c"redelivered".as_ptr(),
        get: Some(get_redelivered),
        set: None,
        doc: c"Whether the item that this thread got last, and did not report done, is one that somebody got before."
            .as_ptr(),
        closure: null_mut(),
    },
    py::ATTRIBUTES_END,
];

/// Makes the type `Queue`.
pub(crate) unsafe fn make_queue_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Queue(maxsize=0, *, redeliver=False)\n--\n\n\
A first-in, first-out queue shared by threads and interpreters; queue.Queue in every method.\n\n\
maxsize is the most items that it holds; 0 or less for any number. Items are copied: exact int, float, str, bytes, bool\n\
and None as they are, anything else by pickle. A queue may be sent to other interpreters, in items and as an argument.\n\n\
With redeliver=True, an item that was got stays in the queue's keeping until task_done() reports it. If the process or\n\
interpreter that got it ends before, the item comes back and is delivered again, before all others; the attribute\n\
redelivered tells. task_done() reports the oldest item that the calling thread got; one that got none, its process's oldest.";
    let initialize = ffi::PyType_Slot { slot: ffi::Py_tp_init, pfunc: initialize as *mut c_void };
    handle::make_type::<Queue>(
        module,
        c"multigil.Queue",
        doc,
        new_queue,
        (&raw mut QUEUE_METHODS).cast(),
        (&raw mut QUEUE_ATTRIBUTES).cast(),
        &[initialize, ITERATE, NEXT, asyncio::ITERATE, asyncio::NEXT],
    )
}

/// Makes the type `LifoQueue`, derived from `Queue`.
pub(crate) unsafe fn make_lifo_queue_type(module: *mut ffi::PyObject, queue: &Owned) -> Result<Owned> {
    let doc = c"LifoQueue(maxsize=0)\n--\n\n\
A queue of which the item that was put last comes first, shared by threads and interpreters; queue.LifoQueue in every\n\
method. The rest is as for Queue.";
    let slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_new, pfunc: new_lifo_queue as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: (&raw mut LIFO_QUEUE_METHODS).cast() },
    ];
    handle::make_subtype::<LifoQueue>(module, c"multigil.LifoQueue", doc, queue, &slots)
}

/// Makes the type `PriorityQueue`, derived from `Queue`.
pub(crate) unsafe fn make_priority_queue_type(module: *mut ffi::PyObject, queue: &Owned) -> Result<Owned> {
    let doc = c"PriorityQueue(maxsize=0)\n--\n\n\
A queue of which the least item comes first, shared by threads and interpreters; queue.PriorityQueue in every method.\n\n\
Items that are numbers, str or bytes, or tuples and lists that begin with such, are compared without Python as far as\n\
that decides. Others are compared by their own <, of copies in the interpreter that puts or gets; others wait meanwhile.\n\
What a comparison raises ends the put or get, and the queue is as it was. It cannot use the queue itself: that raises\n\
RuntimeError. The rest is as for Queue.";
    let slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_new, pfunc: new_priority_queue as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: (&raw mut PRIORITY_QUEUE_METHODS).cast() },
    ];
    handle::make_subtype::<PriorityQueue>(module, c"multigil.PriorityQueue", doc, queue, &slots)
}

/// Makes the type `SimpleQueue`.
pub(crate) unsafe fn make_simple_queue_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"SimpleQueue()\n--\n\n\
An unbounded first-in, first-out queue shared by threads and interpreters; queue.SimpleQueue in every method.";
    let methods = (&raw mut SIMPLE_QUEUE_METHODS).cast();
    handle::make_type::<Queue>(
        module,
        c"multigil.SimpleQueue",
        doc,
        new_simple_queue,
        methods,
        null_mut(),
        &[ITERATE, NEXT],
    )
}
