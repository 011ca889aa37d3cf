//! `Queue` and `SimpleQueue`: `queue.Queue` and `queue.SimpleQueue` in every method, between threads and interpreters.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use std::time::Instant;

use multigil::control::AnyQueue;
use multigil::error::{GetError, PutError, WaitError};
use multigil::event::Patience;
use multigil::object::{Handle, Message};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::handle::{self, HandleObject};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;
use crate::wait::{self, Subject, Willing};
use crate::{batch, codec, errors};

type Object = HandleObject<Queue>;

#[inline(always)]
unsafe fn put(object: *mut ffi::PyObject, item: *mut ffi::PyObject, willing: Willing) -> Result<()> {
    let (state, queue) = Object::of(object);
    let mut message = Message::new(state.region, state.me);
    codec::encode(state, item, &mut message)?;
    match queue.put(&mut message, state.region, state.me, None) {
        Ok(()) => Ok(()),
        Err(PutError::Full) => put_waiting(state, queue, &mut message, willing),
        Err(error) => errors::put(state, error),
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
        |patience| queue.put(message, state.region, state.me, Some(patience)),
        |error| *error == PutError::Interrupted,
    )?;
    result.or_else(|error| errors::put(state, error))
}

#[inline(always)]
unsafe fn get(object: *mut ffi::PyObject, willing: Willing) -> Result<Owned> {
    match try_get(object, willing)? {
        Ok(item) => Ok(item),
        Err(error) => errors::get(Object::of(object).0, error),
    }
}

#[inline(always)]
unsafe fn try_get(object: *mut ffi::PyObject, willing: Willing) -> Result<core::result::Result<Owned, GetError>> {
    let (state, queue) = Object::of(object);
    let mut message = Message::new(state.region, state.me);
    let get = |message: &mut Message<'_>, patience: Option<&Patience<'_>>| {
        queue.get(message, state.region, state.me, patience)
    };
    match receive(state, queue, &mut message, &willing, get)? {
        Ok(()) => codec::decode(state, &message).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// Has `take` fill the message, waits for it if need be and the caller is willing, and prepares for a large one.
#[inline(always)]
pub(crate) unsafe fn receive(
    state: &State,
    queue: &Handle<'static, Queue>,
    message: &mut Message<'_>,
    willing: &Willing,
    mut take: impl FnMut(&mut Message<'_>, Option<&Patience<'_>>) -> core::result::Result<(), GetError>,
) -> Result<core::result::Result<(), GetError>> {
    loop {
        let result = match (take(message, None), willing) {
            (Err(GetError::Empty | GetError::Peeked), Willing::Until(deadline)) => {
                wait_for_item(state, queue, *deadline, |patience| take(message, Some(patience)))?
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
    take: impl FnMut(&Patience<'_>) -> core::result::Result<(), GetError>,
) -> Result<core::result::Result<(), GetError>> {
    wait::wait(state, Subject::of(queue), deadline, take, |error| *error == GetError::Interrupted)
}

/// Waits for somebody who is looking at the oldest item: to go past would be to take a later one first.
#[cold]
unsafe fn settle(state: &State, queue: &Handle<'static, Queue>) -> Result<()> {
    let settle = |patience: &Patience<'_>| queue.settle(state.region, patience);
    // Without a deadline there is no other error than the one that `wait` deals with.
    let _ = wait::wait(state, Subject::of(queue), None, settle, |error| *error == WaitError::Interrupted)?;
    Ok(())
}

unsafe extern "C" fn queue_put(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let arguments = Arguments::new(values, count, names);
        if let Some(item) = arguments.single() {
            return put(object, item, Willing::Until(None));
        }
        let [item, block, timeout] = arguments.parse("put", [c"item", c"block", c"timeout"], 1)?;
        let (state, queue) = Object::of(object);
        put(object, item, put_willing(state, queue, block, timeout)?)
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
        put(object, item, Willing::No)
    })
}

unsafe extern "C" fn put_nowait(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [item] = Arguments::new(values, count, names).parse("put_nowait", [c"item"], 1)?;
        put(object, item, Willing::No)
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
        if arguments.is_empty() {
            return get(object, Willing::Until(None));
        }
        let (_, _, willing) = parse_get(object, arguments, "get")?;
        get(object, willing)
    })
}

/// How long a call of `get` or the like is to wait.
unsafe fn parse_get<'a>(
    object: *mut ffi::PyObject,
    arguments: Arguments,
    function: &str,
) -> Result<(&'static State, &'a Handle<'static, Queue>, Willing)> {
    let [block, timeout] = arguments.parse(function, [c"block", c"timeout"], 0)?;
    let (state, queue) = Object::of(object);
    Ok((state, queue, get_willing(state, queue, block, timeout)?))
}

/// As the standard library's: a queue that is shut down and empty says so before it looks at the timeout.
pub(crate) unsafe fn get_willing(
    state: &State,
    queue: &Queue,
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
    queue: &Queue,
    block: *mut ffi::PyObject,
    timeout: *mut ffi::PyObject,
) -> Result<Willing> {
    if queue.is_shut_down() {
        return errors::put(state, PutError::ShutDown);
    }
    if queue.maxsize() > 0 { wait::queue_timeout(block, timeout) } else { Ok(Willing::No) }
}

unsafe extern "C" fn get_nowait(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| get(object, Willing::No))
}

