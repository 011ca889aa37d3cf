//! The tasks of pools: queues of numbered messages, and who has begun with what.
//!
//! Each task that was sent and has no outcome yet has a *ticket*: a word of an array that its pool and all of its
//! workers share. The low bits of a task's number are its ticket's place. The word says what has become of the task, and
//! whoever changes it by compare-and-swap decides:
//!
//! ```text
//!              sent                      a worker begins
//!   anything ───────→ the task's number ─────────────────→ BEGUN │ worker │ which of that worker's tasks it is
//!                          │   cancelled
//!                          └──────────────→ 0              the message that is still in the queue is passed over
//! ```
//!
//! A number is never used again, so a message that was passed over, or comes twice, never begins another task than its own.
//!
//! The array has two more elements. One counts how often the pool's settings have changed (`sys.path`, the environment): a
//! worker that has not heard of the last change yet does so before the next task. The other one counts the tasks that can
//! be split: as long as there are any, a worker says so when it has had nothing to do for a while, again and again.

use core::time::Duration;
use std::time::Instant;

use multigil::control::AnyQueue;
use multigil::error::GetError;
use multigil::layout::ObjectKind;
use multigil::object::{Handle, Message};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::atomics;
use crate::handle::HandleObject;
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::queue::{self, Kind};
use crate::state::State;
use crate::wait::{self, NO_TASK, Willing};
use crate::{codec, errors};

/// How many bits of a number are the ticket's place. `_pool.py` has the same numbers.
const TICKET_BITS: u32 = 16;
/// The elements after the tickets.
const CHANGES: usize = 1 << TICKET_BITS;
const SPLITTABLE: usize = CHANGES + 1;
/// A worker has begun with the task. Below it are the worker's index, of 15 bits, and its count of tasks.
const BEGUN: u64 = 1 << 63;
const WORKER_SHIFT: u32 = 48;
const MOST_WORKERS: u64 = 1 << 15;

/// After how long a worker says that it has nothing to do, at first and at last. A task that is split sooner would
/// have been done by then.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// How long an outcome is waited for by looking for it, while other processors are idle: as long as it takes to wake a
/// worker that sleeps, twice. To be woken by that worker would take as long again.
const LONG_SPIN: Duration = Duration::from_micros(200);
/// The news that a worker has nothing to do.
const IDLE: u64 = 1 << 61 | 1 << 35;

/// The queue behind an object, if it is one of the process's own region that numbered messages go through.
pub(crate) unsafe fn queue<'a>(
    state: &'static State,
    object: *mut ffi::PyObject,
) -> Result<&'a Handle<'static, Queue>> {
    let class = state.object(&state.objects.queue_type)?;
    if ffi::PyObject_TypeCheck(object, class.as_ptr().cast()) == 0
        || HandleObject::<Queue>::kind(object) != Some(ObjectKind::Queue)
    {
        return raise(ffi::PyExc_TypeError, "a Queue is needed");
    }
    let queue = HandleObject::<Queue>::of(object).1;
    if !state.is_home(queue.region()) {
        return raise(ffi::PyExc_ValueError, "a Queue of this process's region is needed");
    }
    Ok(queue)
}

/// `put_numbered(queue, number, item)`
pub(crate) unsafe extern "C" fn put_numbered(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let [object, number, item] =
            Arguments::new(values, count, names).parse("put_numbered", [c"queue", c"number", c"item"], 3)?;
        let state = crate::state_of_module(module);
        let queue = queue(state, object)?;
        let mut message = Message::new(queue.region(), queue.owner());
        codec::encode_numbered(state, py::unsigned(number)?, item, &mut message)?;
        let length = message.length();
        match queue.put(&mut message, queue.region(), queue.owner(), None) {
            Ok(()) => Owned::from_raw(ffi::PyLong_FromSize_t(length)),
            Err(error) => errors::put(state, error),
        }
    })
}

/// `take_outcomes(results, keep, block, timeout, spin)`
pub(crate) unsafe extern "C" fn take_outcomes(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let parameters = [c"results", c"keep", c"block", c"timeout", c"spin"];
        let [results, keep, block, timeout, spin] =
            Arguments::new(values, count, names).parse("take_outcomes", parameters, 5)?;
        let state = crate::state_of_module(module);
        let results = queue(state, results)?;
        let willing = wait::queue_timeout(block, timeout)?;
        let spin = if py::truth(spin, true)? { LONG_SPIN } else { Duration::ZERO };
        let list = Owned::from_raw(ffi::PyList_New(0))?;
        let taken = take_all(state, results, &willing, spin, &list);
        py::finally(taken, || Owned::from_borrowed(keep).call(&[list.as_ptr()]).map(drop))
    })
}

/// Appends what there is to the list, at least one.
unsafe fn take_all(
    state: &'static State,
    results: &Handle<'static, Queue>,
    willing: &Willing,
    spin: Duration,
    list: &Owned,
) -> Result<()> {
    let there = results.len().max(1);
    for taken in 0..there {
        let mut message = Message::new(results.region(), results.owner());
        let willing = if taken == 0 { willing } else { &Willing::No };
        let received = queue::receive(state, results, &mut message, willing, spin, |message, patience| {
            results.get(message, results.region(), results.owner(), patience)
        })?;
        match received {
            Ok(()) => {
                let outcome = codec::decode(state, results, &message)?;
                py::check(ffi::PyList_Append(list.as_ptr(), outcome.as_ptr()))?;
            }
            Err(_) if taken > 0 => break,
            Err(error) => return errors::get(state, error),
        }
    }
    Ok(())
}

/// `perform_next(tasks, results, tickets, worker, count, changes, refresh, functions)`
pub(crate) unsafe extern "C" fn perform_next(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let parameters = [c"tasks", c"results", c"tickets", c"worker", c"count", c"changes", c"refresh", c"functions"];
        let [tasks, results, tickets, worker, count, changes, refresh, functions] =
            Arguments::new(values, count, names).parse("perform_next", parameters, 8)?;
        let state = crate::state_of_module(module);
        let (tasks, results) = (queue(state, tasks)?, queue(state, results)?);
        let class = state.object(&state.objects.array_type)?;
        if ffi::PyObject_TypeCheck(tickets, class.as_ptr().cast()) == 0 {
            return raise(ffi::PyExc_TypeError, "an Array is needed");
        }
        let tickets = atomics::Object::of(tickets).1;
        let (worker, count, changes) = (py::unsigned(worker)?, py::unsigned(count)?, py::unsigned(changes)?);
        if worker >= MOST_WORKERS || count >> WORKER_SHIFT != 0 {
            return raise(ffi::PyExc_ValueError, "no such worker, or no such task");
        }
        let mut message = Message::new(tasks.region(), tasks.owner());
        let is_splittable = || tickets.element(SPLITTABLE).is_some_and(|word| word.load() != 0);
        let mut pause = FIRST_PAUSE;
        loop {
            // Whoever makes tasks that can be split wakes all workers that sleep for ever.
            let deadline = is_splittable().then(|| Instant::now() + pause);
            // Nothing but the worker's termination ends this wait.
            let wait = || <Queue as Kind>::get(state, tasks, &mut message, &Willing::Until(deadline));
            match wait::expose(state, NO_TASK, wait)? {
                Ok(()) => break,
                Err(GetError::Empty) if deadline.is_some() => {
                    codec::put_number(results, IDLE | worker);
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(GetError::ShutDown) => return Ok(Owned::none()),
                Err(error) => return errors::get(state, error),
            }
        }
        let Some(number) = codec::number(&message) else {
            return errors::corrupt(state, "a pool's task has no number");
        };
        if tickets.element(CHANGES).is_some_and(|word| word.load() != changes) {
            Owned::from_borrowed(refresh).call(&[])?;
        }
        let begun = BEGUN | worker << WORKER_SHIFT | count;
        let word = tickets.element((number & ((1 << TICKET_BITS) - 1)) as usize);
        if !word.is_some_and(|word| word.compare_exchange(number, begun)) {
            return Owned::from_raw(ffi::PyTuple_New(0));
        }
        let result = wait::expose(state, count, || call(state, &codec::decode_object(state, &message)?, functions));
        drop(message);
        outcome(state, number, result)
    })
}

/// Makes the call (callable, args, kwargs); bytes stand for the callable that `functions` has for them.
unsafe fn call(state: &State, call: &Owned, functions: *mut ffi::PyObject) -> Result<Owned> {
    let class = &raw mut ffi::PyTuple_Type;
    let is_tuple = ffi::Py_TYPE(call.as_ptr()) == class && ffi::PyTuple_Size(call.as_ptr()) == 3;
    let part = |place| ffi::PyTuple_GetItem(call.as_ptr(), place); // borrowed
    if !is_tuple || ffi::PyTuple_Check(part(1)) == 0 || ffi::PyDict_Check(part(2)) == 0 {
        return errors::corrupt(state, "a pool's task is no call");
    }
    if ffi::PyBytes_CheckExact(part(0)) == 0 {
        return Owned::from_raw(ffi::PyObject_Call(part(0), part(1), part(2)));
    }
    let function = Owned::from_raw(ffi::PyObject_GetItem(functions, part(0)))?;
    Owned::from_raw(ffi::PyObject_Call(function.as_ptr(), part(1), part(2)))
}

/// `(number, result, error)`. Termination has no outcome.
unsafe fn outcome(state: &State, number: u64, result: Result<Owned>) -> Result<Owned> {
    let (result, error) = match result {
        Ok(result) => (result, Owned::none()),
        Err(Raised) => {
            let terminated = state.object(&state.objects.interpreter_terminated)?;
            if ffi::PyErr_ExceptionMatches(terminated.as_ptr()) != 0 {
                return Err(Raised);
            }
            (Owned::none(), Owned::from_raw(ffi::PyErr_GetRaisedException())?)
        }
    };
    let number = Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(number))?;
    Owned::from_raw(ffi::PyTuple_Pack(3, number.as_ptr(), result.as_ptr(), error.as_ptr()))
}