/// `__next__`: waits for an item, and ends when the queue is shut down and empty.
unsafe extern "C" fn next(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // An error without an exception: that is the end.
    py::guard(|| try_get(object, Willing::Until(None))?.map_err(|_| Raised))
}

unsafe extern "C" fn peek(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let (state, queue, willing) = parse_get(object, Arguments::new(values, count, names), "peek")?;
        let mut copy = Message::new(state.region, state.me);
        let peek = |copy: &mut Message<'_>, patience: Option<&Patience<'_>>| {
            queue.peek(copy, state.region, state.me, patience)
        };
        match receive(state, queue, &mut copy, &willing, peek)? {
            Ok(()) => codec::decode(state, &copy),
            Err(error) => errors::get(state, error),
        }
    })
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let (state, queue) = Object::of(object);
        let clear = |patience: &Patience<'_>| queue.clear(state.region, state.me, patience);
        // Without a deadline there is no other error than the one that `wait` deals with.
        let _ = wait::wait(state, Subject::of(queue), None, clear, |error| *error == WaitError::Interrupted)?;
        Ok(())
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
    py::guard(|| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(Object::of(object).1.len())))
}

unsafe extern "C" fn empty(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(Object::of(object).1.is_empty()))
}

unsafe extern "C" fn full(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(Object::of(object).1.is_full()))
}

unsafe extern "C" fn task_done(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let (state, queue) = Object::of(object);
        queue.task_done(state.region).or_else(|error| raise(ffi::PyExc_ValueError, &error.to_string()))
    })
}

unsafe extern "C" fn join(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let (state, queue) = Object::of(object);
        if queue.unfinished() != 0 {
            // Without a deadline there is no other error than the one that `wait` deals with.
            let _ = wait::wait(
                state,
                Subject::of(queue),
                None,
                |patience| queue.join(state.region, patience),
                |error| *error == WaitError::Interrupted,
            )?;
        }
        Ok(())
    })
}

unsafe extern "C" fn shutdown(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [immediate] = Arguments::new(values, count, names).parse("shutdown", [c"immediate"], 0)?;
        let immediate = py::truth(immediate, false)?;
        let (state, queue) = Object::of(object);
        queue.shut_down(immediate, state.region, state.me);
        Ok(())
    })
}

unsafe extern "C" fn get_maxsize(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromLongLong(Object::of(object).1.maxsize())))
}

unsafe extern "C" fn set_maxsize(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_AttributeError, "maxsize can't be deleted");
        }
        let (state, queue) = Object::of(object);
        queue.set_maxsize(size(value)?, state.region);
        Ok(())
    })
}

unsafe extern "C" fn get_unfinished(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(Object::of(object).1.unfinished())))
}

unsafe extern "C" fn get_is_shutdown(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(Object::of(object).1.is_shut_down()))
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

unsafe fn create(class: *mut ffi::PyTypeObject, maxsize: i64) -> Result<Owned> {
    let state: &'static State = crate::state_of_type(class)?;
    match state.region.create_queue(state.me, maxsize) {
        Ok(handle) => handle::wrap(state, class, handle, None),
        Err(error) => errors::out_of_memory(error),
    }
}

/// The arguments are `initialize_queue`'s business: a subclass may have others.
unsafe extern "C" fn new_queue(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| create(class, 0))
}

unsafe extern "C" fn initialize_queue(
    object: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    py::guard_status(|| {
        let maxsize = py::with_arguments(arguments, keywords, |arguments| {
            let [maxsize] = arguments.parse("Queue", [c"maxsize"], 0)?;
            if maxsize.is_null() { Ok(0) } else { size(maxsize) }
        })?;
        let (state, queue) = Object::of(object);
        queue.set_maxsize(maxsize, state.region);
        Ok(())
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
        create(class, 0)
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
Take the oldest item out of the queue.\n\n\
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
All are pickled before the first is put: whatever iterating or pickling raises, nothing was put then. block and timeout\n\
are as for put(), timeout for all of them together. The exception that ends the call later has the attribute count, how\n\
many were put (Full, ShutDown, MemoryError, and whatever a signal handler raises): go on with items[error.count:].",
);
const GET_MANY: ffi::PyMethodDef = py::method_fast(
    c"get_many",
    batch::get_many,
    c"get_many($self, count=None, block=True, timeout=None)\n--\n\n\
Wait for an item as get() does, and return it in a list with all that are there, or up to count.\n\n\
Those who wait for a place are woken once. Raises Empty and ShutDown as get() does, if there is not even one item. If an\n\
item can't be unpickled, the exception has the attribute items, a list of those taken before it; those after it stay in\n\
the queue.",
);
const PEEK: ffi::PyMethodDef = py::method_fast(
    c"peek",
    peek,
    c"peek($self, block=True, timeout=None)\n--\n\n\
Return the oldest item, or rather a copy of it, and leave it in the queue. Waits and raises as get() does.",
);
const CLEAR: ffi::PyMethodDef = py::method_no_args(
    c"clear",
    clear,
    c"clear($self)\n--\n\nThrow away all items that are there now. Each counts as done.",
);
const REDUCE: ffi::PyMethodDef =
    py::method_no_args(c"__reduce__", handle::reduce::<Queue>, c"Pickle the queue by its id.");

static mut QUEUE_METHODS: [ffi::PyMethodDef; 19] = [
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
    REDUCE,
    py::CLASS_GET_ITEM,
    py::METHODS_END,
];

static mut SIMPLE_QUEUE_METHODS: [ffi::PyMethodDef; 13] = [
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
    REDUCE,
    py::CLASS_GET_ITEM,
    py::METHODS_END,
];

static mut QUEUE_ATTRIBUTES: [ffi::PyGetSetDef; 4] = [
    ffi::PyGetSetDef {
        name: c"maxsize".as_ptr(),
        get: Some(get_maxsize),
        set: Some(set_maxsize),
        doc: c"The most items that the queue holds; 0 for any number. May be changed while the queue is in use."
            .as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: c"unfinished_tasks".as_ptr(),
        get: Some(get_unfinished),
        set: None,
        doc: c"How many items were put and not reported done.".as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: c"is_shutdown".as_ptr(),
        get: Some(get_is_shutdown),
        set: None,
        doc: c"Whether shutdown() was called.".as_ptr(),
        closure: null_mut(),
    },
    py::ATTRIBUTES_END,
];

/// Makes the type `Queue`.
pub(crate) unsafe fn make_queue_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Queue(maxsize=0)\n--\n\n\
A first-in, first-out queue shared by threads and interpreters; queue.Queue in every method.\n\n\
maxsize is the most items that it holds; 0 or less for any number. Items are copied: exact int, float, str, bytes, bool\n\
and None as they are, anything else by pickle. A queue may be sent to other interpreters, in items and as an argument.";
    let initialize = ffi::PyType_Slot { slot: ffi::Py_tp_init, pfunc: initialize_queue as *mut c_void };
    handle::make_type::<Queue>(
        module,
        c"multigil.Queue",
        doc,
        new_queue,
        (&raw mut QUEUE_METHODS).cast(),
        (&raw mut QUEUE_ATTRIBUTES).cast(),
        &[initialize, ITERATE, NEXT],
    )
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
